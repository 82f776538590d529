"""How often guesses are right, class by class, and which of them are therefore used.

    P (n, C)      a teacher's probabilities of the labelled examples, each guessed without its own label;  y (n,)
    U (m, C)      its probabilities of unlabelled examples
    pi (C,)       the shares of the classes among the unlabelled examples
    purity[c, t]  the share of right guesses among guesses of class c with a probability of at least t

Labelled examples are often drawn class by class, and the unlabelled are not. A guess of a rare class is then wrong far
more often than on the labelled examples. So pi is estimated from how the labelled examples are confused (Lipton et al.
2018, https://arxiv.org/abs/1802.03916; with regularisation, Azizzadenesheli et al. 2019,
https://arxiv.org/abs/1903.09734), as far as these are enough to estimate it, and labelled examples count by
pi[y] / (their number). A class's threshold is the lowest at which its purity reaches the least_purity one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
DRAWS = 40  # bootstrap samples of the labelled examples
SMALLEST_SHARE = 1e-3  # of a class
STRENGTH = 4.0  # examples that the guesses' own probabilities count as
THRESHOLDS = (0.0, *np.arange(0.3, 0.99, 0.05), 0.99)


@dataclass(frozen=True)
class Estimate:
    """What the labelled examples say of a teacher's guesses."""

    shares: Array  # pi (C,)
    purity: Array  # (C,) of the guesses that are used
    thresholds: Array  # (C,) from which a guess of a class is used; above 1 where none is
    raw_purity: Array  # (C,) of all guesses of a class


def class_shares(P: Array, y: NDArray[Any], U: Array, seed: int) -> Array:
    """Returns pi (C,), shrunk to the labelled shares by how uncertain it is.

    pi solves  mean(U) = sum_c pi_c mean(P of class c)  in least squares, pi >= 0, and is the mean over bootstrap
    samples of the labelled examples. Its noise is the variance of the solutions without the bound, which is huge where
    classes look alike (with the bound, all solutions would then lie in one corner). The shrinkage is James
    and Stein's: what is kept is the part of its distance from the labelled shares that is no noise.
    """
    generator, classes = np.random.default_rng(seed), P.shape[1]
    start = np.bincount(y, minlength=classes) / len(y)
    present = np.flatnonzero(start)
    unbounded, bounded = [], []
    for _ in range(DRAWS):
        chosen = [generator.choice(np.flatnonzero(y == c), int((y == c).sum())) for c in present]
        means = np.stack([P[rows].mean(axis=0) for rows in chosen], axis=1)  # (C, classes that are present)
        unbounded.append(np.linalg.lstsq(means, U.mean(axis=0), rcond=1e-6)[0])
        pi = nnls(means, U.mean(axis=0))[0]
        bounded.append(pi / pi.sum() if pi.sum() > 0 else start[present])
    noise = float(np.var(unbounded, axis=0).sum())
    distance = float(np.square(np.mean(bounded, axis=0) - start[present]).sum())
    keep = max(0.0, 1 - noise / distance) if distance > 0 else 0.0
    shares = start.copy()
    shares[present] += keep * (np.mean(bounded, axis=0) - start[present])
    shares = np.maximum(shares, SMALLEST_SHARE)
    normalised: Array = shares / shares.sum()
    return normalised


def adjust(P: Array, shares: Array, labelled_shares: Array) -> Array:
    """Returns probabilities under other shares of the classes (Saerens et al. 2002, equation 2.4)."""
    ratio = np.where(labelled_shares > 0, shares / np.maximum(labelled_shares, 1e-12), 0.0)
    adjusted: Array = P * ratio
    adjusted /= np.maximum(adjusted.sum(axis=1, keepdims=True), 1e-12)
    return adjusted


def estimate(P: Array, y: NDArray[Any], U: Array, shares: Array, least_purity: float) -> Estimate:
    """Returns purities and thresholds; P and U are already under `shares`.

    The purity at a threshold is that of the labelled examples, shrunk to the mean probability of the unlabelled guesses
    themselves: few labelled examples alone would often look pure by luck.
    """
    classes = P.shape[1]
    counts = np.bincount(y, minlength=classes)
    weights = shares[y] / np.maximum(counts[y], 1) * len(y)
    purity, thresholds, raw = np.zeros(classes), np.full(classes, 2.0), np.zeros(classes)
    for c in range(classes):
        confidences = U[U.argmax(axis=1) == c, c]
        of_labelled = P.argmax(axis=1) == c
        for t in THRESHOLDS:
            if not (confidences >= t).any():
                break
            sure = of_labelled & (P[:, c] >= t)
            right, total = float(weights[sure & (y == c)].sum()), float(weights[sure].sum())
            value = (right + STRENGTH * float(confidences[confidences >= t].mean())) / (total + STRENGTH)
            raw[c] = raw[c] or value
            if value >= least_purity:
                purity[c], thresholds[c] = value, t
                break
    return Estimate(shares, purity, thresholds, raw)
