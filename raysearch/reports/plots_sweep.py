"""Pictures of a grid: the score over the values of a dimension (ATTITTUD's Figure 2), and over two of its eta at once.

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
_TICKS = 9  # up to so many values have a tick each
_WIDE = 16  # values so many times apart are told apart on a logarithmic axis only


def sweeps(found: Rows, declared: Mapping[str, Any], metric: str) -> list[str]:
    """For each dimension the mean score of each value: a line with its standard error, or words side by side.

    `found` has a row for every trial and dimension. A second dimension with few values gives a line for each.
    """
    found = complete(found)
    dimensions = grouped(found, "dimension")
    svgs = []
    for i, (name, rows) in enumerate(dimensions.items()):
        with svg_plot(f"sweep{i}", f"mean {metric} for each {name}", 3.7, 2.5) as (plot, axes):
            axes.set_title(name)
            if any(row["number"] is None for row in rows):
                _words(axes, rows, declared.get(name, {}).get("choice") or [])
            else:
                _numbers(axes, _by_the_other(rows, dimensions, name), declared.get(name, {}))
            axes.set_ylabel(f"select-dev {metric}")
        svgs.append(plot.svg)
    return svgs


def eta_pairs(found: Rows, declared: Mapping[str, Any], metric: str) -> list[str]:
    """For each two eta that were searched where the trials lie, the deeper the colour the higher the score."""
    trials: dict[str, dict[str, float]] = {}
    for row in complete(found):
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


def _by_the_other(rows: Rows, dimensions: Mapping[str, Rows], name: str) -> dict[str, Rows]:
    """The rows by the value of the one other dimension, said in words; under "" where there is none, or too much."""
    others = [other for other in dimensions if other != name]
    if len(others) != 1:
        return {"": rows}
    of_trial = {row["trial_id"]: row["value"] for row in dimensions[others[0]]}
    values = {value: f"{others[0]} {value}" for value in dict.fromkeys(of_trial.values())}
    if not 1 < len(values) <= len(SERIES) or {row["trial_id"] for row in rows} != of_trial.keys():
        return {"": rows}
    return {label: [row for row in rows if of_trial[row["trial_id"]] == value] for value, label in values.items()}


def _numbers(axes: Axes, lines: Mapping[str, Rows], about: Mapping[str, Any]) -> None:
    """Mean and standard error of the score over numbers, on the declared axis."""
    numbers = sorted({row["number"] for rows in lines.values() for row in rows})
    value_axis(axes, about)
    if "choice" in about and numbers[0] > 0 and numbers[-1] >= _WIDE * numbers[0]:
        axes.set_xscale("log")
    if len(numbers) <= _TICKS:
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
    """Every trial's score over its word, a little aside of each other, and a bar at the mean."""
    placed = words_as_places(axes, rows, choices)
    axes.plot(column(placed, "number"), column(placed, "score"), "o", color=BLUE, markersize=4, alpha=0.7)
    for number, mean, error in _means([{**row, "number": round(row["number"])} for row in placed]):
        axes.plot([number - 0.28, number + 0.28], [mean, mean], color=INK, linewidth=2)
        axes.plot([number, number], [mean - error, mean + error], color=INK, linewidth=1)
    longest = max(len(row["value"]) for row in rows)
    if longest * len({row["value"] for row in rows}) > 40:
        axes.tick_params(axis="x", labelrotation=20)


def _means(rows: Rows) -> list[tuple[float, float, float]]:
    """Value, mean score and its standard error, in the order of values; 0 for the error of one trial."""
    groups: dict[float, list[float]] = {}
    for row in rows:
        groups.setdefault(row["number"], []).append(row["score"])
    return [
        (number, float(np.mean(scores)), float(np.std(scores, ddof=1)) / len(scores) ** 0.5 if scores[1:] else 0.0)
        for number, scores in sorted(groups.items())
    ]


def _shades(axes: Axes, scores: Mapping[tuple[float, float], float]) -> None:
    """Points as deep in colour as their score is high, the ends said above, the best one ringed."""
    low, high = min(scores.values()), max(scores.values())
    for (x, y), score in sorted(scores.items(), key=lambda item: item[1]):
        share = (score - low) / (high - low or 1.0)
        axes.plot(x, y, "o", color=BLUE, alpha=round(0.1 + 0.9 * share, 2), markersize=6.5, markeredgewidth=0)
        axes.plot(x, y, "o", color=BLUE, markersize=6.5, markerfacecolor="none", markeredgewidth=0.6)
    axes.plot(*max(scores, key=lambda place: scores[place]), "o", color=INK, markersize=10, markerfacecolor="none")
    axes.set_title(f"pale {low:.3f}, deep {high:.3f}", loc="right", fontsize=7, fontweight="normal")
    axes.margins(0.08)
