"""Several classifiers as one: a weighted mean of their log-probabilities.

    p_m(c | x)  what member m gives, (n, M, C)
    w           (M,) weights, none negative
    p(c | x)    proportional to prod_m p_m(c | x)^w_m

This is the logarithmic opinion pool (Genest and Zidek 1986, Statistical Science 1(1)). The weights minimise the mean
negative log-likelihood of rows on which no member was trained, plus |w - 1/M|^2 / (2 n): a normal prior of standard
deviation 1 around equal weights, for n rows. The loss is convex in w. As the weights need not sum to 1, they also
correct members that are too sure or not sure enough.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

Array = NDArray[np.float64]
LOWEST = 1e-6  # a member's smallest probability, so that none of them can veto a class
LEAST_SHARE = 0.05  # of all weights; a member with less is left out


def log_probabilities(logits: NDArray[np.floating]) -> Array:
    """Returns the log-probabilities (..., C) of a member's logits, none below that of LOWEST."""
    log_p: Array = np.maximum(log_softmax(logits.astype(np.float64), axis=-1), np.log(LOWEST))
    return log_p


def average(log_p: Array, weights: Array) -> Array:
    """Returns logits (n, C) of the weighted members, given their log-probabilities (n, M, C)."""
    logits: Array = np.einsum("nmc,m->nc", log_p, weights)
    return logits


def fit_weights(log_p: Array, labels: NDArray[np.integer], rows: int) -> Array:
    """Returns the members' weights (M,) for their log-probabilities (n, M, C); a share below LEAST_SHARE is 0.

    `rows` is the number of different examples, of which each may be there several times.
    """
    used = np.arange(log_p.shape[1])
    while True:
        weights = _fit(log_p[:, used], labels, rows)
        if len(used) == 1 or weights.min() >= LEAST_SHARE * weights.sum():
            break
        used = np.delete(used, weights.argmin())
    result = np.zeros(log_p.shape[1])
    result[used] = weights
    return result


def _fit(log_p: Array, labels: NDArray[np.integer], rows: int) -> Array:
    n, members, _ = log_p.shape
    of_label = log_p[np.arange(n), :, labels]  # (n, M)
    equal = np.full(members, 1 / members)

    def loss(weights: Array) -> tuple[float, Array]:
        log_shares = log_softmax(average(log_p, weights), axis=1)
        expected = np.einsum("nmc,nc->nm", log_p, np.exp(log_shares))
        prior = weights - equal
        value = -log_shares[np.arange(n), labels].mean() + prior @ prior / (2 * rows)
        return float(value), (expected - of_label).mean(axis=0) + prior / rows

    result = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(0, None)] * members)
    weights: Array = result.x
    return weights
