import pytest
import torch
from helpers.models import MODEL_ZOO, ROWS, ModelCase, classifier_case, images
from torch import Tensor, nn

from raysearch.distributed import ProcessGroup
from raysearch.gradients import factors, parameter_jacobian
from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.jacobian import ExplicitJacobian, FactoredJacobian, explicit_jacobian, factored_jacobian


@pytest.fixture(params=MODEL_ZOO)
def model_case(request: pytest.FixtureRequest) -> ModelCase:
    torch.manual_seed(0)
    return MODEL_ZOO[request.param]()


def jacobians(model_case: ModelCase, micro_batches: int = 1) -> tuple[FactoredJacobian, ExplicitJacobian, LayerCapture]:
    parameters, rows = list(model_case.model.parameters()), torch.arange(ROWS)
    capture = LayerCapture(model_case.model, parameters)
    J = factored_jacobian(model_case.losses, rows, capture, ProcessGroup(), micro_batches, check=1e-9)
    return J, explicit_jacobian(model_case.losses, rows, parameters, coupled=False), capture


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("budget", [1, 1 << 23])
def test_factored_jacobian_equals_backward_per_example(
    model_case: ModelCase, micro_batches: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_jacobian, "CHUNK_SIZE", budget)
    J, plain, capture = jacobians(model_case, micro_batches)
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(2, plain.J.shape[1], generator=generator, dtype=torch.float64)
    for actual, expected in zip(J.inner_products(list(v)), plain.inner_products(list(v)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for count in (1, 4):
        weights = torch.randn(count, ROWS, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(J.combine(weights), plain.combine(weights), rtol=1e-10, atol=1e-12)
    assert set(capture.slow_modules.values()) == model_case.slow


def test_products_by_positions_equal_products_by_gradients() -> None:
    generator = torch.Generator().manual_seed(0)

    def layer(x: Tensor, y: Tensor) -> parameter_jacobian.ParameterJacobian:
        return parameter_jacobian.ParameterJacobian(
            (x.shape[2], y.shape[2]), ((factors.OuterProductFactor(x, y),),), (len(x),)
        )

    x, y = (torch.randn(4, 1, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(2, 1600, generator=generator, dtype=torch.float64)
    matrices = list(v.view(2, 40, 40))
    short = layer(x, y)
    assert short._factors_for_position_products()
    long = layer(x.repeat(1, 60, 1), y.repeat(1, 60, 1))  # sixty times the same
    assert not long._factors_for_position_products()
    for one, sixty, power in zip(
        short.inner_products(matrices, factors.Workspace()),
        long.inner_products(matrices, factors.Workspace()),
        (2, 1),
        strict=True,
    ):
        torch.testing.assert_close(one * 60**power, sixty)


def test_batch_norm_in_training_mode_raises() -> None:
    model_case = classifier_case(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)), images(3, 6)
    )
    with pytest.raises(ValueError, match="BatchNorm in training mode mixes the examples"):
        jacobians(model_case)


class SharedWeight(nn.Module):
    """Uses a child's weight behind its back as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) @ self.inner.weight[:3].T


def test_wrong_layer_gradient_raises_naming_the_layer() -> None:
    model_case = classifier_case(SharedWeight(), images(1, 5)[:, 0, 0])
    with pytest.raises(
        ValueError, match=r"inner \(Linear\): the examples' gradients do not add up .* engine: backward"
    ):
        jacobians(model_case)


def test_reentrant_checkpointing_raises() -> None:
    model_case = MODEL_ZOO["bert_sdpa"]()
    model_case.model.body.activation_checkpointing_enable({"use_reentrant": True})
    model_case.model.body.enable_input_require_grads()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        jacobians(model_case)


def test_layer_products_split_over_ranks_sum_to_the_whole() -> None:
    torch.manual_seed(0)
    J, plain, _ = jacobians(MODEL_ZOO["bert_sdpa"]())
    v = torch.randn(2, plain.J.shape[1], dtype=torch.float64)
    parts = []
    for rank in range(3):

        class NoReduction(ProcessGroup):
            def sum(self, value: Tensor) -> Tensor:
                return value

        parts.append(FactoredJacobian(J.parameters, J.m, NoReduction(rank=rank, world=3)).inner_products(list(v)))
    for actual, expected in zip(zip(*parts, strict=True), plain.inner_products(list(v)), strict=True):
        torch.testing.assert_close(sum(actual), expected)
