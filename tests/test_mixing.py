import math

import pytest
import torch
from torch import Tensor

from raysearch.methods.weighting.merge_search import black_box, descent, greedy, line, newton

Quadratic = tuple[Tensor, Tensor, Tensor]  # D (N, B), H (N, N), g (N,): L(alpha) = g.x + x.H x / 2 at x = D alpha


def quadratic(seed: int, count: int = 3, size: int = 12) -> Quadratic:
    chance = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=chance, dtype=torch.float64)
    deltas = torch.randn(size, count, generator=chance, dtype=torch.float64)
    return deltas, root @ root.T / size, torch.randn(size, generator=chance, dtype=torch.float64)


def loss_of(problem: Quadratic, alphas: Tensor) -> tuple[float, Tensor]:
    deltas, hessian, g = problem
    x = deltas @ alphas
    return float(g @ x + x @ hessian @ x / 2), deltas.T @ (g + hessian @ x)


def minimum(problem: Quadratic) -> Tensor:
    deltas, hessian, g = problem
    return -torch.linalg.solve(deltas.T @ hessian @ deltas, deltas.T @ g)


@pytest.mark.parametrize("seed", range(5))
def test_newton_finds_the_minimum_of_a_quadratic(seed: int) -> None:
    problem = quadratic(seed)
    found = newton(lambda alphas: loss_of(problem, alphas), 3)
    assert torch.allclose(found, minimum(problem), atol=1e-8)


def test_newton_goes_no_farther_than_its_reach_and_never_up() -> None:
    problem = quadratic(0)
    found = newton(lambda alphas: loss_of(problem, alphas), 3, 0.1)
    assert float((found - 1).abs().max()) == pytest.approx(0.1)
    assert loss_of(problem, found)[0] < loss_of(problem, torch.ones(3, dtype=torch.float64))[0]


def test_newton_leads_down_where_the_curvature_is_negative() -> None:
    def saddle(alphas: Tensor) -> tuple[float, Tensor]:
        a, b = alphas.tolist()
        return a**2 - b**2, torch.tensor([2 * a, -2 * b], dtype=torch.float64)

    a, b = newton(saddle, 2, 1.0).tolist()
    assert (a, b) == pytest.approx((0.0, 2.0))


def test_newton_stays_where_nothing_changes_the_loss() -> None:
    assert newton(lambda alphas: (1.0, 0 * alphas), 2).tolist() == [1.0, 1.0]


def test_descent_takes_the_steps_of_plain_gradient_descent() -> None:
    problem, seen = quadratic(1), []

    def gradient(alphas: Tensor, step: int) -> Tensor:
        seen.append(step)
        return loss_of(problem, alphas)[1]

    by_hand = torch.ones(3, dtype=torch.float64)
    for _ in range(4):
        by_hand = by_hand - 0.01 * loss_of(problem, by_hand)[1]
    assert torch.equal(descent(gradient, 3, 4, 0.01), by_hand)
    assert seen == [0, 1, 2, 3]
    many = descent(gradient, 3, 4000, 0.02)
    assert torch.allclose(many, minimum(problem), atol=1e-3)


def test_a_black_box_comes_near_the_minimum_without_gradients() -> None:
    problem = quadratic(2, count=2)
    found = black_box(lambda alphas: loss_of(problem, alphas)[0], 2, 60, 50.0)
    assert torch.allclose(found, minimum(problem), atol=1e-2)


@pytest.mark.parametrize("points", [0, 1, 5])
def test_a_black_box_is_never_worse_than_at_one(points: int) -> None:
    problem = quadratic(3)
    found = black_box(lambda alphas: loss_of(problem, alphas)[0], 3, points, 2.0)
    assert loss_of(problem, found)[0] <= loss_of(problem, torch.ones(3, dtype=torch.float64))[0]


def test_a_line_is_searched_on_the_grid_of_the_paper() -> None:
    tried = []

    def score(alphas: Tensor) -> tuple[float, float]:
        tried.append(float(alphas[1]))
        return -abs(float(alphas[1]) - 0.45), 0.0

    assert line(score, 2, 5).tolist() == pytest.approx([0.6, 0.4])
    assert tried == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def plain_greedy(thetas: list[Tensor], performance: object, points: int) -> Tensor:
    """Algorithm 3 as printed, on parameters; returns the merged ones."""
    assert callable(performance)
    ranked = sorted(thetas, key=performance, reverse=True)
    coefficients = [1.0]
    for b in range(2, len(ranked) + 1):
        upper = sum(coefficients) / (b - 1)
        grid = [upper * i / points for i in range(points + 1)]

        def merged(value: float, before: tuple[float, ...] = tuple(coefficients), b: int = b) -> Tensor:
            whole = (*before, value)
            return sum((c * t for c, t in zip(whole, ranked[:b], strict=True)), torch.zeros(())) / sum(whole)

        coefficients.append(max(grid, key=lambda value: performance(merged(value))))
    total = sum(coefficients)
    return sum((c / total * t for c, t in zip(coefficients, ranked, strict=True)), torch.zeros(()))


@pytest.mark.parametrize("seed", range(6))
def test_greedy_merges_as_the_printed_algorithm_does(seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    thetas = list(torch.randn(4, 6, generator=chance, dtype=torch.float64))
    goal = torch.randn(6, generator=chance, dtype=torch.float64) / 2

    def performance(theta: Tensor) -> float:
        return -float((theta - goal).square().sum())

    found = greedy(lambda alphas: (performance(alphas @ torch.stack(thetas)), 0.0), 4, 5)
    assert float(found.sum()) == pytest.approx(1)
    assert torch.allclose(found @ torch.stack(thetas), plain_greedy(thetas, performance, 5))
    assert performance(found @ torch.stack(thetas)) >= max(map(performance, thetas))


def test_greedy_takes_nothing_of_a_branch_that_only_harms() -> None:
    values = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    found = greedy(lambda alphas: (float(alphas @ values), 0.0), 3, 5)
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_equal_scores_are_decided_by_the_loss() -> None:
    found = greedy(lambda alphas: (0.5, -math.dist(alphas.tolist(), [0.5, 0.5, 0.0])), 3, 2)
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert line(lambda alphas: (0.5, float(alphas[1])), 2, 4).tolist() == [0.0, 1.0]
