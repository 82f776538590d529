"""Paired statistics: do two methods differ, when both were scored on the same seeds?

    d  (n,)  differences of their scores, one for each seed

Interval: Student's t; and BCa of the bootstrap, Efron, Better bootstrap confidence intervals, JASA 82 (1987).
Test: the sign of every difference is as likely the other one if there is nothing between the methods, Fisher, The
design of experiments (1935), section 21. Several at once: Holm, A simple sequentially rejective multiple test
procedure, Scandinavian Journal of Statistics 6 (1979).
Reports call these by name in their SQL, see `FUNCTIONS` and `COMPARED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ALPHA = 0.05  # how often a verdict may be wrong when there is no difference, all comparisons of a table together
EXACT = 12  # up to so many seeds every flip of signs is tried, 2^n; beyond, `DRAWN` of them
DRAWN = 9_999
Interval = list[float]  # low, high


def t_interval(d: Sequence[float], compared: int = 1) -> Interval | None:
    """Bounds of the mean difference, 95 % for `compared` of them together (Bonferroni); None for fewer than two."""
    if len(d) < 2:
        return None
    from scipy.stats import t

    mean, error = float(np.mean(d)), float(np.std(d, ddof=1)) / len(d) ** 0.5
    half = float(t.ppf(1 - ALPHA / (2 * compared), len(d) - 1)) * error
    return [mean - half, mean + half]


def bootstrap_interval(d: Sequence[float]) -> Interval | None:
    """BCa bounds of the mean difference, 95 %, always of the same resamples; None for fewer than three."""
    if len(d) < 3:
        return None
    if np.ptp(d) <= 1e-9 * np.max(np.abs(d)):
        return [float(np.mean(d))] * 2
    from scipy.stats import bootstrap

    drawn = bootstrap((np.asarray(d),), np.mean, confidence_level=1 - ALPHA, rng=np.random.default_rng(0))
    bounds = drawn.confidence_interval
    return [float(bounds.low), float(bounds.high)] if np.isfinite([*bounds]).all() else None


def sign_flip_p(d: Sequence[float]) -> float | None:
    """How probable a mean at least so far from 0 is if signs are chance, two-sided; at least 2 / 2^n. None for none."""
    if not len(d):
        return None
    if len(d) <= EXACT:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
    else:
        flips = np.random.default_rng(0).choice([1.0, -1.0], (DRAWN, len(d)))
        signs = np.vstack([np.ones(len(d)), flips])
    sums = np.abs(signs @ np.asarray(d))
    return float(np.mean(sums >= sums[0] - 1e-9 * np.sum(np.abs(d))))


def holm(p: Sequence[float]) -> list[float]:
    """The same p, each as large as it has to be for all together."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def rests_on(seeds: int, compared: int = 1) -> str:
    """What a verdict rests on: "p_holm"; "interval" with too few seeds for any p_holm to be below 0.05."""
    return "p_holm" if compared * 2 / 2**seeds < ALPHA else "interval"


def better(d: Sequence[float], p_holm: float, compared: int = 1) -> int:
    """1 if the first method is better, -1 if the second is, 0 if no difference is found.

    Where no p can decide, the t interval has to leave 0 out, and every seed has to say the same.
    """
    if len(d) < 2:
        return 0
    if rests_on(len(d), compared) == "p_holm":
        found = p_holm < ALPHA
    else:
        low, high = t_interval(d, compared) or (0.0, 0.0)
        found = (low > 0 and min(d) > 0) or (high < 0 and max(d) < 0)
    return int(np.sign(np.mean(d))) if found else 0


# As SQL knows them: function, types of its arguments, type of what comes back.
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Any], str]] = {
    "t_interval": (t_interval, ["DOUBLE[]", "BIGINT"], "DOUBLE[]"),
    "bootstrap_interval": (bootstrap_interval, ["DOUBLE[]"], "DOUBLE[]"),
    "sign_flip_p": (sign_flip_p, ["DOUBLE[]"], "DOUBLE"),
    "holm": (holm, ["DOUBLE[]"], "DOUBLE[]"),
    "rests_on": (rests_on, ["BIGINT", "BIGINT"], "VARCHAR"),
    "better": (better, ["DOUBLE[]", "DOUBLE", "BIGINT"], "INTEGER"),
}

# The arms of a table of arm, seed and score beside the search: d, search less arm; the rest null for fewer than two.
COMPARED = """
CREATE MACRO compared(scores) AS TABLE
WITH paired AS (
    SELECT other.arm, list(search.score - other.score ORDER BY seed) AS d
    FROM query_table(scores) AS search JOIN query_table(scores) AS other USING (seed)
    WHERE search.arm = 'search' AND other.arm <> 'search'
    GROUP BY other.arm
),
tested AS (
    SELECT arm, sign_flip_p(d) AS p, count(*) OVER () AS together, t_interval(d, count(*) OVER ()) AS bounds
    FROM paired
    WHERE len(d) > 1
),
corrected AS (
    SELECT *, list_extract(holm(list(p) OVER ()), list_position(list(p) OVER (), p)) AS p_holm FROM tested
)
FROM paired LEFT JOIN corrected USING (arm)
"""
