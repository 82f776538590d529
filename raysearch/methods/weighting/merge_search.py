"""How much of each branch to take: searches over a handful of numbers, by what meta-dev says of them.

alphas (B,) float64, one for each branch
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Score = Callable[[Tensor], tuple[float, float]]  # of alphas: what is to be high, and what decides where that is equal
DIFFERENCE = 0.05  # of an alpha, between the gradients that newton takes its second derivatives from
FLATTEST = 1e-3  # of the largest curvature: what newton takes a lesser one for
HALVINGS = 6  # of a Newton step that does not lead down
SPREAD = 0.25  # of an alpha, along each side of black_box's first simplex


def gradient_descent(
    gradient: Callable[[Tensor, int], Tensor], count: int, steps: int, rate: float, reach: float = float("inf")
) -> Tensor:
    """`steps` steps of plain gradient descent from alpha = 1; `gradient` is given the step too, from 0."""
    alphas = torch.ones(count, dtype=torch.float64)
    for step in range(steps):
        alphas = (alphas - rate * gradient(alphas, step)).clamp(1 - reach, 1 + reach)
    return alphas


def newton_step(loss: Callable[[Tensor], tuple[float, Tensor]], count: int, reach: float = float("inf")) -> Tensor:
    """One Newton step from alpha = 1, halved until the loss is no greater; `loss` gives its gradient (B,) too.

    The Hessian (B, B) is of central differences of the gradient, 2 B of them; its eigenvalues are taken by their size,
    so that the step leads down where the loss is not convex. On a quadratic the end is the minimum,
    -(D^T H D)^-1 D^T g of deltas D (N, B), and g, H at theta.
    """
    ones = torch.ones(count, dtype=torch.float64)
    value, slope = loss(ones)
    sides = DIFFERENCE * torch.eye(count, dtype=torch.float64)
    rows = torch.stack([(loss(ones + d)[1] - loss(ones - d)[1]) / (2 * DIFFERENCE) for d in sides])
    curvatures, directions = torch.linalg.eigh((rows + rows.T) / 2)
    size = curvatures.abs()
    if float(size.max()) == 0:
        return ones
    step: Tensor = directions @ ((directions.T @ slope) / size.clamp_min(FLATTEST * float(size.max())))
    step = step * min(1.0, reach / max(float(step.abs().max()), torch.finfo(step.dtype).tiny))
    for _ in range(HALVINGS):
        if loss(ones - step)[0] <= value:
            return ones - step
        step = step / 2
    return ones


def nelder_mead(loss: Callable[[Tensor], float], count: int, points: int, reach: float) -> Tensor:
    """The best of about `points` for each branch that Nelder and Mead's simplex tries, alpha = 1 among them."""
    from scipy.optimize import minimize

    start = np.ones(count)
    simplex = np.vstack([start, start - min(SPREAD, reach) * np.eye(count)])
    options = {"initial_simplex": simplex, "maxfev": max(points, 2) * (count + 1)}
    found = minimize(
        lambda alphas: loss(torch.from_numpy(alphas.copy())),
        start,
        method="Nelder-Mead",
        bounds=[(1 - reach, 1 + reach)] * count,
        options=options,
    )
    return torch.from_numpy(np.asarray(found.x, dtype=np.float64))


def line_search(score: Score, count: int, points: int) -> Tensor:
    """ForkMerge's Algorithm 1: of (1 - l, l), l = 0, 1 / points, ..., 1, the first that scores best."""
    assert count == 2
    grid = torch.linspace(0, 1, points + 1, dtype=torch.float64)
    return max((torch.stack([1 - along, along]) for along in grid), key=score)


def greedy_search(score: Score, count: int, points: int) -> Tensor:
    """ForkMerge's Algorithm 3: branches are taken in one by one, the best first, each as far as it helps.

    An unnormalised coefficient is one of `points` + 1 in [0, mean of those before it].
    """
    alone = torch.eye(count, dtype=torch.float64)
    order = sorted(range(count), key=lambda b: score(alone[b]), reverse=True)
    parts = alone[order[0]]
    for place, branch in enumerate(order[1:], start=1):
        most = float(parts.sum()) / place
        tried = [parts + along * alone[branch] for along in torch.linspace(0, most, points + 1, dtype=torch.float64)]
        parts = max(tried, key=lambda some: score(some / some.sum()))
    return parts / parts.sum()
