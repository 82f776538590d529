"""Plots of a grid: the score over the values of one dimension (ATTITTUD's Figure 2), and over two of its eta.

Dery, Dauphin & Grangier (ICLR 2021), https://arxiv.org/abs/2108.11346
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from raysearch.reports.axis import Axis
from raysearch.reports.chart import DASHES, SERIES, Chart
from raysearch.reports.plots import (
    Numbers,
    Rows,
    column,
    complete,
    grouped,
    small_chart,
    value_axis,
    words_as_places,
)

ETA = ("eta_perp", "eta_pos", "eta_neg", "eta_prim")
_MAX_TICKS = 9  # with more values, not each has a tick
_LOG_RATIO = 16  # from this ratio of the largest to the smallest value the axis is logarithmic
_SHADES = 6  # of the colour of a score


def sweeps(rows: Rows, declared: Mapping[str, Any], metric: str) -> list[str]:
    """Plots, for each dimension, the mean score of each value: a line with its standard error, or words side by side.

    There is a row for every trial and dimension. A second dimension with few values gives one line per value.
    """
    dimensions, svgs, y = grouped(complete(rows), "dimension"), [], Axis(label=f"select-dev {metric}")
    for i, (name, points) in enumerate(dimensions.items()):
        chart = Chart(f"sweep{i}", f"mean {metric} for each {name}", Axis(), y, title=name, width=360)
        if any(row["number"] is None for row in points):
            _words(chart, points, declared.get(name, {}).get("choice") or [])
        else:
            _numbers(chart, _by_other_dimension(points, dimensions, name), declared.get(name, {}))
        svgs.append(chart.svg)
    return svgs


def eta_pairs(rows: Rows, declared: Mapping[str, Any], metric: str, numbers: Numbers | None = None) -> list[str]:
    """Plots, for each pair of eta that were searched, the trials; a darker colour is a higher score."""
    trials: dict[str, dict[str, float]] = {}
    for row in complete(rows):
        if row["dimension"] in ETA and row["number"] is not None:
            trials.setdefault(row["trial_id"], {"score": row["score"]})[row["dimension"]] = row["number"]
    svgs = []
    for x, y in combinations([eta for eta in ETA if any(eta in trial for trial in trials.values())], 2):
        places: dict[tuple[float, float], list[tuple[float, int | None]]] = {}
        for trial_id, trial in trials.items():
            if x in trial and y in trial:
                shown = (trial["score"], (numbers or {}).get(trial_id))
                places.setdefault((trial[x], trial[y]), []).append(shown)
        if len(places) < 2:
            continue
        x_axis, y_axis = (Axis(label=eta, log=bool(declared.get(eta, {}).get("log"))) for eta in (x, y))
        chart = small_chart(f"{x}-{y}", f"{metric} over {x} and {y}", x_axis, y_axis)
        _shades(chart, places, metric)
        svgs.append(chart.svg)
    return svgs


def _by_other_dimension(rows: Rows, dimensions: Mapping[str, Rows], name: str) -> dict[str, Rows]:
    """Returns the rows by the value of the only other dimension, in words.

    All rows are under "" if there is not exactly one other dimension, or it has too many values for lines.
    """
    others = [other for other in dimensions if other != name]
    if len(others) != 1:
        return {"": rows}
    of_trial = {row["trial_id"]: row["value"] for row in dimensions[others[0]]}
    values = {value: f"{others[0]} {value}" for value in dict.fromkeys(of_trial.values())}
    if not 1 < len(values) <= len(SERIES) or {row["trial_id"] for row in rows} != of_trial.keys():
        return {"": rows}
    return {label: [row for row in rows if of_trial[row["trial_id"]] == value] for value, label in values.items()}


def _numbers(chart: Chart, lines: Mapping[str, Rows], declaration: Mapping[str, Any]) -> None:
    """Draws mean and standard error of the score over numbers, on the declared axis."""
    numbers = sorted({row["number"] for rows in lines.values() for row in rows})
    chart.x = value_axis(declaration)
    if "choice" in declaration and numbers[0] > 0 and numbers[-1] >= _LOG_RATIO * numbers[0]:
        chart.x = replace(chart.x, log=True)
    if len(numbers) <= _MAX_TICKS:
        chart.x = replace(chart.x, ticks=tuple(numbers))
    for i, (label, rows) in enumerate(lines.items()):
        x, mean, error = (np.array(values) for values in zip(*_means(rows), strict=True))
        chart.band(x.tolist(), (mean - error).tolist(), (mean + error).tolist(), SERIES[i])
        shown = label if len(lines) > 1 else ""
        chart.line(x.tolist(), mean.tolist(), SERIES[i], dashes=DASHES[i % len(DASHES)], label=shown)
        chart.points(x.tolist(), mean.tolist(), SERIES[i], size=5)


def _words(chart: Chart, rows: Rows, choices: Iterable[object]) -> None:
    """Draws every trial's score over its word, and a bar at the mean."""
    chart.x, placed = words_as_places(rows, choices)
    chart.points(column(placed, "number"), column(placed, "score"), "s1", size=5, opacity=0.7)
    for number, mean, error in _means([{**row, "number": round(row["number"])} for row in placed]):
        chart.segment([number - 0.28, number + 0.28], [mean, mean], "ink", width=2)
        chart.segment([number, number], [mean - error, mean + error], "ink", width=1)


def _means(rows: Rows) -> list[tuple[float, float, float]]:
    """Returns value, mean score and its standard error, sorted by value; the error of one trial is 0."""
    groups: dict[float, list[float]] = {}
    for row in rows:
        groups.setdefault(row["number"], []).append(row["score"])
    return [
        (number, float(np.mean(scores)), float(np.std(scores, ddof=1)) / len(scores) ** 0.5 if scores[1:] else 0.0)
        for number, scores in sorted(groups.items())
    ]


def _shades(chart: Chart, places: Mapping[tuple[float, float], list[tuple[float, int | None]]], metric: str) -> None:
    """Draws points that are darker the higher their score, a ring around the best; the note has the extremes."""
    scores = {place: float(np.mean([score for score, _ in shown])) for place, shown in places.items()}
    low, high = min(scores.values()), max(scores.values())
    shades: dict[int, list[tuple[float, float]]] = {}
    for place, score in scores.items():
        shades.setdefault(round(_SHADES * (score - low) / (high - low or 1.0)), []).append(place)
    for shade, points in sorted(shades.items()):
        x, y = [place[0] for place in points], [place[1] for place in points]
        trials = [places[place][0][1] for place in points]
        named = trials if any(trial is not None for trial in trials) else ()
        chart.points(x, y, "s1", size=8, opacity=round(0.1 + 0.9 * shade / _SHADES, 2), trials=named)
    best = max(scores, key=lambda place: scores[place])
    chart.points([best[0]], [best[1]], "ink", marker="O", size=12)
    chart.note = f"{metric}: light {low:.3f}, dark {high:.3f}"
