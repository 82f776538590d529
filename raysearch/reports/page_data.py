"""The data of a page's script: every trial and configuration, curves of the better ones, details of the best ones.

    trials          columns, a place for each trial that has ended; a plot of the page names a trial by its place
    configurations  columns, the best first; `values` has a list for each dimension
    curves          by trial: steps, scores and losses, thinned
    details         by trial: settings that differ from the best trial's, weights, signal and noise, events
    fragments       what a search file needs beside the drawn values to have a trial's configuration

All of it is data: the script makes no markup of it. It is embedded as JSON in which no text ends the element.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.formatting import escape_json, format_value, printable, printable_tree
from raysearch.methods import FAMILIES
from raysearch.reports.run_snapshot import MAX_CURVES, MAX_DETAILS, Snapshot
from raysearch.storage.states import MAIN_ARM, EventName

Json: TypeAlias = Any
DIGITS, CURVE_DIGITS = 5, 4  # of a number
EXACT = 1000  # configurations whose drawn values have all digits; those of worse ones have DIGITS
LONG_CURVE, SHORT_CURVE = 40, 16  # points of the curve of a trial with details, and of another one
LONG_WEIGHTS = 20  # trials with the weights of several steps; the others have the last ones
WEIGHT_STEPS, MAX_NAMES = 16, 40
MAX_EVENTS, MAX_TEXT = 30, 160
MAX_WHY = 3000  # characters of a traceback
SERIES = ("score", "loss", "train_loss", "aux_loss")


def make_page_data(run: Snapshot, tables: Mapping[str, pa.Table], title: str) -> dict[str, Json]:
    """Returns the data of the script, JSON-able."""
    search, trials = run.search, run.trials()
    places = {trial_id: place for place, trial_id in enumerate(trials["trial_id"].to_pylist())}
    arms = list(dict.fromkeys([*run.arms, *trials["arm"].to_pylist()]))
    states = list(dict.fromkeys([*trials["state"].to_pylist(), *run.configurations()["state"].to_pylist()]))
    dimensions = _dimensions(search, trials)
    best = next(iter(_best_of(run, MAIN_ARM)), None)
    names: dict[str, int] = {}
    details = _details(run, tables, names)
    ranked, fragments = _configurations(run, places, states, dimensions)
    texts: dict[str, Json] = printable_tree(  # all texts but ids, which are plain words, and drawn ones: see _word
        {
            "run": run.name,
            "title": title,
            "metric": str(search["task"]["metric"]),
            "arms": arms,
            "roles": list(dict.fromkeys(trials["role"].to_pylist())),
            "states": states,
            "dimensions": dimensions,
            "base": _settings(best) if best else {},
            "fragments": fragments,
            "details": {str(places[trial]): detail for trial, detail in details.items()},
            "names": list(names),
            "left_out": left_out(run) or "This page has no more of this trial.",
        }
    )
    return texts | {
        "best": places.get(best["trial_id"]) if best else None,
        "exact": EXACT,
        "curves_left_out": len(trials) > MAX_CURVES,
        "trials": _trials(trials, arms, states, texts["roles"]),
        "configurations": ranked,
        "curves": {str(places[trial]): curve for trial, curve in _curves(run, tables, places).items()},
    }


def left_out(run: Snapshot) -> str:
    """Returns a sentence on what the page lacks of the worse trials of a large search; empty if it lacks nothing."""
    count = len(run.trials())
    if count <= MAX_DETAILS:
        return ""
    curves = f"the curves of {MAX_CURVES:,} of the {count:,} trials and " if count > MAX_CURVES else ""
    return (
        f"To stay small, this page has {curves}the settings, weights and events of {MAX_DETAILS} of the {count:,} "
        "trials, the best ones and some that failed; the tables of the run have all."
    )


def to_script_json(data: Json) -> str:
    """Returns JSON that can stand in a script element: no text of it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return escape_json(text)


def _short(value: Any, digits: int = DIGITS) -> Any:
    """Returns a number with so many digits; infinity and NaN, which JSON does not have, as None."""
    if isinstance(value, float):
        return _whole(float(f"{value:.{digits}g}")) if math.isfinite(value) else None
    return value


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _numbers(column: pa.ChunkedArray) -> list[Any]:
    return [_short(value) for value in column.to_pylist()]


def _places(words: Sequence[str], column: pa.ChunkedArray) -> list[int]:
    place = {word: i for i, word in enumerate(words)}
    return [place[word] for word in column.to_pylist()]


def _trials(trials: pa.Table, arms: Sequence[str], states: Sequence[str], roles: Sequence[str]) -> dict[str, list[Any]]:
    columns = {name: trials[name].to_pylist() for name in ("number", "seed")}
    numbers = {name: _numbers(trials[name]) for name in ("score", "best_step", "steps", "seconds")}
    places = {"arm": _places(arms, trials["arm"]), "state": _places(states, trials["state"])}
    places["role"] = _places(roles, trials["role"])
    return {"id": trials["trial_id"].to_pylist(), **columns, **places, **numbers}


def _dimensions(search: Mapping[str, Any], trials: pa.Table) -> list[dict[str, Any]]:
    """Returns what was varied in any arm: name, where a search file fixes it, kind, ends or values."""
    declared = dict(search.get("dimensions", {}))
    for baseline in search.get("baselines", {}).values():
        declared = {**baseline.get("dimensions", {}), **declared}
    drawn: dict[str, list[Any]] = {}
    for params in set(trials["params"].to_pylist()):
        for name, value in json.loads(params or "{}").items():
            drawn.setdefault(name, []).append(value)
    names = [*(name for name in search.get("dimensions", {}) if name in drawn)]
    others = sorted(drawn.keys() - set(names))
    return [_dimension(name, declared.get(name, {}), drawn[name]) for name in [*names, *others]]


def _dimension(name: str, declared: Mapping[str, Any], drawn: Iterable[Any]) -> dict[str, Any]:
    """Returns a dimension as it is declared; one of a shipped baseline is not, and has the values that were drawn."""
    place = "method" if name in FAMILIES else "space" if name == "space" else "settings"
    dimension: dict[str, Any] = {"name": name, "place": place}
    for kind in ("float", "int"):
        if kind in declared:
            low, high = declared[kind]
            return {**dimension, "kind": kind, "low": low, "high": high, "log": bool(declared.get("log"))}
    if "choice" not in declared and all(type(value) in (int, float) for value in drawn):
        is_whole = all(type(value) is int for value in drawn)
        return {**dimension, "kind": "int" if is_whole else "float", "log": not is_whole and min(drawn) > 0}
    return {**dimension, "kind": "choice", "values": [_word(value) for value in declared.get("choice", [])]}


def _word(value: Any) -> Any:
    """Returns a value as the script compares it: a float of a whole number is written without its point there."""
    if isinstance(value, float) and math.isfinite(value):
        return _whole(value)
    return printable(value) if isinstance(value, str) else value


def _configurations(
    run: Snapshot,
    places: Mapping[str, int],
    states: Sequence[str],
    dimensions: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the columns of configurations, best first, and the fragments that they refer to."""
    table = run.configurations()
    params = [json.loads(text or "{}") for text in table["params"].to_pylist()]
    values = [
        [
            _word(value) if i < EXACT else _word(_short(value))
            for i, value in enumerate(drawn.get(name) for drawn in params)
        ]
        for name in (dimension["name"] for dimension in dimensions)
    ]
    trial = [places[trial_id] for trial_id in table["trial_id"].to_pylist()]
    fragment, fragments = _fragments(run, table["arm"].to_pylist(), params, trial)
    columns = {
        "trial": trial,
        "state": _places(states, table["state"]),
        "seeds": table["seeds"].to_pylist(),
        **{name: _numbers(table[name]) for name in ("score", "sd", "seconds")},
        "values": values,
        "fragment": fragment,
    }
    return columns, fragments


def _fragments(
    run: Snapshot, arms: Sequence[str], params: Sequence[Mapping[str, Any]], trials: Sequence[int]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Returns the number of each configuration's fragment, and the fragments.

    Which settings a trial uses depends on its methods and its space alone, so that one plan of each kind tells.
    """
    plans, search = run.trials()["plan"], run.search
    numbers: list[int] = []
    place: dict[tuple[Any, ...], int] = {}
    fragments: list[dict[str, Any]] = []
    for arm, drawn, trial in zip(arms, params, trials, strict=True):
        key = (arm, *(drawn.get(name) for name in (*FAMILIES, "space")), frozenset(drawn))
        if key not in place:
            place[key] = len(fragments)
            fragments.append(_fragment(search, arm, drawn, json.loads(plans[trial].as_py() or "{}")))
        numbers.append(place[key])
    return numbers, fragments


def _fragment(search: Mapping[str, Any], arm: str, drawn: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Returns method, space, profile and fixed settings of an arm, as its trials with these dimensions have them."""
    baseline = search.get("baselines", {}).get(arm, {})
    declared = {**search.get("settings", {}), **baseline.get("settings", {})}
    used = plan.get("settings", {})
    settings = {name: used[name] for name in declared if name in used and name not in drawn}
    settings |= {name: value for name, value in declared.items() if "." in name and name not in drawn}
    has_objectives = bool(plan.get("objectives"))
    return {
        "method": {family: plan[family] for family in FAMILIES if family in plan and family not in drawn},
        "space": (baseline.get("space") or search.get("space") or "") if has_objectives else "",
        "profile": baseline.get("profile") or search.get("profile") or "",
        "settings": {name: _word(value) for name, value in settings.items()},
    }


def _best_of(run: Snapshot, arm: str) -> list[dict[str, Any]]:
    return [row for row in run.best_trials.select(["arm", "trial_id", "plan"]).to_pylist() if row["arm"] == arm]


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns methods and settings of a trial's plan, and what else may differ between trials of a run."""
    plan = json.loads(row["plan"] or "{}")
    settings: dict[str, Any] = {family: plan[family] for family in FAMILIES if family in plan}
    settings |= plan.get("settings", {})
    settings["objectives"] = len(plan.get("objectives", ()))
    return {name: _short(value) for name, value in settings.items()}


def _curves(run: Snapshot, tables: Mapping[str, pa.Table], places: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Returns the thinned curves on select-dev by trial; the losses too of trials with details."""
    import duckdb

    detailed, curves = set(run.detailed_trials), {}
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.register("evaluations", tables["evaluations"])
        connection.register("detailed", pa.table({"trial_id": pa.array(run.detailed_trials, pa.string())}))
        columns = ", ".join(f"list({name} ORDER BY step)" for name in ("step", *SERIES))
        rows = connection.sql(
            f"""
            WITH numbered AS (
                SELECT evaluations.*, row_number() OVER w AS place, count(*) OVER (PARTITION BY trial_id) AS total,
                    first(step) OVER (PARTITION BY trial_id ORDER BY score DESC, step) AS best_step,
                    CASE WHEN detailed.trial_id IS NULL THEN {SHORT_CURVE} ELSE {LONG_CURVE} END AS most
                FROM evaluations LEFT JOIN detailed USING (trial_id)
                WHERE split = 'select_dev'
                WINDOW w AS (PARTITION BY trial_id ORDER BY step)
            )
            SELECT trial_id, any_value(total), {columns} FROM numbered
            WHERE total <= most OR place IN (1, total) OR step = best_step
               OR floor(place * (most - 1) / total) > floor((place - 1) * (most - 1) / total)
            GROUP BY trial_id
            """
        ).fetchall()
    chosen = set(run.curve_trials)
    for trial_id, total, step, *series in sorted(rows):
        if trial_id not in places or trial_id not in chosen:
            continue
        curve: dict[str, Any] = {"step": step}
        for name, values in zip(SERIES, series, strict=True):
            if (name == "score" or trial_id in detailed) and any(value is not None for value in values):
                curve[name] = [_short(value, CURVE_DIGITS) for value in values]
        curves[trial_id] = curve | ({"thinned": total} if total > len(step) else {})
    return {trial_id: curves[trial_id] for trial_id in run.curve_trials if trial_id in curves}


def _details(run: Snapshot, tables: Mapping[str, pa.Table], names: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Returns what the page has of the trials with details. `names` numbers the objectives, and grows."""
    chosen = pa.array(run.detailed_trials, pa.string())
    trials, weights = run.trials(), tables["weights"]
    rows = trials.filter(pc.is_in(trials["trial_id"], chosen)).select(["trial_id", "arm", "state", "why", "plan"])
    base = next((_settings(row) for row in _best_of(run, MAIN_ARM)), {})
    details: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        settings = _settings(row)
        differs = {name: settings.get(name) for name in {**base, **settings} if settings.get(name) != base.get(name)}
        details[row["trial_id"]] = {"settings": dict(sorted(differs.items()))}
        if row["state"] == "failed":
            details[row["trial_id"]]["why"] = (row["why"] or "")[-MAX_WHY:]
    weight_rows = weights.filter(pc.is_in(weights["trial_id"].cast(pa.string()), chosen)).to_pylist()
    long = set(run.detailed_trials[:LONG_WEIGHTS])
    for trial_id, of_trial in _by_trial(weight_rows).items():
        details[trial_id] |= _weights(of_trial, names, WEIGHT_STEPS if trial_id in long else 1)
    events = run.events()
    happened = events.filter(pc.is_in(events["trial_id"], chosen)).to_pylist()
    for trial_id, of_trial in _by_trial(happened).items():
        details[trial_id] |= _events(of_trial)
    return details


def _by_trial(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    trials: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        trials.setdefault(row["trial_id"], []).append(row)
    return trials


def _weights(rows: list[dict[str, Any]], names: dict[str, int], most: int) -> dict[str, Any]:
    """Returns a trial's weights by kind and stage, thinned to so many steps, and its last signal."""
    groups: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    signal: list[dict[str, Any]] = []
    for row in rows:
        if row["kind"] == "signal":
            signal.append(row)
        else:
            weights = groups.setdefault((row["kind"], row["stage"]), {}).setdefault(row["name"], {})
            weights[row["step"]] = row["weight"]
    shown: dict[str, Any] = {}
    charts = []
    for (kind, stage), by_name in groups.items():
        steps = sorted({step for by_step in by_name.values() for step in by_step})
        steps = [steps[-1 - i * len(steps) // most] for i in range(min(most, len(steps)))][::-1]
        largest = sorted(by_name, key=lambda name: -max(by_name[name].values()))[:MAX_NAMES]
        values = [[_short(by_name[name].get(step)) for step in steps] for name in largest]
        numbers = [names.setdefault(name, len(names)) for name in largest]
        charts.append({"kind": kind, "stage": stage, "step": steps, "names": numbers, "values": values})
    if charts:
        shown["weights"] = charts
    if signal:
        last = max(row["step"] for row in signal)
        ended = [row for row in signal if row["step"] == last][:MAX_NAMES]
        shown["signal"] = {
            "names": [names.setdefault(row["name"], len(names)) for row in ended],
            "mean": [_short(row["score"]) for row in ended],
            "errors": [_short(row["weight"]) for row in ended],
        }
    return shown


def _events(rows: list[dict[str, Any]]) -> dict[str, Any]:
    began = rows[0]["time"]
    shown = []
    for row in rows[:MAX_EVENTS]:
        detail = {} if row["event"] == EventName.ASKED else json.loads(row["detail"] or "{}")
        text = printable(format_value(detail)) if detail else ""
        shown.append([_short((row["time"] - began).total_seconds()), row["event"], row["attempt"], text[:MAX_TEXT]])
    return {"began": f"{began:%Y-%m-%d %H:%M:%S} UTC", "events": shown}
