"""What the objectives of a search do for its score, with intervals: the view `objective_effects`.

    X (n, p)   one column for each effect: whether a trial has a primitive or an objective in its space (1, or 0), or
               how much weight it had at the end of training where every trial has it; controls: the other dimensions
    y (n,)     the responses of the trials (`trial_sample`)
    beta (p,)  effects, by ridge regression: (X' W X + alpha I)^-1 X' W y, with all columns centred and the controls in
               standard deviations; alpha is small, because an effect that is shrunk is not the one that was asked for

The models are fitted one after another: primitives; primitives and their pairs, where the effect of a pair is how much
more one primitive does with the other one; objectives. Intervals are those of a bootstrap over configurations and
seeds. With few configurations the controls are left out, and with fewer still each effect is estimated by itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.objectives.primitive import STAGES
from raysearch.reports.statistics import ALPHA
from raysearch.reports.trial_sample import Numbers, Sample
from raysearch.storage.schemas import column

RESAMPLES = 300
ALPHA_OF_RIDGE = 0.1  # as a tenth of a configuration that says that nothing has an effect
LEAST_TRIALS = 3  # with an objective, and as many without it
ROWS_PER_COLUMN = 3  # configurations for each column of X; with fewer, a bootstrap's intervals are too short
LEAST_SPREAD = 1e-3  # standard deviation of final weights over trials, below which they do not differ
MOST_PAIRS, MOST_OBJECTIVES = 40, 60
WEIGHT_UNIT = 0.1  # an effect of final weight is that of a tenth more of the auxiliary weight
SAME = 0.999  # correlation of columns that cannot be distinguished
EFFECTS = pa.schema(
    [
        column("kind", pa.string(), "primitive, pair (of primitives of two stages) or objective"),
        column("name", pa.string(), "which; those that the same trials have are joined by ="),
        column(
            "measure", pa.string(), "presence; or weight, a tenth more of the auxiliary weight at the end of training"
        ),
        column("present", pa.int64(), "configurations that have it"),
        column("configurations", pa.int64(), "configurations that are compared"),
        column("effect", pa.float64(), "what it adds to the response, all else equal"),
        column("low", pa.float64(), "lower end of its 95 % interval"),
        column("high", pa.float64(), "upper end"),
        column("response", pa.string(), "score; or beaten, the share of other configurations that one beats"),
    ]
)
Names = list[str]


@dataclass(frozen=True)
class _Columns:
    """Named columns of X."""

    names: Names
    X: Numbers  # (n, p)
    measure: str = "presence"

    def take(self, places: Sequence[int]) -> _Columns:
        return _Columns([self.names[i] for i in places], self.X[:, places], self.measure)


def objective_effects(sample: Sample | None, weights: pa.Table) -> pa.Table:
    """Returns the view `objective_effects`: no rows where all trials have the same objectives with the same weights."""
    if sample is None:
        return EFFECTS.empty_table()
    objectives = _objectives(sample, weights)
    if objectives is None:
        return EFFECTS.empty_table()
    primitives, pairs = _primitives(objectives)
    controls = _controls(sample, primitives, objectives)
    singles = _distinct(objectives, primitives.X)
    rows = [*_fit(sample, "primitive", primitives, controls)]
    rows += _fit(sample, "pair", pairs, controls, mains=primitives.X)
    if len(singles.names) <= MOST_OBJECTIVES:
        rows += _fit(sample, "objective", singles, controls)
    return pa.Table.from_pylist(rows, schema=EFFECTS)


# ---- columns ----


def _objectives(sample: Sample, weights: pa.Table) -> _Columns | None:
    """Returns a column for each objective, of presence or else of final weight; None if no trial differs."""
    plans = [json.loads(plan).get("objectives") or [] for plan in sample.plans]
    spaces = [{"/".join(str(each[stage]) for stage in STAGES) for each in plan} for plan in plans]
    names = list(dict.fromkeys(name for plan in spaces for name in sorted(plan)))
    if not names:
        return None
    X = np.array([[float(name in space) for name in names] for space in spaces])
    if (X.std(axis=0) > 0).any():
        return _Columns(names, X)
    final = _final_weights(weights, sample.trial_ids)
    if any(trial_id not in final for trial_id in sample.trial_ids):
        return None
    X = np.array([[final[trial_id].get(name, 0.0) for name in names] for trial_id in sample.trial_ids]) / WEIGHT_UNIT
    return _Columns(names, X, "weight") if (X.std(axis=0) * WEIGHT_UNIT > LEAST_SPREAD).any() else None


def _final_weights(weights: pa.Table, trial_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the weight of every objective at the last step at which it was logged, by trial."""
    of_sample = pc.is_in(weights["trial_id"], value_set=pa.array(trial_ids, pa.string()))
    rows = weights.filter(pc.and_(of_sample, pc.equal(weights["kind"], "objective"))).select(
        ["trial_id", "step", "name", "weight"]
    )
    last = rows.group_by("trial_id").aggregate([("step", "max")])
    rows = rows.join(last, "trial_id") if len(rows) else rows
    final: dict[str, dict[str, float]] = {}
    for row in rows.filter(pc.equal(rows["step"], rows["step_max"])).to_pylist() if len(rows) else ():
        final.setdefault(row["trial_id"], {})[row["name"]] = row["weight"] or 0.0
    return final


def _primitives(objectives: _Columns) -> tuple[_Columns, _Columns]:
    """Returns the columns of primitives, and those of pairs of primitives of two stages."""
    parts = [name.split("/") for name in objectives.names]
    used: dict[tuple[int, str], list[int]] = {}
    for place, part in enumerate(parts):
        for stage, primitive in enumerate(part):
            used.setdefault((stage, primitive), []).append(place)
    is_weight = objectives.measure == "weight"
    columns = {key: objectives.X[:, places].sum(axis=1) for key, places in used.items()}
    columns = {key: x if is_weight else (x > 0).astype(np.float64) for key, x in columns.items()}
    keys = sorted(key for key, x in columns.items() if _varies(x))
    names = [f"{STAGES[stage]} {primitive}" for stage, primitive in keys]
    X = np.array([columns[key] for key in keys]).reshape(len(keys), -1).T
    primitives = _distinct(_Columns(names, X, objectives.measure), np.empty((len(objectives.X), 0)))
    chosen = [(keys[i], primitives.X[:, place]) for place, i in enumerate(_first_places(names, primitives.names))]
    pairs: dict[str, Numbers] = {}
    for (a, x), (b, z) in itertools.combinations(chosen, 2):
        if a[0] != b[0] and _crosses(x, z, is_weight=is_weight):
            pairs[f"{STAGES[a[0]]} {a[1]} with {STAGES[b[0]]} {b[1]}"] = (x - x.mean()) * (z - z.mean())
    columns_of_pairs = np.array([*pairs.values()]).reshape(len(pairs), len(objectives.X)).T
    others = _distinct(_Columns([*pairs], columns_of_pairs, objectives.measure), primitives.X)
    return primitives, others if len(others.names) <= MOST_PAIRS else others.take([])


def _first_places(names: Names, grouped: Names) -> list[int]:
    """Returns the place of the first name of each group."""
    return [names.index(group.split(" = ")[0]) for group in grouped]


def _varies(x: Numbers) -> bool:
    if np.isin(x, (0.0, 1.0)).all():
        return bool(LEAST_TRIALS <= x.sum() <= len(x) - LEAST_TRIALS)
    return bool(x.std() > LEAST_SPREAD)


def _crosses(x: Numbers, z: Numbers, *, is_weight: bool) -> bool:
    """Says whether all four combinations of two primitives occur, and of weights, whether they do not agree."""
    if is_weight:
        return abs(float(np.corrcoef(x, z)[0, 1])) < SAME
    return all(((x == a) & (z == b)).sum() >= LEAST_TRIALS for a in (0, 1) for b in (0, 1))


def _distinct(columns: _Columns, others: Numbers) -> _Columns:
    """Returns the columns that vary and differ from `others`; names of equal columns are joined."""
    groups: list[tuple[Names, Numbers]] = []
    for name, x in zip(columns.names, columns.X.T, strict=True):
        if not _varies(x) or any(_is_same(x, other) for other in others.T):
            continue
        group = next((names for names, other in groups if _is_same(x, other)), None)
        if group is None:
            groups.append(([name], x))
        else:
            group.append(name)
    X = np.array([x for _, x in groups]).reshape(len(groups), len(columns.X)).T
    return _Columns([" = ".join(names) for names, _ in groups], X, columns.measure)


def _is_same(x: Numbers, other: Numbers) -> bool:
    a, b = x - x.mean(), other - other.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return scale > 0 and abs(float(a @ b)) > SAME * scale


def _controls(sample: Sample, primitives: _Columns, objectives: _Columns) -> Numbers:
    """Returns columns of the drawn values, without those that say which objectives a trial has."""
    columns: list[Numbers] = []
    for name in dict.fromkeys(name for params in sample.params for name in params):
        columns += _control([params.get(name) for params in sample.params])
    taken_up = np.hstack([primitives.X, objectives.X])
    chosen = [x for x in columns if x.std() > 0 and not any(_is_same(x, other) for other in taken_up.T)]
    X = np.array(chosen).reshape(len(chosen), len(sample)).T
    return (X - X.mean(axis=0)) / X.std(axis=0) if chosen else X


def _control(values: Sequence[Any]) -> Iterable[Numbers]:
    """Returns a number, in logarithms if all are positive and far apart, and its square; or a column for each value."""
    numbers = [value for value in values if type(value) in (int, float)]
    missing = np.array([float(value is None) for value in values])
    if len(numbers) == len(values) - missing.sum() and len(set(numbers)) > 2:
        x = np.array([np.nan if value is None else float(value) for value in values])
        x = np.log(x) if min(numbers) > 0 and max(numbers) > 20 * min(numbers) else x
        x = np.where(np.isnan(x), 0.0, (x - np.nanmean(x)) / (np.nanstd(x) or 1.0))
        return [x, np.square(x), missing]
    words = [None if value is None else str(value) for value in values]
    return [
        *(np.array([float(word == one) for word in words]) for one in sorted({*words} - {None}, key=str)[1:]),
        missing,
    ]


# ---- the model ----


def _fit(
    sample: Sample, kind: str, columns: _Columns, controls: Numbers, mains: Numbers | None = None
) -> list[dict[str, Any]]:
    """Returns a row for each column, the one with the highest lower end first; `mains` are columns without a row.

    Columns are estimated together, without the controls if these are too many for so few configurations, or else one by
    one; with mains not at all.
    """
    n, p = columns.X.shape
    mains = np.empty((n, 0)) if mains is None else mains
    if n < ROWS_PER_COLUMN * (p + mains.shape[1] + controls.shape[1]):
        controls = controls[:, :0]  # what was drawn besides is noise then, independent of the objectives
    if n >= ROWS_PER_COLUMN * (p + mains.shape[1]):
        estimates = _estimate(sample, columns.X, np.hstack([mains, controls])) if p else np.empty((0, 3))
    elif mains.shape[1]:
        return []
    else:
        estimates = np.vstack([_estimate(sample, x[:, None], mains) for x in columns.X.T])
    rows: list[dict[str, Any]] = [
        {
            "kind": kind,
            "name": name,
            "measure": columns.measure,
            "present": int((columns.X[:, i] > 0).sum()) if kind != "pair" else None,
            "configurations": n,
            **dict(zip(("effect", "low", "high"), map(float, estimates[i]), strict=True)),
            "response": "score" if sample.is_score else "beaten",
        }
        for i, name in enumerate(columns.names)
    ]
    return sorted(rows, key=lambda row: (-row["low"], row["name"]))


def _estimate(sample: Sample, X: Numbers, others: Numbers) -> Numbers:
    """Returns effect, low and high (p, 3) of the columns X, all else equal as far as `others` say it."""
    (n, p), C = X.shape, sample.S.shape[1]
    X = np.hstack([X, others])
    rng = np.random.default_rng(0)
    w = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    responses = sample.responses(rng.multinomial(C, np.full(C, 1 / C), size=RESAMPLES).astype(np.float64))
    effects = _ridge(X, sample.y, np.ones(n), ALPHA_OF_RIDGE)[:p]
    resamples = [_ridge(X, y, of_draw, ALPHA_OF_RIDGE)[:p] for y, of_draw in zip(responses, w, strict=True)]
    bounds = np.percentile(np.array(resamples), [50 * ALPHA, 100 - 50 * ALPHA], axis=0)
    wider = np.sqrt(n / (n - X.shape[1] - 1))  # the residuals of a fit are smaller than the errors
    estimates: Numbers = np.vstack([effects, effects + wider * (bounds - effects)]).T
    return estimates


def _ridge(X: Numbers, y: Numbers, w: Numbers, alpha: float) -> Numbers:
    """Returns beta (p,) of rows that count w (n,) times; the intercept is not shrunk."""
    total = w.sum()
    centred, y = X - (w @ X) / total, y - (w @ y) / total
    weighted = centred.T * w
    beta: Numbers = np.linalg.solve(weighted @ centred + alpha * np.eye(X.shape[1]), weighted @ y)
    return beta
