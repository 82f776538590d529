"""Plots of a grid: the score over the values of one dimension (ATTITTUD's Figure 2), and over two of its eta.

Dery, Dauphin & Grangier (ICLR 2021), https://arxiv.org/abs/2108.11346
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from raysearch.reports.plots import Rows, column, complete, grouped, legend_columns, value_axis, words_as_places
from raysearch.reports.svg import BLUE, DASHES, INK, SERIES, svg_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ETA = ("eta_perp", "eta_pos", "eta_neg", "eta_prim")
_MAX_TICKS = 9  # with more values, not each has a tick
_LOG_RATIO = 16  # from this ratio of the largest to the smallest value the axis is logarithmic


def sweeps(rows: Rows, declared: Mapping[str, Any], metric: str) -> list[str]:
    """Plots, for each dimension, the mean score of each value: a line with its standard error, or words side by side.

    There is a row for every trial and dimension. A second dimension with few values gives one line per value.
    """
    dimensions = grouped(complete(rows), "dimension")
    svgs = []
    for i, (name, points) in enumerate(dimensions.items()):
        with svg_plot(f"sweep{i}", f"mean {metric} for each {name}", 3.7, 2.5) as (plot, axes):
            axes.set_title(name)
            if any(row["number"] is None for row in points):
                _words(axes, points, declared.get(name, {}).get("choice") or [])
            else:
                _numbers(axes, _by_other_dimension(points, dimensions, name), declared.get(name, {}))
            axes.set_ylabel(f"select-dev {metric}")
        svgs.append(plot.svg)
    return svgs


def eta_pairs(rows: Rows, declared: Mapping[str, Any], metric: str) -> list[str]:
    """Plots, for each pair of eta that were searched, the trials; a darker colour is a higher score."""
    trials: dict[str, dict[str, float]] = {}
    for row in complete(rows):
        if row["dimension"] in ETA and row["number"] is not None:
            trials.setdefault(row["trial_id"], {"score": row["score"]})[row["dimension"]] = row["number"]
    svgs = []
    for x, y in combinations([eta for eta in ETA if any(eta in trial for trial in trials.values())], 2):
        places: dict[tuple[float, float], list[float]] = {}
        for trial in trials.values():
            if x in trial and y in trial:
                places.setdefault((trial[x], trial[y]), []).append(trial["score"])
        if len(places) < 2:
            continue
        with svg_plot(f"{x}-{y}", f"{metric} over {x} and {y}", 3.1, 2.7) as (plot, axes):
            _shades(axes, {place: float(np.mean(scores)) for place, scores in places.items()})
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.set_xscale("log" if declared.get(x, {}).get("log") else "linear")
            axes.set_yscale("log" if declared.get(y, {}).get("log") else "linear")
        svgs.append(plot.svg)
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


def _numbers(axes: Axes, lines: Mapping[str, Rows], declaration: Mapping[str, Any]) -> None:
    """Draws mean and standard error of the score over numbers, on the declared axis."""
    numbers = sorted({row["number"] for rows in lines.values() for row in rows})
    value_axis(axes, declaration)
    if "choice" in declaration and numbers[0] > 0 and numbers[-1] >= _LOG_RATIO * numbers[0]:
        axes.set_xscale("log")
    if len(numbers) <= _MAX_TICKS:
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.set_xticks([], minor=True)
    for i, (label, rows) in enumerate(lines.items()):
        colour = SERIES[i]
        x, mean, error = (np.array(values) for values in zip(*_means(rows), strict=True))
        axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
        axes.plot(x, mean, "o", linestyle=DASHES[i % len(DASHES)], color=colour, markersize=3.5, label=label)
    if len(lines) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=legend_columns(axes, 3.1))


def _words(axes: Axes, rows: Rows, choices: Iterable[object]) -> None:
    """Draws every trial's score over its word, and a bar at the mean."""
    placed = words_as_places(axes, rows, choices)
    axes.plot(column(placed, "number"), column(placed, "score"), "o", color=BLUE, markersize=4, alpha=0.7)
    for number, mean, error in _means([{**row, "number": round(row["number"])} for row in placed]):
        axes.plot([number - 0.28, number + 0.28], [mean, mean], color=INK, linewidth=2)
        axes.plot([number, number], [mean - error, mean + error], color=INK, linewidth=1)


def _means(rows: Rows) -> list[tuple[float, float, float]]:
    """Returns value, mean score and its standard error, sorted by value; the error of one trial is 0."""
    groups: dict[float, list[float]] = {}
    for row in rows:
        groups.setdefault(row["number"], []).append(row["score"])
    return [
        (number, float(np.mean(scores)), float(np.std(scores, ddof=1)) / len(scores) ** 0.5 if scores[1:] else 0.0)
        for number, scores in sorted(groups.items())
    ]


def _shades(axes: Axes, scores: Mapping[tuple[float, float], float]) -> None:
    """Draws points that are darker the higher their score, a ring around the best, and the extremes as the title."""
    low, high = min(scores.values()), max(scores.values())
    for (x, y), score in sorted(scores.items(), key=lambda item: item[1]):
        share = (score - low) / (high - low or 1.0)
        axes.plot(x, y, "o", color=BLUE, alpha=round(0.1 + 0.9 * share, 2), markersize=6.5, markeredgewidth=0)
        axes.plot(x, y, "o", color=BLUE, markersize=6.5, markerfacecolor="none", markeredgewidth=0.6)
    axes.plot(*max(scores, key=lambda place: scores[place]), "o", color=INK, markersize=10, markerfacecolor="none")
    axes.set_title(f"light {low:.3f}, dark {high:.3f}", loc="right", fontsize=7, fontweight="normal")
    axes.margins(0.08)
