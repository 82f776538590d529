import pytest
import torch
from helpers.models import EXAMPLES, MODEL_ZOO, ModelCase, classifier_case, images
from torch import Tensor, nn

from raysearch.distributed import ProcessGroup
from raysearch.gradients import parameter_jacobian
from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.factors import OuterProductFactor, Workspace
from raysearch.gradients.jacobian import ExplicitJacobian, FactoredJacobian, explicit_jacobian, factored_jacobian
from raysearch.gradients.parameter_jacobian import ParameterJacobian


@pytest.fixture(params=MODEL_ZOO)
def model_case(request: pytest.FixtureRequest) -> ModelCase:
    torch.manual_seed(0)
    return MODEL_ZOO[request.param]()


def jacobians(model_case: ModelCase, micro_batches: int = 1) -> tuple[FactoredJacobian, ExplicitJacobian, LayerCapture]:
    parameters, examples = list(model_case.model.parameters()), torch.arange(EXAMPLES)
    capture = LayerCapture(model_case.model, parameters)
    J = factored_jacobian(model_case.losses, examples, capture, ProcessGroup(), micro_batches, check=1e-9)
    return J, explicit_jacobian(model_case.losses, examples, parameters, coupled=False), capture


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("chunk_size", [1, 1 << 23])
def test_factored_jacobian_equals_backward_per_example(
    model_case: ModelCase, micro_batches: int, chunk_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_jacobian, "CHUNK_SIZE", chunk_size)
    J, reference, capture = jacobians(model_case, micro_batches)
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(2, reference.J.shape[1], generator=generator, dtype=torch.float64)
    expected_products = reference.inner_products(list(directions))
    for actual, expected in zip(J.inner_products(list(directions)), expected_products, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for count in (1, 4):
        weights = torch.randn(count, EXAMPLES, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(J.combine(weights), reference.combine(weights), rtol=1e-10, atol=1e-12)
    assert set(capture.slow_modules.values()) == model_case.slow


def test_products_by_positions_equal_products_by_gradients() -> None:
    generator = torch.Generator().manual_seed(0)

    def jacobian(left: Tensor, right: Tensor) -> ParameterJacobian:
        shape = (left.shape[2], right.shape[2])
        return ParameterJacobian(shape, ((OuterProductFactor(left, right),),), (len(left),))

    left, right = (torch.randn(4, 1, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    directions = list(torch.randn(2, 1600, generator=generator, dtype=torch.float64).view(2, 40, 40))
    one_position = jacobian(left, right)
    assert one_position._factors_for_position_products()
    sixty_positions = jacobian(left.repeat(1, 60, 1), right.repeat(1, 60, 1))  # sixty times the same
    assert not sixty_positions._factors_for_position_products()
    of_one = one_position.inner_products(directions, Workspace())
    of_sixty = sixty_positions.inner_products(directions, Workspace())
    for one, sixty, power in zip(of_one, of_sixty, (2, 1), strict=True):
        torch.testing.assert_close(one * 60**power, sixty)


def test_batch_norm_in_training_mode_raises() -> None:
    model_case = classifier_case(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)), images(3, 6)
    )
    with pytest.raises(ValueError, match="BatchNorm in training mode mixes the examples"):
        jacobians(model_case)


class SharedWeight(nn.Module):
    """A module that also uses a child's weight without calling the child."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) @ self.inner.weight[:3].T


def test_wrong_layer_gradient_raises_naming_the_layer() -> None:
    model_case = classifier_case(SharedWeight(), images(1, 5)[:, 0, 0])
    message = r"inner \(Linear\): the examples' gradients do not add up .* engine: backward"
    with pytest.raises(ValueError, match=message):
        jacobians(model_case)


def test_reentrant_checkpointing_raises() -> None:
    model_case = MODEL_ZOO["bert_sdpa"]()
    model_case.model.body.activation_checkpointing_enable({"use_reentrant": True})
    model_case.model.body.enable_input_require_grads()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        jacobians(model_case)


class NoReduction(ProcessGroup):
    """A rank whose sums hold its own values only."""

    def sum(self, value: Tensor) -> Tensor:
        return value


def test_layer_products_split_over_ranks_sum_to_the_whole() -> None:
    torch.manual_seed(0)
    J, reference, _ = jacobians(MODEL_ZOO["bert_sdpa"]())
    directions = list(torch.randn(2, reference.J.shape[1], dtype=torch.float64))
    products_of_ranks = [
        FactoredJacobian(J.parameters, J.m, NoReduction(rank=rank, world=3)).inner_products(directions)
        for rank in range(3)
    ]
    expected_products = reference.inner_products(directions)
    for actual, expected in zip(zip(*products_of_ranks, strict=True), expected_products, strict=True):
        torch.testing.assert_close(sum(actual), expected)
