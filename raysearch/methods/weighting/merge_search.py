"""Searches for the merge coefficients of branches by their score or loss on meta-dev.

alphas (B,)   float64, one coefficient per branch
reach         largest distance of a coefficient from 1
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], tuple[float, float]]  # alphas -> the number to maximise, and one that breaks ties
FINITE_DIFFERENCE = 0.05  # change of an alpha in the central differences of `newton_step`
MIN_CURVATURE = 1e-3  # smallest curvature that `newton_step` uses, relative to the largest
MAX_HALVINGS = 6  # of a Newton step that does not lower the loss
SIMPLEX_SIZE = 0.25  # change of an alpha along each side of the initial simplex


def gradient_descent(
    gradient: Callable[[Tensor, int], Tensor], count: int, steps: int, rate: float, reach: float = float("inf")
) -> Tensor:
    """Returns the alphas after `steps` steps of plain gradient descent from 1.

    `gradient` takes the alphas and the step, which starts at 0.
    """
    alphas = torch.ones(count, dtype=torch.float64)
    for step in range(steps):
        alphas = (alphas - rate * gradient(alphas, step)).clamp(1 - reach, 1 + reach)
    return alphas


def newton_step(loss: Callable[[Tensor], tuple[float, Tensor]], count: int, reach: float = float("inf")) -> Tensor:
    """Returns the alphas after one Newton step from 1, halved until the loss is not higher than before.

    `loss` returns the loss and its gradient (B,). The Hessian (B, B) is computed from 2 B gradients by central
    differences. Its eigenvalues are replaced by their absolute values, so the step descends where the loss is not
    convex. On a quadratic the result is the minimum, -(D^T H D)^-1 D^T g for deltas D (N, B) and g, H at theta.
    """
    ones = torch.ones(count, dtype=torch.float64)
    value, slope = loss(ones)
    shifts = FINITE_DIFFERENCE * torch.eye(count, dtype=torch.float64)
    rows = torch.stack([(loss(ones + d)[1] - loss(ones - d)[1]) / (2 * FINITE_DIFFERENCE) for d in shifts])
    curvatures, directions = torch.linalg.eigh((rows + rows.T) / 2)
    size = curvatures.abs()
    if float(size.max()) == 0:
        return ones
    step: Tensor = directions @ ((directions.T @ slope) / size.clamp_min(MIN_CURVATURE * float(size.max())))
    step = step * min(1.0, reach / max(float(step.abs().max()), torch.finfo(step.dtype).tiny))
    for _ in range(MAX_HALVINGS):
        if loss(ones - step)[0] <= value:
            return ones - step
        step = step / 2
    return ones


def nelder_mead(loss: Callable[[Tensor], float], count: int, points: int, reach: float) -> Tensor:
    """Returns the best alphas that the simplex of Nelder and Mead evaluates, starting from 1.

    It evaluates about `points` for each branch, at least two.
    """
    from scipy.optimize import minimize

    start = np.ones(count)
    simplex = np.vstack([start, start - min(SIMPLEX_SIZE, reach) * np.eye(count)])
    options = {"initial_simplex": simplex, "maxfev": max(points, 2) * (count + 1)}
    result = minimize(
        lambda alphas: loss(torch.from_numpy(alphas.copy())),
        start,
        method="Nelder-Mead",
        bounds=[(1 - reach, 1 + reach)] * count,
        options=options,
    )
    return torch.from_numpy(np.asarray(result.x, dtype=np.float64))


def line_search(score: Score, count: int, points: int) -> Tensor:
    """Returns the first (1 - l, l) that scores best, for l = 0, 1 / points, ..., 1: ForkMerge's Algorithm 1."""
    assert count == 2
    grid = torch.linspace(0, 1, points + 1, dtype=torch.float64)
    return max((torch.stack([1 - position, position]) for position in grid), key=score)


def greedy_search(score: Score, count: int, points: int) -> Tensor:
    """Returns the alphas of ForkMerge's Algorithm 3, which adds branches one by one, the best first.

    Each branch gets the coefficient that scores best among `points` + 1 in [0, mean of the coefficients before it];
    at the end the coefficients are normalised to sum to 1.
    """
    one_branch_each = torch.eye(count, dtype=torch.float64)
    ranked = sorted(range(count), key=lambda b: score(one_branch_each[b]), reverse=True)
    coefficients = one_branch_each[ranked[0]]
    for position, branch in enumerate(ranked[1:], start=1):
        largest = float(coefficients.sum()) / position
        grid = torch.linspace(0, largest, points + 1, dtype=torch.float64)
        candidates = [coefficients + value * one_branch_each[branch] for value in grid]
        coefficients = max(candidates, key=lambda candidate: score(candidate / candidate.sum()))
    return coefficients / coefficients.sum()
