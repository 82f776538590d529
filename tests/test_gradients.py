import pytest
import torch
from torch import Tensor, nn
from zoo import ROWS, ZOO, Animal, classified, images

from raysearch.distributed import Ranks
from raysearch.gradients import factors
from raysearch.gradients.capture import Capture
from raysearch.gradients.jacobian import Explicit, Factored, explicit, factored


@pytest.fixture(params=ZOO)
def animal(request: pytest.FixtureRequest) -> Animal:
    torch.manual_seed(0)
    return ZOO[request.param]()


def jacobians(animal: Animal, micro_batches: int = 1) -> tuple[Factored, Explicit, Capture]:
    parameters, rows = list(animal.model.parameters()), torch.arange(ROWS)
    capture = Capture(animal.model, parameters)
    J = factored(animal.losses, rows, capture, Ranks(), micro_batches, check=1e-9)
    return J, explicit(animal.losses, rows, parameters, coupled=False), capture


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("budget", [1, 1 << 23])
def test_factors_give_what_a_backward_for_each_row_gives(
    animal: Animal, micro_batches: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factors, "BUDGET", budget)
    J, plain, capture = jacobians(animal, micro_batches)
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(2, plain.J.shape[1], generator=generator, dtype=torch.float64)
    for found, expected in zip(J.products(list(v)), plain.products(list(v)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for count in (1, 4):
        weights = torch.randn(count, ROWS, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(J.combine(weights), plain.combine(weights), rtol=1e-10, atol=1e-12)
    assert set(capture.slow.values()) == animal.slow


def test_products_of_positions_and_of_gradients_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)

    def layer(x: Tensor, y: Tensor) -> factors.Layer:
        return factors.Layer((x.shape[2], y.shape[2]), ((factors.Outer(x, y),),), (len(x),))

    x, y = (torch.randn(4, 1, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(2, 1600, generator=generator, dtype=torch.float64)
    matrices = list(v.view(2, 40, 40))
    short = layer(x, y)
    assert short._by_positions()
    long = layer(x.repeat(1, 60, 1), y.repeat(1, 60, 1))  # sixty times the same
    assert not long._by_positions()
    for one, sixty, power in zip(
        short.products(matrices, factors.Room()), long.products(matrices, factors.Room()), (2, 1), strict=True
    ):
        torch.testing.assert_close(one * 60**power, sixty)


def test_batch_norm_that_learns_is_refused() -> None:
    animal = classified(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)), images(3, 6)
    )
    with pytest.raises(ValueError, match="BatchNorm in training mode mixes the rows"):
        jacobians(animal)


class Borrowed(nn.Module):
    """Uses a child's weight behind its back as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) @ self.inner.weight[:3].T


def test_a_gradient_that_is_not_the_plain_one_is_refused_with_its_layer() -> None:
    animal = classified(Borrowed(), images(1, 5)[:, 0, 0])
    with pytest.raises(ValueError, match=r"inner \(Linear\): rows' gradients do not add up .* engine: backward"):
        jacobians(animal)


def test_reentrant_checkpointing_is_refused() -> None:
    animal = ZOO["bert_sdpa"]()
    animal.model.body.activation_checkpointing_enable({"use_reentrant": True})
    animal.model.body.enable_input_require_grads()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        jacobians(animal)


def test_ranks_share_layers_and_come_to_one_sum() -> None:
    torch.manual_seed(0)
    J, plain, _ = jacobians(ZOO["bert_sdpa"]())
    v = torch.randn(2, plain.J.shape[1], dtype=torch.float64)
    parts = []
    for rank in range(3):

        class Alone(Ranks):
            def sum(self, value: Tensor) -> Tensor:
                return value

        parts.append(Factored(J.layers, J.m, Alone(rank=rank, world=3)).products(list(v)))
    for found, expected in zip(zip(*parts, strict=True), plain.products(list(v)), strict=True):
        torch.testing.assert_close(sum(found), expected)
