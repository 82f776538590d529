"""Plots of weights: how they changed during a trial, and how objectives rank by them.

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
                axes.set_ylim(0, None)
            if stage != "task":
                _label_ends(axes, max(column(weights, "step")), lines)
            axes.set_xlabel("optimizer steps")
            whole_numbers(axes)
        svgs.append(plot.svg)
    return svgs


def ranking(rows: Rows) -> str:
    """Plots objectives in the order of their mean weight, early on the left and late on the right (AANG's Figure 5)."""
    colours, height = output_colours(column(rows, "name")), 0.21 * len(rows) + 0.5
    label = "Objectives ranked by mean weight, early and late"
    with svg_plot("ranking", label, 7.4, height) as (plot, axes):
        for short, row in zip(_short_names(column(rows, "name")), rows, strict=True):
            ranks, colour = [row["early_rank"], row["late_rank"]], colours[_output(row["name"])]
            axes.plot([0, 1], ranks, "o-", color=colour, linewidth=1.4, markersize=4)
            early, late = (f"{100 * row[when]:.1f} %" for when in ("early", "late"))
            axes.text(-0.03, ranks[0], f"{short}\N{EN SPACE}{early}", ha="right", va="center")
            axes.text(1.03, ranks[1], f"{late}\N{EN SPACE}{short}", ha="left", va="center")
        axes.set_xlim(-1.25, 2.25)
        axes.set_ylim(len(rows) + 0.7, 0.3)
        axes.set_axis_off()
        axes.text(0, 0.1, "first 10 % of the steps", ha="right", va="bottom", fontweight="bold")
        axes.text(1, 0.1, "last 50 %", ha="left", va="bottom", fontweight="bold")
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
