"""The end task's last layer, fitted to the fixed encoder: a linear probe.

X      (n, H) what the layer reads, dense or sparse
y      the labels of the training split: classes (n,), 0 and 1 for several labels (n, L), or numbers (n,)
W, b   (C, H) and (C,): the layer's weight and bias; logits are X W^T + b
C      the inverse strength of the penalty, `probe_c`

For classes, W and b minimise  |s W|^2 / 2 + C sum_i L(x_i W^T + b, y_i)  with the cross-entropy L in nat: the logistic
regression of scikit-learn on (x_i - m) / s. Dense vectors have m, their mean, subtracted; s is one number, by which
their mean squared norm becomes 1. So C means the same for all encoders, and W and b have the units of the vectors.
With class_weights 'balanced', each L is weighted as in `end_task_loss`. With a `guess_weight`, guesses of unlabelled
examples are learned, too (`self_training`). Several labels have a logistic regression each, numbers a ridge regression
with the penalty 1 / C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression, Ridge

from raysearch.training.context import TrainingContext
from raysearch.training.end_task_loss import EndTaskLoss
from raysearch.training.self_training import SHARES, surest_guesses, unlabelled_inputs

Array = NDArray[np.float64]
MAX_ITERATIONS = 10_000  # of L-BFGS
TOLERANCE = 1e-7  # of its gradient
GUESS_TOLERANCE = 1e-4  # where guesses are learned, which are uncertain themselves


def fit_head(context: TrainingContext) -> float:
    """Sets the network's classifier to the solution for the training split; returns its mean loss there, nat.

    The first rank fits it, and all ranks get the same. Raises ValueError for a last layer without bias.
    """
    layer, result = context.network.classifier, None
    if layer.bias is None:
        raise ValueError(f"{type(context.network.end_task).__name__} cannot be fitted: its last layer has no bias")
    if context.process_group.rank == 0:
        split, settings = context.splits("train"), context.plan.method_settings("schedule")
        X, y = context.network.head_inputs(context.batches, split), np.asarray(split.labels)
        problem = Problem(y, layer.out_features, settings.probe_c, settings.guess_weight)
        U = unlabelled_inputs(context) if settings.guess_weight else None
        result = _fit(X, U, problem, EndTaskLoss(context.training, y, torch.device("cpu")))
    W, b, loss = context.process_group.broadcast(result)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(W))
        layer.bias.copy_(torch.from_numpy(b))
    return float(loss)


@dataclass(frozen=True)
class Problem:
    """What a layer is fitted to, its examples' vectors aside."""

    y: NDArray[Any]  # the labels
    outputs: int  # C
    C: float  # probe_c
    guess_weight: float = 0.0


def _fit(X: Any, U: Any, problem: Problem, losses: EndTaskLoss) -> tuple[Array, Array, float]:
    """Returns W, b and the mean loss on X, with guesses of the unlabelled U (m, H) if there are any."""
    y, outputs, C = problem.y, problem.outputs, problem.C
    class_weight = None if losses.weights is None else "balanced"
    X = X.astype(np.float64)
    m = np.zeros(X.shape[1]) if sparse.issparse(X) else X.mean(axis=0)
    X = X if sparse.issparse(X) else X - m
    s = float(np.sqrt(X.multiply(X).sum() if sparse.issparse(X) else np.square(X).sum()) / np.sqrt(len(y))) or 1.0
    scaled = X / s
    if U is not None and (y.ndim == 2 or np.issubdtype(y.dtype, np.floating)):
        raise ValueError("guess_weight needs classes: one label for each example")
    if y.ndim == 2:
        pairs = [_fit_label(scaled, column, C, class_weight) for column in y.T]
        W, b = np.stack([w for w, _ in pairs]), np.array([bias for _, bias in pairs])
    elif np.issubdtype(y.dtype, np.floating):
        model = Ridge(alpha=1 / C).fit(scaled, y.astype(np.float64))
        W, b = model.coef_.reshape(1, -1), np.array([model.intercept_])
    elif U is not None:
        U = U.astype(np.float64)
        W, b = fit_with_guesses(scaled, U / s if sparse.issparse(U) else (U - m) / s, problem, class_weight)
    else:
        W, b = fit_classes(scaled, y, outputs, C, class_weight)
    logits = torch.from_numpy(scaled @ W.T + b)
    labels = torch.from_numpy(y if np.issubdtype(y.dtype, np.floating) else y.astype(np.int64))
    loss = float(losses(logits, labels).mean())
    W = W / s
    return W, b - W @ m, loss


def fit_with_guesses(X: Any, U: Any, problem: Problem, class_weight: str | None) -> tuple[Array, Array]:
    """Returns W and b of a logistic regression that learns its own surest guesses of U (m, H), as `self_training` says.

    With class_weight 'balanced', examples and guesses of a class have its weight among the labelled examples.
    """
    y = problem.y
    balance = np.ones(problem.outputs)
    if class_weight is not None:
        counts = np.bincount(y, minlength=problem.outputs)
        balance = len(y) / (np.maximum(counts, 1) * np.count_nonzero(counts))
    stack = sparse.vstack if sparse.issparse(X) else np.concatenate
    W, b = fit_classes(X, y, problem.outputs, problem.C, weights=balance[y])
    for share in SHARES:
        rows, guess, sureness = surest_guesses(np.asarray(U @ W.T + b), share)
        weights = np.concatenate([balance[y], problem.guess_weight * sureness * balance[guess]])
        joined, classes = stack([X, U[rows]]), np.concatenate([y, guess])
        W, b = fit_classes(joined, classes, problem.outputs, problem.C, weights=weights, tolerance=GUESS_TOLERANCE)
    return W, b


def fit_classes(
    X: Any,
    y: NDArray[Any],
    outputs: int,
    C: float,
    class_weight: str | None = None,
    *,
    weights: Array | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Array, Array]:
    """Returns W and b of a multinomial logistic regression over `outputs` classes, of examples with weights (n,).

    Two classes have logits -f/2 and f/2. Classes without examples have no weights, and a bias with which their
    probability together is at most 1 / (n + 2) for every example of X.
    """
    present = np.unique(y)
    W, b = np.zeros((outputs, X.shape[1])), np.zeros(outputs)
    if len(present) > 1:
        model = _regression(C, class_weight, tolerance).fit(X, y, sample_weight=weights)
        is_binary = len(present) == 2
        W[present] = np.concatenate([-model.coef_ / 2, model.coef_ / 2]) if is_binary else model.coef_
        b[present] = np.concatenate([-model.intercept_ / 2, model.intercept_ / 2]) if is_binary else model.intercept_
    absent = np.setdiff1d(np.arange(outputs), present)
    if len(absent):
        logits = X @ W[present].T + b[present]
        b[absent] = float(logsumexp(logits, axis=1).min()) - np.log((len(y) + 1) * len(absent))
    return W, b


def _fit_label(X: Any, y: NDArray[Any], C: float, class_weight: str | None) -> tuple[Array, float]:
    """Returns w (H,) and b of one of several labels, whose logit is above 0 if it is there.

    A label that all examples have, or none, has no weights, and the log-odds of n + 1 to 1.
    """
    if len(np.unique(y)) > 1:
        model = _regression(C, class_weight).fit(X, y)
        return model.coef_[0], float(model.intercept_[0])
    return np.zeros(X.shape[1]), float(np.log(len(y) + 1)) * (1 if y[0] else -1)


def _regression(C: float, class_weight: str | None, tolerance: float = TOLERANCE) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=MAX_ITERATIONS, tol=tolerance, class_weight=class_weight)
