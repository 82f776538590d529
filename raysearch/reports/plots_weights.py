"""Plots of weights: how they changed during a trial, and how large they were, early and late.

Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), Figures 4 and 5, https://arxiv.org/abs/2205.14082
Kourdis, Gordon-Hall & Gorinski 2024, Figure 3, https://arxiv.org/abs/2405.07769
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raysearch.reports.plots import Rows, column, grouped, whole_numbers
from raysearch.reports.svg import DASHES, MUTED, SERIES, svg_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "task": "share of the end task, lambda_e",
    "alpha": "alpha: how much of a branch was merged",
    "weight": "weight of the branch's task",
    "gain": "gain by training on a task alone",
}
ROOM = 0.08  # of an axis that begins at 0, above its highest line
SIGNED = ("alpha", "gain")  # may be negative


def trajectories(rows: Rows) -> list[str]:
    """Plots, for each stage, the weight of each primitive over the steps (AANG's Figure 4).

    For branches these are their alphas and weights (alphaVIL's Figure 3). The best evaluation is marked. A stage with
    one primitive, or with weights at one step only, has no plot.
    """
    svgs = []
    for stage, weights in grouped(rows, "stage").items():
        lines = grouped([row for row in weights if (stage, row["name"]) != ("task", "auxiliary")], "name")
        if (stage != "task" and len(lines) < 2) or len(set(column(weights, "step"))) < 2:
            continue
        with svg_plot(f"weights-{stage}", f"Weights of {stage} over steps", 4.4, 2.4) as (plot, axes):
            axes.set_title(TITLES.get(stage, stage))
            axes.axvline(weights[0]["best_step"], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
            for i, line in enumerate(lines.values()):
                dashes = DASHES[(i // len(SERIES)) % len(DASHES)]
                x, y = column(line, "step"), column(line, "weight")
                axes.plot(x, y, color=SERIES[i % len(SERIES)], linestyle=dashes)
            if stage not in SIGNED:
                axes.set_ylim(0, (1 + ROOM) * max(max(column(line, "weight")) for line in lines.values()) or 1.0)
            if stage != "task":
                _label_ends(axes, max(column(weights, "step")), lines)
            axes.set_xlabel("optimizer steps")
            whole_numbers(axes)
        svgs.append(plot.svg)
    return svgs


def ranking(rows: Rows) -> str:
    """Plots the mean weight of each objective, early and late in training, the largest late one first.

    The weights are those of AANG's Figure 5, on their own scale: ranks would let equal weights cross. A line marks the
    weight that all would have if they were equal.
    """
    colours, height = output_colours(column(rows, "name")), 0.2 * len(rows) + 0.75
    with svg_plot("ranking", "Mean weight of objectives, early and late", 7.4, height) as (plot, axes):
        axes.axvline(100 / len(rows), color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        for place, row in enumerate(rows):
            colour, (early, late) = colours[_output(row["name"])], (100 * row[when] for when in ("early", "late"))
            if row["late_sd"] is not None:
                spread = 100 * row["late_sd"]
                axes.plot([late - spread, late + spread], [place, place], color=colour, linewidth=3, alpha=0.25)
            axes.plot([early, late], [place, place], color=colour, linewidth=1)
            axes.plot(early, place, "o", color=colour, markerfacecolor="none", markersize=5)
            axes.plot(late, place, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), _short_names(column(rows, "name")))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(max(0.0, low), high)
        axes.set_xlabel(f"weight in % (equal: {100 / len(rows):.1f} %)")
        axes.grid(axis="y", visible=False)
    return plot.svg


def ranking_finding(rows: Rows) -> str:
    """Returns one sentence on how far the late weights are from equal, and from their spread over trials."""
    late, equal = column(rows, "late"), 1 / len(rows)
    low, high = 100 * min(late), 100 * max(late)
    span = f"Late weights are between {low:.1f} and {high:.1f} %, where equal is {100 * equal:.1f} %"
    spreads = [row["late_sd"] for row in rows]
    if None in spreads:
        return f"{span}; one trial does not say how much of this is chance."
    apart = sum(abs(row["late"] - equal) > 2 * row["late_sd"] / row["trials"] ** 0.5 for row in rows)
    if not apart:
        return f"{span}: no objective stands out from what differs between trials."
    return f"{span}: {apart} of {len(rows)} differ from equal by more than two standard errors over trials."


def signal(rows: Rows) -> str:
    """Plots the mean of what was observed of each objective, with two standard errors to each side.

    Those that differ from the mean of all, a dashed line, by more than chance are filled.
    """
    height = 0.21 * len(rows) + 0.7
    with svg_plot("signal", "Signal and noise of each objective", 7.4, height) as (plot, axes):
        for place, row in enumerate(rows):
            is_apart = row["verdict"] != "not distinguished"
            colour = SERIES[0] if is_apart else MUTED
            reach = 2 * row["error"]
            axes.plot([row["mean"] - reach, row["mean"] + reach], [place, place], color=colour, linewidth=1.2)
            face = colour if is_apart else "none"
            axes.plot([row["mean"]], [place], "o", color=colour, markerfacecolor=face, markersize=4)
        axes.axvline(rows[0]["mean_of_all"], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(rows)), _short_names(column(rows, "name")))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("mean and two standard errors")
    return plot.svg


def output_colours(names: Iterable[str]) -> dict[str, str]:
    """Returns the colour of each output primitive that occurs in these objectives."""
    return {output: SERIES[i % len(SERIES)] for i, output in enumerate(sorted({_output(name) for name in names}))}


def _output(name: str) -> str:
    return name.split("/")[-1]


def _short_names(names: list[str]) -> list[str]:
    """Returns the names of objectives without the primitives that all of them share."""
    parts = [name.split("/") for name in names]
    distinct = [i for i, used in enumerate(zip(*parts, strict=True)) if len(set(used)) > 1] or range(len(parts[0]))
    return [" / ".join(part[i].replace("_", " ") for i in distinct) for part in parts]


def _label_ends(axes: Axes, x: float, lines: dict[str, Rows]) -> None:
    """Writes each line's name at its end, moved up or down so that names do not overlap."""
    bottom, top = axes.get_ylim()
    ranked = sorted((line[-1]["weight"], i, name) for i, (name, line) in enumerate(lines.items()))
    places: list[float] = []
    for weight, _, _ in ranked:
        places.append(max(weight, places[-1] + 0.085 * (top - bottom)) if places else weight)
    over = max(0.0, places[-1] - top)
    for (_, i, name), place in zip(ranked, places, strict=True):
        axes.annotate(
            name.replace("_", " "),
            (x, place - over),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=SERIES[i % len(SERIES)],
            annotation_clip=False,
        )
