import math

import pytest
import torch
from torch import Tensor

from raysearch.methods.weighting.merge_search import (
    gradient_descent,
    greedy_search,
    line_search,
    nelder_mead,
    newton_step,
)

Quadratic = tuple[Tensor, Tensor, Tensor]  # D (N, B), H (N, N), g (N,): L(alpha) = g.x + x.H x / 2 at x = D alpha


def quadratic(seed: int, count: int = 3, size: int = 12) -> Quadratic:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    deltas = torch.randn(size, count, generator=generator, dtype=torch.float64)
    return deltas, root @ root.T / size, torch.randn(size, generator=generator, dtype=torch.float64)


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
    solution = newton_step(lambda alphas: loss_of(problem, alphas), 3)
    assert torch.allclose(solution, minimum(problem), atol=1e-8)


def test_newton_step_is_bounded_and_decreases_the_loss() -> None:
    problem = quadratic(0)
    solution = newton_step(lambda alphas: loss_of(problem, alphas), 3, 0.1)
    assert float((solution - 1).abs().max()) == pytest.approx(0.1)
    assert loss_of(problem, solution)[0] < loss_of(problem, torch.ones(3, dtype=torch.float64))[0]


def test_newton_descends_along_negative_curvature() -> None:
    def saddle(alphas: Tensor) -> tuple[float, Tensor]:
        a, b = alphas.tolist()
        return a**2 - b**2, torch.tensor([2 * a, -2 * b], dtype=torch.float64)

    a, b = newton_step(saddle, 2, 1.0).tolist()
    assert (a, b) == pytest.approx((0.0, 2.0))


def test_newton_with_zero_gradient_stays_at_one() -> None:
    assert newton_step(lambda alphas: (1.0, 0 * alphas), 2).tolist() == [1.0, 1.0]


def test_descent_equals_plain_gradient_descent() -> None:
    problem, steps = quadratic(1), []

    def gradient(alphas: Tensor, step: int) -> Tensor:
        steps.append(step)
        return loss_of(problem, alphas)[1]

    by_hand = torch.ones(3, dtype=torch.float64)
    for _ in range(4):
        by_hand = by_hand - 0.01 * loss_of(problem, by_hand)[1]
    assert torch.equal(gradient_descent(gradient, 3, 4, 0.01), by_hand)
    assert steps == [0, 1, 2, 3]
    converged = gradient_descent(gradient, 3, 4000, 0.02)
    assert torch.allclose(converged, minimum(problem), atol=1e-3)


def test_nelder_mead_approaches_the_minimum() -> None:
    problem = quadratic(2, count=2)
    solution = nelder_mead(lambda alphas: loss_of(problem, alphas)[0], 2, 60, 50.0)
    assert torch.allclose(solution, minimum(problem), atol=1e-2)


@pytest.mark.parametrize("points", [0, 1, 5])
def test_nelder_mead_is_never_worse_than_its_start(points: int) -> None:
    problem = quadratic(3)
    solution = nelder_mead(lambda alphas: loss_of(problem, alphas)[0], 3, points, 2.0)
    assert loss_of(problem, solution)[0] <= loss_of(problem, torch.ones(3, dtype=torch.float64))[0]


def test_line_search_uses_the_paper_grid() -> None:
    grid = []

    def score(alphas: Tensor) -> tuple[float, float]:
        grid.append(float(alphas[1]))
        return -abs(float(alphas[1]) - 0.45), 0.0

    assert line_search(score, 2, 5).tolist() == pytest.approx([0.6, 0.4])
    assert grid == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def reference_greedy(thetas: list[Tensor], performance: object, points: int) -> Tensor:
    """Returns the merged parameters by Algorithm 3 as printed."""
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
def test_greedy_merge_equals_the_published_algorithm(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    thetas = list(torch.randn(4, 6, generator=generator, dtype=torch.float64))
    goal = torch.randn(6, generator=generator, dtype=torch.float64) / 2

    def performance(theta: Tensor) -> float:
        return -float((theta - goal).square().sum())

    solution = greedy_search(lambda alphas: (performance(alphas @ torch.stack(thetas)), 0.0), 4, 5)
    assert float(solution.sum()) == pytest.approx(1)
    assert torch.allclose(solution @ torch.stack(thetas), reference_greedy(thetas, performance, 5))
    assert performance(solution @ torch.stack(thetas)) >= max(map(performance, thetas))


def test_greedy_merge_ignores_harmful_branches() -> None:
    values = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    solution = greedy_search(lambda alphas: (float(alphas @ values), 0.0), 3, 5)
    assert solution.tolist() == [1.0, 0.0, 0.0]


def test_merge_search_breaks_score_ties_by_loss() -> None:
    solution = greedy_search(lambda alphas: (0.5, -math.dist(alphas.tolist(), [0.5, 0.5, 0.0])), 3, 2)
    assert solution.tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert line_search(lambda alphas: (0.5, float(alphas[1])), 2, 4).tolist() == [0.0, 1.0]
