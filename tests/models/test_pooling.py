import pytest
import torch
from torch import Tensor

from raysearch.models.pooling import PooledClassifier, normalise, pool


def hidden() -> tuple[Tensor, Tensor]:
    states = torch.tensor([[[1.0, 4.0], [3.0, -2.0], [9.0, 9.0]], [[-1.0, 0.0], [-5.0, 2.0], [-3.0, 1.0]]])
    return states, torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("first", [[1.0, 4.0], [-1.0, 0.0]]),
        ("mean", [[2.0, 1.0], [-3.0, 1.0]]),
        ("max", [[3.0, 4.0], [-1.0, 2.0]]),
    ],
)
def test_pooling_reads_the_real_positions_alone(pooling: str, expected: list[list[float]]) -> None:
    states, real = hidden()
    torch.testing.assert_close(pool(states, real, pooling), torch.tensor(expected))


@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_padding_gets_no_gradient_and_has_no_effect(pooling: str) -> None:
    states, real = hidden()
    states.requires_grad_()
    vectors = pool(states, real, pooling)
    (gradient,) = torch.autograd.grad(vectors.sum(), states)
    assert torch.equal(gradient[~real], torch.zeros(1, 2))
    changed = torch.where(real[..., None], states, 1e6)
    torch.testing.assert_close(pool(changed, real, pooling), vectors)
    torch.testing.assert_close(pool(states[1:], None, pooling), vectors[1:])


def test_normalised_vectors_have_mean_square_one() -> None:
    vectors = normalise(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(vectors.square().mean(dim=1), torch.ones(5))


def test_pooled_classifier_is_linear_in_the_vectors() -> None:
    states, real = hidden()
    head = PooledClassifier(2, 3, "mean", dropout=0.0)
    expected = pool(states, real, "mean") @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(states, real), expected)
