"""The ensemble as a teacher: its guesses of a split, how pure they are, and whether they are used at all.

The guard compares two classifiers on labelled rows that neither has seen: one of the labelled rows alone, and one that
also learns the guesses that would be used. Both are ridge regressions on the encoder's vectors, so that the comparison
takes a second. Where the second classifier is right less often, no guess is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.training.teachers.ensemble import (
    Array,
    Views,
    cross_predict,
    fit_predict,
    folds_of,
    sharpen,
    temperature,
)
from raysearch.training.teachers.purity import Estimate, adjust, class_shares, estimate
from raysearch.training.teachers.table import GuessTable

RIDGE = 0.1  # penalty of the guard's classifiers, in mean squares of a vector
GUARD_REPEATS = 3


@dataclass(frozen=True)
class Teaching:
    """What an ensemble says of unlabelled rows, and what is known about it."""

    table: GuessTable
    estimate: Estimate
    accuracies: tuple[float, float]  # on labelled rows not seen, without the guesses and with them
    is_guarded: bool  # the guesses are not used, because they made it worse


def teach(
    labelled: Views, y: NDArray[Any], unlabelled: Views, rows: NDArray[np.int64], classes: int, *, least_purity: float,
    has_guard: bool, seed: int,
) -> Teaching:  # fmt: skip
    """Returns the guesses of unlabelled rows, whose numbers are `rows`, by an ensemble of labelled ones.

    `least_purity` is the purity from which guesses of a class are used.
    """
    L, U = cross_predict(labelled, y, classes, seed), fit_predict(labelled, y, unlabelled, classes)
    if L is None:  # nothing tells how good the guesses are
        nothing = np.zeros(classes)
        unknown = Estimate(np.full(classes, 1 / classes), nothing, np.full(classes, 2.0), nothing)
        return Teaching(GuessTable(rows, sharpen(U, 1.0), np.zeros(len(rows))), unknown, (0.0, 0.0), False)
    T = temperature(L, y)
    P, Q = sharpen(L, T), sharpen(U, T)
    labelled_shares = np.bincount(y, minlength=classes) / len(y)
    shares = class_shares(P, y, Q, seed)
    P, Q = adjust(P, shares, labelled_shares), adjust(Q, shares, labelled_shares)
    purity = estimate(P, y, Q, shares, least_purity)
    is_used = Q.max(axis=1) >= purity.thresholds[Q.argmax(axis=1)]
    accuracies, is_guarded = (0.0, 0.0), False
    if is_used.any():
        accuracies = guard_accuracies(labelled, y, unlabelled.take(is_used), purity.thresholds, T, shares, seed)
        is_guarded = has_guard and accuracies[1] < accuracies[0]
    trust = (is_used & (not is_guarded)).astype(np.float64)
    return Teaching(GuessTable(rows, Q, trust), purity, accuracies, is_guarded)


def guard_accuracies(
    labelled: Views, y: NDArray[Any], candidates: Views, thresholds: Array, T: float, shares: Array, seed: int
) -> tuple[float, float]:
    """Returns the mean accuracy by class, on labelled rows not seen, without guesses of the candidates and with them.

    The guesses are made again in each fold, by an ensemble that has not seen the rows either.
    """
    classes = len(shares)
    folds = min(5, int(np.bincount(y).max()))
    without, with_guesses = np.zeros(len(y)), np.zeros(len(y))
    for repeat in range(GUARD_REPEATS):
        for rest, part in folds_of(y, folds, seed + 100 + repeat):
            Q = sharpen(fit_predict(labelled.take(rest), y[rest], candidates, classes), T)
            Q = adjust(Q, shares, np.bincount(y[rest], minlength=classes) / len(rest))
            used = Q.max(axis=1) >= thresholds[Q.argmax(axis=1)]
            base = labelled.A[rest], y[rest], np.ones(len(rest))
            without[part] += ridge_classes(*base, labelled.A[part], classes) == y[part]
            weight = len(rest) / max(1, int(used.sum()))
            more = (
                np.concatenate([base[0], candidates.A[used]]),
                np.concatenate([base[1], Q[used].argmax(axis=1)]),
                np.concatenate([base[2], np.full(int(used.sum()), weight)]),
            )
            with_guesses[part] += ridge_classes(*more, labelled.A[part], classes) == y[part]
    by_class = [np.flatnonzero(y == c) for c in np.unique(y)]
    return (
        float(np.mean([without[rows].mean() for rows in by_class]) / GUARD_REPEATS),
        float(np.mean([with_guesses[rows].mean() for rows in by_class]) / GUARD_REPEATS),
    )


def ridge_classes(A: Array, y: NDArray[Any], weights: Array, others: Array, classes: int) -> NDArray[np.int64]:
    """Returns other examples' classes by a ridge regression on weighted examples, in which classes count alike."""
    totals = np.bincount(y, weights, minlength=classes)
    w = weights / np.maximum(totals[y], 1e-12)
    X = np.concatenate([A, np.ones((len(A), 1))], axis=1)
    Y = np.eye(classes)[y]
    penalty = np.full(X.shape[1], RIDGE * w.sum() / A.shape[1])
    penalty[-1] = 1e-9
    W = np.linalg.solve((X.T * w) @ X + np.diag(penalty), (X.T * w) @ Y)
    guesses: NDArray[np.int64] = (np.concatenate([others, np.ones((len(others), 1))], axis=1) @ W).argmax(axis=1)
    return guesses
