"""Paired statistics: do two methods differ, when both are scored on the same seeds, or on the same folds?

    d        (n,)  the differences of their scores, one per seed; with selection one per fold of every fresh partition
    overlap  the rows that score a fold over those that train, 1 / (folds - 1); 0 without selection

Folds: trainings on other folds share rows, so that the differences are correlated and sd / sqrt(n) is too small a
standard error of their mean: it is sd sqrt(1/n + overlap) (Nadeau and Bengio, Inference for the generalization error,
Machine Learning 52, 2003; for repeated partitions Bouckaert and Frank, PAKDD 2004), with n - 1 degrees of freedom. The
test is Student's t with this error, because signs of correlated differences are not exchangeable.

Intervals: Student's t; BCa bootstrap, Efron, Better bootstrap confidence intervals, JASA 82 (1987).
Test: exact sign-flip test, Fisher, The design of experiments (1935), section 21. If the methods do not differ, each
difference is equally likely to have the opposite sign.
Several comparisons: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
(1979).

SQL reports call these functions by the names in `FUNCTIONS`, and the table macro `COMPARED`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ALPHA = 0.05  # probability of a wrong verdict without a difference, for all comparisons of a table together
MAX_EXACT_SEEDS = 12  # with more seeds, RANDOM_FLIPS of the 2^n sign flips are drawn
RANDOM_FLIPS = 9_999
Interval = list[float]  # low, high


def t_interval(d: Sequence[float], compared: int = 1) -> Interval | None:
    """Returns the 95 % interval of the mean difference, for `compared` of them together (Bonferroni).

    Returns None for fewer than two seeds.
    """
    return paired_interval(d, compared, 0.0)


def paired_interval(d: Sequence[float], compared: int, overlap: float) -> Interval | None:
    """Returns `t_interval` of differences on seeds, or on folds of this overlap."""
    if len(d) < 2:
        return None
    from scipy.stats import t

    mean, error = float(np.mean(d)), mean_error(d, overlap)
    half = float(t.ppf(1 - ALPHA / (2 * compared), len(d) - 1)) * error
    return [mean - half, mean + half]


def mean_error(d: Sequence[float], overlap: float = 0.0) -> float:
    """Returns the standard error of the mean difference, for at least two seeds or folds."""
    deviation = float(np.std(d, ddof=1))
    return deviation * math.sqrt(1 / len(d) + overlap) if overlap else deviation / float(len(d) ** 0.5)


def difference_p(d: Sequence[float], overlap: float = 0.0) -> float | None:
    """Returns the two-sided p-value of the mean difference: of the sign-flip test, or of the t test for folds."""
    if not overlap or len(d) < 2:
        return sign_flip_p(d)
    from scipy.stats import t

    mean, error = abs(float(np.mean(d))), mean_error(d, overlap)
    return 2 * float(t.sf(mean / error, len(d) - 1)) if error > 0 else float(mean == 0)


def bootstrap_interval(d: Sequence[float]) -> Interval | None:
    """Returns the 95 % BCa interval of the mean difference, with fixed resamples; None for fewer than three seeds."""
    if len(d) < 3:
        return None
    if np.ptp(d) <= 1e-9 * np.max(np.abs(d)):
        return [float(np.mean(d))] * 2
    from scipy.stats import bootstrap

    resampled = bootstrap((np.asarray(d),), np.mean, confidence_level=1 - ALPHA, rng=np.random.default_rng(0))
    bounds = resampled.confidence_interval
    return [float(bounds.low), float(bounds.high)] if np.isfinite([*bounds]).all() else None


def sign_flip_p(d: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of the mean difference under random signs, at least 2 / 2^n; None for no seeds.

    `scipy.stats.permutation_test` gives the same value for 2 to 12 seeds, except where sums that are equal on paper
    differ by rounding: its tolerance is relative to the mean, which may be near 0.
    """
    if not len(d):
        return None
    if len(d) <= MAX_EXACT_SEEDS:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
    else:
        flips = np.random.default_rng(0).choice([1.0, -1.0], (RANDOM_FLIPS, len(d)))
        signs = np.vstack([np.ones(len(d)), flips])
    sums = np.abs(signs @ np.asarray(d))
    return float(np.mean(sums >= sums[0] - 1e-9 * np.sum(np.abs(d))))


def holm(p: Sequence[float]) -> list[float]:
    """Returns Holm-adjusted p-values."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def rests_on(seeds: int, compared: int = 1) -> str:
    """Returns what a verdict rests on: "p_holm", or "interval" if so few seeds cannot make p_holm less than 0.05."""
    return "p_holm" if compared * 2 / 2**seeds < ALPHA else "interval"


def better(d: Sequence[float], p_holm: float, compared: int = 1) -> int:
    """Returns 1 if the first method is better, -1 if the second is, 0 if no difference is found.

    With too few seeds for a p-value, the t interval has to exclude 0 and all seeds have to agree in sign.
    """
    if len(d) < 2:
        return 0
    if rests_on(len(d), compared) == "p_holm":
        differs = p_holm < ALPHA
    else:
        low, high = t_interval(d, compared) or (0.0, 0.0)
        differs = (low > 0 and min(d) > 0) or (high < 0 and max(d) < 0)
    return int(np.sign(np.mean(d))) if differs else 0


def judge(d: Sequence[float], p_holm: float, compared: int, overlap: float) -> int:
    """Returns `better` of differences on seeds, or what the p-value of `difference_p` says of folds."""
    if not overlap:
        return better(d, p_holm, compared)
    return int(np.sign(np.mean(d))) if len(d) > 1 and p_holm < ALPHA else 0


# For SQL: the function, the types of its arguments, the type of its result.
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Any], str]] = {
    "t_interval": (t_interval, ["DOUBLE[]", "BIGINT"], "DOUBLE[]"),
    "paired_interval": (paired_interval, ["DOUBLE[]", "BIGINT", "DOUBLE"], "DOUBLE[]"),
    "bootstrap_interval": (bootstrap_interval, ["DOUBLE[]"], "DOUBLE[]"),
    "sign_flip_p": (sign_flip_p, ["DOUBLE[]"], "DOUBLE"),
    "difference_p": (difference_p, ["DOUBLE[]", "DOUBLE"], "DOUBLE"),
    "holm": (holm, ["DOUBLE[]"], "DOUBLE[]"),
    "rests_on": (rests_on, ["BIGINT", "BIGINT"], "VARCHAR"),
    "better": (better, ["DOUBLE[]", "DOUBLE", "BIGINT"], "INTEGER"),
    "judge": (judge, ["DOUBLE[]", "DOUBLE", "BIGINT", "DOUBLE"], "INTEGER"),
}

# Compares each arm of a table (arm, seed, fold, overlap, score) with the search: d is search minus arm by seed, fold;
# with fewer than two of these the other columns are null.
COMPARED = """
CREATE MACRO compared(scores) AS TABLE
WITH paired AS (
    SELECT other.arm, list(search.score - other.score ORDER BY seed, fold) AS d, max(other.overlap) AS overlap
    FROM query_table(scores) AS search JOIN query_table(scores) AS other USING (seed, fold)
    WHERE search.arm = 'search' AND other.arm <> 'search'
    GROUP BY other.arm
),
tested AS (
    SELECT arm, difference_p(d, overlap) AS p, count(*) OVER () AS together,
        paired_interval(d, count(*) OVER (), overlap) AS bounds
    FROM paired
    WHERE len(d) > 1
),
corrected AS (
    SELECT *, list_extract(holm(list(p) OVER ()), list_position(list(p) OVER (), p)) AS p_holm FROM tested
)
FROM paired LEFT JOIN corrected USING (arm)
"""
