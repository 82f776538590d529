"""Statistics over the rows that score arms: shares, F1, differences of two arms and calibration, each with an interval.

A row is predicted once for each seed (with selection, once for each partition), by other trained networks. So there are
two sources of chance, which rows were drawn and which seeds, and more seeds are not more rows:

    R rows, S seeds
    p (S,)         a share of R rows by seed, for instance of those that are predicted right
    w, v           how often a row and a seed occur in a resample: Poisson(1), and multinomial with S draws

Shares: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), with an effective
number of rows where seeds differ by more than R rows explain (Korn and Graubard, Survey Methodology 24, 1998).
F1 = 2 J / (1 + J) of the share J of rows that have a label and are predicted to, among those that either holds for.
Everything else: a bootstrap that resamples rows and seeds independently (Owen, The pigeonhole bootstrap, Annals of
Applied Statistics 1, 2007), with fixed resamples.
Two arms on the same rows: McNemar's exact test, Psychometrika 12 (1947).
Calibration error: Naeini, Cooper & Hauskrecht (AAAI 2015), over bins with about equally many rows.
All training data are held fixed: no interval says what other training rows would change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.reports.statistics import ALPHA, Interval

RESAMPLES, CHUNK = 1000, 50
SHARES = [100 * ALPHA / 2, 100 - 100 * ALPHA / 2]  # percentiles that bound an interval
Numbers = NDArray[np.float64]


def share_interval(p: Sequence[float], rows: float) -> Interval | None:
    """Returns the 95 % interval of a share of `rows` by seed, of its mean over seeds; None without rows.

    With one seed it is that of `scipy.stats.binomtest(...).proportion_ci(method="wilson")`.
    """
    if not len(p) or rows <= 0:
        return None
    from scipy.stats import norm

    share = float(np.mean(p))
    spread = share * (1 - share)
    n = rows
    if len(p) > 1 and spread > 0:
        n = spread / (spread / rows + float(np.var(p, ddof=1)) / len(p))
    z2 = float(norm.ppf(1 - ALPHA / 2)) ** 2
    centre, half = (share + z2 / (2 * n)) / (1 + z2 / n), (z2 * (spread / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def f1_interval(j: Sequence[float], rows: float) -> Interval | None:
    """Returns the 95 % interval of F1; `j` by seed is the share of right rows among `rows` that have or get a label."""
    bounds = share_interval(j, rows)
    return None if bounds is None else [2 * bound / (1 + bound) for bound in bounds]


def mcnemar_p(first: int, second: int) -> float | None:
    """Returns the two-sided p-value of McNemar's exact test; None if no row is right by one arm alone.

    `first` and `second` count the rows that only the first arm, or only the second one, gets right.
    """
    if first + second == 0:
        return None
    from scipy.stats import binomtest

    return float(binomtest(first, first + second).pvalue)


def mean_interval(row: Sequence[int], seed: Sequence[int], value: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of the mean of values, each of a row and a seed; None for fewer than two rows."""
    sums = _resampled(row, seed, np.stack([np.asarray(value, dtype=np.float64), np.ones(len(value))]))
    return None if sums is None else _bounds(sums[:, 0] / sums[:, 1])


def f1_difference_interval(
    row: Sequence[int], seed: Sequence[int], label: Sequence[bool], first: Sequence[bool], second: Sequence[bool]
) -> Interval | None:
    """Returns the 95 % interval of a label's F1 by the first arm minus that by the second one.

    `label` says whether a row has the label, `first` and `second` whether an arm predicts it. Rows where none of the
    three holds need not be among them. None for fewer than two rows.
    """
    y, a, b = (np.asarray(each, dtype=np.float64) for each in (label, first, second))
    sums = _resampled(row, seed, np.stack([y, a, b, y * a, y * b]))
    if sums is None:
        return None
    has, of_a, of_b, both_a, both_b = sums.T
    a_f1, b_f1 = (
        np.divide(2 * both, has + of, out=np.zeros_like(both), where=has + of > 0)
        for both, of in ((both_a, of_a), (both_b, of_b))
    )
    return _bounds(a_f1 - b_f1)


# ---- calibration ----


def calibration_error(place: Sequence[int], gap: Sequence[float] | Numbers) -> float | None:
    """Returns the expected calibration error; `gap` is confidence minus 1 if right, else 0, `place` the bin."""
    if not len(gap):
        return None
    return float(np.abs(np.bincount(place, gap)).sum() / len(gap))


def calibration_error_interval(
    row: Sequence[int], seed: Sequence[int], place: Sequence[int], confidence: Sequence[float], is_right: Sequence[bool]
) -> Interval | None:
    """Returns the 95 % interval of the expected calibration error; None for fewer than two rows.

    The error is a sum of absolute values, so that chance makes it larger, and resampling once more: by about as much,
    which is subtracted from the resamples' percentiles, twice from the lower one. It begins at 0 if a calibrated arm
    may have such an error by chance. In simulations it holds the true error in 86 to 98 % of samples.
    """
    stated, bins = np.asarray(confidence, dtype=np.float64), np.asarray(place)
    gap = stated - np.asarray(is_right, dtype=np.float64)
    error, by_chance = calibration_error(place, gap), calibration_error_by_chance(row, place, confidence)
    parts = [gap * (bins == each) for each in np.unique(bins)]
    sums = _resampled(row, seed, np.vstack([*parts, np.ones(len(gap))])) if len(gap) else None
    if sums is None or error is None or by_chance is None:
        return None
    errors = np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1]
    low, high = _bounds(errors)
    added = max(0.0, float(errors.mean()) - error)
    return [0.0 if error <= by_chance else max(0.0, low - 2 * added), max(error, high - added)]


def calibration_error_by_chance(row: Sequence[int], place: Sequence[int], confidence: Sequence[float]) -> float | None:
    """Returns the expected calibration error that a calibrated arm stays below in 95 % of samples of so many rows.

    Whether a row is right is drawn with its confidence; the seeds of a row are right or wrong together as far as their
    confidences are equal, which is the most that chance can do.
    """
    if not len(confidence):
        return None
    rows, rng = np.unique(row, return_inverse=True)[1], np.random.default_rng(0)
    stated, bins = np.asarray(confidence, dtype=np.float64), np.asarray(place)
    member = (bins[:, None] == np.unique(bins)).astype(np.float64)  # (n, bins)
    errors = []
    for _ in range(RESAMPLES // CHUNK):
        is_right = rng.random((CHUNK, rows.max() + 1))[:, rows] < stated
        errors.append(np.abs((stated - is_right) @ member).sum(axis=1) / len(stated))
    return float(np.percentile(np.concatenate(errors), 100 * (1 - ALPHA)))


# ---- resamples of rows and seeds ----


def _bounds(values: Numbers) -> Interval:
    low, high = np.nanpercentile(values, SHARES)
    return [float(low), float(high)]


def _resampled(row: Sequence[int], seed: Sequence[int], values: Numbers) -> Numbers | None:
    """Returns sums (RESAMPLES, K) of values (K, n) over resampled rows and seeds; None for fewer than two rows.

    Resamples without any row are left out.
    """
    rows, row_of = np.unique(row, return_inverse=True)
    seeds, seed_of = np.unique(seed, return_inverse=True)
    if len(rows) < 2:
        return None
    rng = np.random.default_rng(0)
    R, S, K = len(rows), len(seeds), len(values)
    cells = np.zeros((R, S, K))
    np.add.at(cells, (row_of, seed_of), values.T)
    v = rng.multinomial(S, np.full(S, 1 / S), size=RESAMPLES).astype(np.float64)  # all 1 for one seed
    w = rng.poisson(1.0, (RESAMPLES, R)).astype(np.float64)
    by_seed = (w @ cells.reshape(R, S * K)).reshape(RESAMPLES, S, K)
    sums: Numbers = np.einsum("bs,bsk->bk", v, by_seed)
    return sums[w.any(axis=1)]


# For SQL: the function, the types of its arguments, the type of its result.
_LISTS = ["BIGINT[]", "BIGINT[]"]
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Any], str]] = {
    "share_interval": (share_interval, ["DOUBLE[]", "DOUBLE"], "DOUBLE[]"),
    "f1_interval": (f1_interval, ["DOUBLE[]", "DOUBLE"], "DOUBLE[]"),
    "mcnemar_p": (mcnemar_p, ["BIGINT", "BIGINT"], "DOUBLE"),
    "mean_interval": (mean_interval, [*_LISTS, "DOUBLE[]"], "DOUBLE[]"),
    "f1_difference_interval": (f1_difference_interval, [*_LISTS, *["BOOLEAN[]"] * 3], "DOUBLE[]"),
    "calibration_error": (calibration_error, ["BIGINT[]", "DOUBLE[]"], "DOUBLE"),
    "calibration_error_interval": (
        calibration_error_interval,
        [*_LISTS, "BIGINT[]", "DOUBLE[]", "BOOLEAN[]"],
        "DOUBLE[]",
    ),
    "calibration_error_by_chance": (calibration_error_by_chance, ["BIGINT[]", "BIGINT[]", "DOUBLE[]"], "DOUBLE"),
}
