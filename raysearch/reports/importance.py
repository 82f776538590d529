"""How much each dimension of a search matters, with an interval: the view `importances`.

    importance  the share of the variance of the responses that a dimension explains by itself: the first-order term of
                functional ANOVA (Hutter, Hoos & Leyton-Brown, ICML 2014), which the values that were drawn estimate
                directly: adjusted R^2 of a one-way analysis of variance over the dimension's values, or over groups
                with about equally many configurations. A dimension that does nothing has 0 in the mean.
    w, v        how often a configuration and a seed occur in a resample: both are drawn with replacement

An interval is that of the resamples, moved by the mean of what resampling adds: a configuration that occurs twice looks
like two that agree. What a dimension does together with others is not in its share, and where the sampler has learned
which values are good, there are few others to compare them with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.reports.statistics import ALPHA
from raysearch.reports.trial_sample import LEAST, Numbers, Sample
from raysearch.storage.schemas import column

RESAMPLES = 500
MOST_GROUPS, LEAST_IN_GROUP = 8, 10  # groups of values of a dimension; configurations in each
IMPORTANCES = pa.schema(
    [
        column("dimension", pa.string(), "the dimension"),
        column("configurations", pa.int64(), "those that have a value of it, and a response"),
        column("groups", pa.int64(), "groups of values that are compared"),
        column("importance", pa.float64(), "share of the variance of the responses, less what chance adds"),
        column("low", pa.float64(), "lower end of its 95 % interval"),
        column("high", pa.float64(), "upper end"),
        column(
            "behind", pa.bool_(), "whether it matters less than the first dimension, by the interval of the difference"
        ),
        column("response", pa.string(), "score; or beaten, the share of other configurations that one beats"),
        column("stopped", pa.int64(), "configurations of the sample that were not complete"),
        column("failed", pa.int64(), "configurations that are left out, because they have no score"),
        column("total", pa.int64(), "configurations of which the sample was drawn"),
    ]
)


def importances(sample: Sample | None) -> pa.Table:
    """Returns the view `importances`, the dimension with the highest lower end first."""
    if sample is None:
        return IMPORTANCES.empty_table()
    names = list(dict.fromkeys(name for params in sample.params for name in params))
    n, C = sample.S.shape
    rng = np.random.default_rng(0)
    w = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    responses = sample.responses(rng.multinomial(C, np.full(C, 1 / C), size=RESAMPLES).astype(np.float64))
    estimates, resamples = {}, {}
    for name in names:
        values = [params.get(name) for params in sample.params]
        groups = group_values(values)
        if groups is None:
            continue
        point = float(variance_share(np.ones((1, n)), sample.y[None], groups)[0])
        again = variance_share(w, responses, groups)
        resamples[name] = again - np.nanmean(again) + point
        estimates[name] = (point, *np.nanpercentile(resamples[name], [50 * ALPHA, 100 - 50 * ALPHA]))
    return _table(sample, estimates, resamples)


def _table(sample: Sample, estimates: Mapping[str, Sequence[float]], resamples: Mapping[str, Numbers]) -> pa.Table:
    ranked = sorted(estimates, key=lambda name: (-estimates[name][1], name))
    rows = []
    for name in ranked:
        point, low, high = estimates[name]
        lead = resamples[ranked[0]] - resamples[name]
        groups = group_values([params.get(name) for params in sample.params])
        rows.append(
            {
                "dimension": name,
                "configurations": int((groups >= 0).sum()) if groups is not None else 0,
                "groups": int(groups.max()) + 1 if groups is not None else 0,
                "importance": point,
                "low": float(low),
                "high": float(high),
                "behind": name != ranked[0] and float(np.nanpercentile(lead, 50 * ALPHA)) > 0,
                "response": "score" if sample.is_score else "beaten",
                "stopped": sample.stopped,
                "failed": sample.failed,
                "total": sample.total,
            }
        )
    return pa.Table.from_pylist(rows, schema=IMPORTANCES)


def group_values(values: Sequence[Any]) -> NDArray[np.int64] | None:
    """Returns the group (n,) of each value, -1 for None; None if there are no two groups to compare."""
    known = [value for value in values if value is not None]
    is_number = all(type(value) in (int, float) for value in known)
    distinct = {(type(value), str(value)) for value in known}
    if len(known) < LEAST or len(distinct) < 2:
        return None
    count = int(np.clip(len(known) // LEAST_IN_GROUP, 2, MOST_GROUPS))
    if is_number and len(distinct) > count:
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        edges = np.unique(np.nanquantile(numbers, np.arange(1, count) / count))
        groups = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
    else:
        place = {key: i for i, key in enumerate(sorted(distinct, key=str))}
        groups = np.array([-1 if value is None else place[type(value), str(value)] for value in values])
    present, compact = np.unique(groups[groups >= 0], return_inverse=True)
    if len(present) < 2 or len(present) >= len(known):
        return None
    result = np.full(len(groups), -1, dtype=np.int64)
    result[groups >= 0] = compact
    return result


def variance_share(w: Numbers, y: Numbers, groups: NDArray[np.int64]) -> Numbers:
    """Returns the adjusted R^2 (B,) of responses y (B, n) by group, each counted w (B, n) times.

    NaN where fewer than two groups are left, or all responses are equal.
    """
    member = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float64)  # (n, groups)
    w = w * (groups >= 0)
    counts, sums = w @ member, (w * y) @ member
    n, k = w.sum(axis=1), (counts > 0).sum(axis=1)
    mean = sums.sum(axis=1) / np.maximum(n, 1)
    total = (w * np.square(y - mean[:, None])).sum(axis=1)
    between = (np.square(sums - counts * mean[:, None]) / np.maximum(counts, 1)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Numbers = 1 - (total - between) / (n - k) * (n - 1) / total
    return np.where((k > 1) & (n > k) & (total > 1e-12 * np.maximum(n * mean**2, 1e-300)), share, np.nan)
