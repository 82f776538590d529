"""A dev head in closed form: the regularised regression of the labels on the vectors of a fixed body.

    X (n, H), y     vectors and labels of n examples; x~_i = [(x_i - mean) / s, 1], s^2 the mean square of X - mean
    W (H + 1, C)    minimises  mean_i loss(W' x~_i, y_i) + rho / 2 |W without its last row|^2

For classes the loss is the cross-entropy, for several labels the sum of the binary ones, for numbers half the squared
error, which is solved at once. The others descend by W <- W - (b S + rho P)^-1 gradient, with S = X~' X~ / n and b an
upper bound of the curvature of the loss in the logits, 1/2 or 1/4, so that the objective falls at each step and one
factorisation serves them all (Boehning, Annals of the Institute of Statistical Mathematics 44, 1992). P is the
identity without its last entry.

A head fitted by a few steps of descent on 32 examples has learned these by heart, and the gradient through it is mostly
noise. Here all examples of the other folds fit the head, and only examples that it has not seen are scored
(cross-fitting; Chernozhukov et al., The Econometrics Journal 21, 2018).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MOST_STEPS = 500
TOLERANCE = 1e-7  # of the largest entry of a gradient, at which a fit ends


def fit(features: Tensor, labels: Tensor, classes: int, ridge: float) -> nn.Linear:
    """Returns the fitted head, float32 and without gradients; features (n, H), labels as in `example_losses`."""
    X = features.double()
    mean = X.mean(dim=0)
    scale = (X - mean).square().mean().sqrt().clamp_min(1e-6)
    inputs = torch.cat([(X - mean) / scale, X.new_ones(len(X), 1)], dim=1)
    W = solve(inputs, labels, classes, ridge)
    head = nn.Linear(features.shape[1], W.shape[1], device=features.device)
    weight = (W[:-1] / scale).T
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(W[-1] - weight @ mean)
    return head.requires_grad_(False)


def solve(inputs: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Returns W (H + 1, C) float64; inputs (n, H + 1) float64, whose last column is 1."""
    is_number, is_class = labels.is_floating_point() and labels.ndim == 1, labels.ndim == 1
    Y = labels[:, None] if is_number or not is_class else nn.functional.one_hot(labels.long(), classes)
    Y = (Y if is_class else labels).to(inputs)  # (n, C)
    bound = 1.0 if is_number else 0.5 if is_class else 0.25
    n, width = inputs.shape
    penalty = torch.full((width, 1), ridge, dtype=inputs.dtype, device=inputs.device)
    penalty[-1] = 0.0
    curvature = bound * inputs.T @ inputs / n + penalty.flatten().diag()
    factor = torch.linalg.cholesky(curvature + 1e-10 * torch.eye(width, dtype=inputs.dtype, device=inputs.device))
    W = point = inputs.new_zeros(width, Y.shape[1])
    momentum = 1.0
    for _ in range(MOST_STEPS):
        logits = inputs @ point
        fitted = logits if is_number else logits.softmax(dim=1) if is_class else logits.sigmoid()
        gradient = inputs.T @ (fitted - Y) / n + penalty * point
        if gradient.abs().max() < TOLERANCE:
            return point
        step = point - torch.cholesky_solve(gradient, factor)
        if (gradient * (step - W)).sum() > 0:
            momentum = 1.0
        after = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        W, point, momentum = step, step + (momentum - 1) / after * (step - W), after
    return W


def fold_rows(labels: Tensor, folds: int) -> list[Tensor]:
    """Returns the rows of each of `folds` folds, the same at every call; fewer folds where there are fewer rows.

    Classes are spread evenly over the folds.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if labels.ndim == 1 and not labels.is_floating_point():
        order = order[labels[order].argsort(stable=True)]
    count = max(1, min(folds, len(labels)))
    return [order[number::count] for number in range(count)]
