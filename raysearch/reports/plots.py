"""Plots of a run as SVG, drawn from the answers of the reports.

`numbers` has the place of each trial in the data of the page (see `page_data`), so that its script can name a trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from raysearch.formatting import MINUS
from raysearch.reports.axis import Axis
from raysearch.reports.chart import DASHES, Chart
from raysearch.storage.states import MAIN_ARM, TrialState

Rows = list[dict[str, Any]]  # the answer of a report; None for null
Numbers = Mapping[str, int]  # by trial

STATES = {
    TrialState.COMPLETE: ("s1", "o"),
    TrialState.STOPPED: ("s2", "v"),
    TrialState.FAILED: ("s6", "x"),
    TrialState.RUNNING: ("muted", "o"),
}
SCORED = (TrialState.COMPLETE, TrialState.STOPPED)  # states of trials that are drawn at their score
MAX_POINTS = 300  # of a plot; of more trials the best ones are drawn, and others evenly spread
MAX_CURVES, MAX_EVALUATIONS = 100, 30


def small_chart(name: str, label: str, x: Axis, y: Axis, *, title: str = "", note: str = "") -> Chart:
    """Returns an empty plot of which several stand side by side."""
    return Chart(name, label, x, y, title=title, note=note, width=320, height=230)


def grouped(rows: Rows, key: str) -> dict[str, Rows]:
    """Returns the rows by the value of a column, in the order in which the values occur."""
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def column(rows: Rows, name: str) -> list[Any]:
    """Returns one column of the rows."""
    return [row[name] for row in rows]


def complete(rows: Rows) -> Rows:
    """Returns the rows of complete trials."""
    return [row for row in rows if row["state"] == TrialState.COMPLETE]


def thinned(rows: Rows, most: int = MAX_POINTS) -> Rows:
    """Returns at most so many rows in their order: the third with the highest scores, and others evenly spread."""
    if len(rows) <= most:
        return rows
    ranked = sorted(range(len(rows)), key=lambda i: (rows[i]["score"] is None, -(rows[i]["score"] or 0.0), i))
    best, others = ranked[: most // 3], sorted(ranked[most // 3 :])
    room = most - len(best)
    places = {*best, *(others[place * len(others) // room] for place in range(room))}
    return [row for i, row in enumerate(rows) if i in places]


def few_points(rows: Rows, most: int = MAX_EVALUATIONS) -> Rows:
    """Returns at most so many rows, evenly spread, with the first and the last one."""
    if len(rows) <= most:
        return rows
    return [rows[place * (len(rows) - 1) // (most - 1)] for place in range(most)]


def best_so_far(rows: Rows, over: str, metric: str, numbers: Numbers | None = None) -> str:
    """Plots the score of each trial and the best score of each arm, over "nth" (configurations) or "seconds"."""
    words = {"nth": "configurations tried", "seconds": "seconds spent"}[over]
    rows = [row for row in rows if row[over] is not None]
    x = Axis(label=words, low=0, whole=True)
    y = score_axis(rows, metric)
    chart = Chart(f"best-{over}", f"Best {metric} over {words}", x, y)
    scatter_states(chart, thinned([row for row in rows if row["arm"] == MAIN_ARM]), over, numbers)
    for i, (arm, of_arm) in enumerate(grouped(rows, "arm").items()):
        scored = [row for row in of_arm if row["best"] is not None]
        if scored:
            end = max(column(rows if over == "seconds" else of_arm, over))
            places, best = [*column(scored, over), end], [*column(scored, "best"), scored[-1]["best"]]
            chart.steps(places, best, arm_colour(arm, i), dashes=DASHES[i % len(DASHES)], label=f"best of {arm}")
    return chart.svg


def curves(rows: Rows, metric: str, best: Mapping[str, str], numbers: Numbers | None = None) -> list[str]:
    """Plots learning curves: of the trials of the search by their states, and of each arm's best trial.

    `best` has the best trial's id by arm. Of many trials, the best ones and others are drawn.
    """
    numbers, trials, svgs = numbers or {}, grouped(rows, "trial_id"), []
    of_search = [trial for trial in trials.values() if trial[0]["arm"] == MAIN_ARM]
    if of_search:
        last = [{"score": trial[-1]["score"], "trial": trial} for trial in of_search]
        shown = [row["trial"] for row in thinned(last, MAX_CURVES)]
        every = "every trial" if len(shown) == len(of_search) else f"{len(shown)} of {len(of_search)} trials"
        chart = _curves_chart("curves-all", f"{every} of the search", metric)
        for trial in shown:
            colour, marker = STATES[trial[0]["state"]]
            is_best = trial[0]["trial_id"] == best.get(MAIN_ARM)
            number, (width, opacity) = numbers.get(trial[0]["trial_id"]), (2.2, 1.0) if is_best else (1.0, 0.6)
            curve = few_points(trial)
            steps, scores = column(curve, "step"), column(curve, "score")
            chart.line(steps, scores, colour, trial=number, width=width, opacity=opacity)
            end = trial[-1]
            chart.points([end["step"]], [end["score"]], colour, marker=marker, size=4.5, trials=[number])
        svgs.append(chart.svg)
    best = {arm: best[arm] for arm in grouped(rows, "arm") if best.get(arm) in trials}
    if best:
        chart = _curves_chart("curves-best", "the best trial of each arm", metric)
        for i, (arm, trial_id) in enumerate(best.items()):
            curve = few_points(trials[trial_id], 2 * MAX_EVALUATIONS)
            x, y = column(curve, "step"), column(curve, "score")
            dashes = DASHES[i % len(DASHES)]
            chart.line(x, y, arm_colour(arm, i), trial=numbers.get(trial_id), dashes=dashes, label=arm)
        svgs.append(chart.svg)
    return svgs


def _curves_chart(name: str, title: str, metric: str) -> Chart:
    x, y = Axis(label="optimizer steps", whole=True), Axis(label=f"select-dev {metric}")
    return Chart(name, f"{metric} over steps: {title}", x, y, title=title)


def dimensions(
    rows: Rows,
    declared: Mapping[str, Any],
    metric: str,
    best: str | None,
    numbers: Numbers | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[str]:
    """Plots, for each dimension, the score against the value, with a ring around the trial `best`.

    All plots have the same scale of scores. Words are placed side by side. `notes` has the rank correlation of each
    dimension where the rows are not those of all trials.
    """
    svgs, y = [], score_axis(rows, metric)
    for i, (name, points) in enumerate(grouped(rows, "dimension").items()):
        declaration, note = declared.get(name, {}), ""
        if "choice" in declaration or any(row["number"] is None for row in points):
            x, points = words_as_places(points, declaration.get("choice") or [])
        else:
            x, note = value_axis(declaration), rank_correlation(points) if notes is None else notes.get(name, "")
        chart = small_chart(f"dimension{i}", f"{metric} against {name}", x, y, title=name, note=note)
        scatter_states(chart, points, "number", numbers)
        ringed = [row for row in points if row["trial_id"] == best and row["score"] is not None]
        chart.points(column(ringed, "number"), column(ringed, "score"), "ink", marker="O", size=11)
        svgs.append(chart.svg)
    return svgs


def differences(rows: Rows, metric: str) -> str:
    """Plots, for each baseline, the paired difference to the search's winner with its 95 % interval."""
    rows = [row for row in rows if row["low"] is not None]
    far = 1.15 * max(abs(row[end]) for row in rows for end in ("low", "high")) or 0.01
    x = Axis(label=f"{metric}: search minus baseline, 95 % interval", low=-far, high=far)
    label = f"Difference in {metric}, search minus baseline"
    chart = Chart("differences", label, x, Axis(words=tuple(column(rows, "arm"))), height=52 + 26 * len(rows))
    chart.rule(0, "ink", dashes="")
    for place, row in enumerate(rows):
        colour = "muted" if row["low"] <= 0 <= row["high"] else "s1"
        chart.segment([row["low"], row["high"]], [place, place], colour, width=2)
        chart.points([row["difference"]], [place], colour, size=8)
    return chart.svg


def score_axis(rows: Rows, metric: str) -> Axis:
    """Returns the axis of the scores of complete trials; below them is room for trials without a score.

    A trial that was stopped may have the highest score.
    """
    scored = [row for row in rows if row["state"] in SCORED and row["score"] is not None]
    scores = column(complete(scored), "score") or column(scored, "score") or [0.0, 1.0]
    low, high = min(scores), max([*scores, *column(scored, "score")])
    room = 0.08 * (high - low) or 0.01
    return Axis(label=f"select-dev {metric}", low=low - 2.5 * room, high=high + room)


def scatter_states(chart: Chart, rows: Rows, x: str, numbers: Numbers | None = None) -> None:
    """Draws trials at their scores, those that were stopped at the score that they had then.

    A failed trial has no score and is at the lower edge, as is one that was stopped below every complete one. The
    chart's second axis is a `score_axis`.
    """
    numbers = numbers or {}
    assert chart.y.low is not None
    assert chart.y.high is not None
    edge = chart.y.low + 0.2 * (chart.y.high - chart.y.low) / 3.5 / 3
    for state, (colour, marker) in STATES.items():
        in_state = [row for row in rows if row["state"] == state]
        y = [row["score"] if state in SCORED and row["score"] is not None else edge for row in in_state]
        if in_state:
            trials = [numbers.get(row["trial_id"]) for row in in_state] if numbers else ()
            places, heights = column(in_state, x), [max(score, edge) for score in y]
            chart.points(places, heights, colour, marker=marker, opacity=0.85, trials=trials)


def rank_correlation(rows: Rows) -> str:
    """Returns Spearman's rho of value and score over complete trials, in words; empty for fewer than eight."""
    from scipy.stats import spearmanr

    finished = complete(rows)
    values, scores = column(finished, "number"), column(finished, "score")
    if len(finished) < 8 or len(set(values)) == 1 or len(set(scores)) == 1:
        return ""
    return f"rank correlation {float(spearmanr(values, scores).statistic):+.2f}".replace("-", MINUS)


def words_as_places(rows: Rows, choices: Iterable[object]) -> tuple[Axis, Rows]:
    """Returns an axis of words, and the rows with the place of their word as number, shifted so as not to overlap."""
    words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
    words += sorted({row["value"] for row in rows} - set(words))
    places = {word: place for place, word in enumerate(words)}
    counts: Counter[str] = Counter()
    spread = 2 if len(rows) <= 60 * len(words) else 5  # many trials of a word need more room
    placed = []
    for row in rows:
        shift = 0.06 * (counts[row["value"]] % (2 * spread + 1) - spread)
        placed.append({**row, "number": places[row["value"]] + shift})
        counts[row["value"]] += 1
    return Axis(words=tuple(word.replace("_", " ") for word in words)), placed


def value_axis(declaration: Mapping[str, Any]) -> Axis:
    """Returns the axis of the declared range, with room on both sides."""
    bounds: list[float] = declaration.get("float") or declaration.get("int") or []
    axis = Axis(log=bool(declaration.get("log")), whole="int" in declaration)
    if not bounds:
        return axis
    if axis.log:
        margin = (bounds[1] / bounds[0]) ** 0.04
        return replace(axis, low=bounds[0] / margin, high=bounds[1] * margin)
    margin = 0.04 * (bounds[1] - bounds[0]) or 0.5
    return replace(axis, low=bounds[0] - margin, high=bounds[1] + margin)


def arm_colour(arm: str, place: int) -> str:
    """Returns blue for the search, another colour for each baseline after it."""
    return "s1" if arm == MAIN_ARM else ("s3", "s4", "s5", "s6")[(place - 1) % 4]
