"""Plots of what the arms give for the rows of the end task: confusions, scores by label, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raysearch.reports.plots import Rows, column, grouped
from raysearch.reports.svg import BLUE, INK, LINE, MUTED, ORANGE, SERIES, svg_panels, svg_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

LONGEST_NAME = 18  # characters of a label's name beside an axis
MARKERS = "osD^v<"
MOST_NUMBERED = 12  # labels up to which a cell has its number


def confusion(rows: Rows, arm: str, labels: Sequence[str]) -> str:
    """Plots for each label which labels an arm gives its rows, in % of them."""
    shares = _shares(rows, arm, labels)
    return _matrix(f"confusion-{arm}", f"Confusion matrix of {arm}", arm, shares, labels)


def confusion_change(rows: Rows, arm: str, other: str, labels: Sequence[str]) -> str:
    """Plots how the shares of an arm differ from those of another one, in points."""
    change = _shares(rows, arm, labels) - _shares(rows, other, labels)
    title = f"{arm} minus {other}"
    return _matrix(f"confusion-{arm}-{other}", f"Confusion matrix, {title}", title, change, labels, is_change=True)


def _shares(rows: Rows, arm: str, labels: Sequence[str]) -> NDArray[np.float64]:
    place = {label: i for i, label in enumerate(labels)}
    shares = np.zeros((len(labels), len(labels)))
    for row in rows:
        if row["arm"] == arm:
            shares[place[row["truth"]], place[row["predicted"]]] = 100 * row["share"]
    return shares


def _matrix(
    name: str, label: str, title: str, values: NDArray[np.float64], labels: Sequence[str], *, is_change: bool = False
) -> str:
    size = min(4.4, max(2.6, 0.32 * len(labels) + 1.4))
    with svg_plot(name, label, size, size * 0.92) as (plot, axes):
        for i, j in np.ndindex(values.shape):
            _cell(
                axes,
                i,
                j,
                float(values[i, j]),
                len(labels),
                is_change=is_change,
                top=float(np.abs(values).max()) or 1.0,
            )
        axes.set_title(title)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        short = [_cut(each) for each in labels]
        axes.set_xticks(range(len(labels)), short, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), short)
        axes.set_xlabel("predicted, in points" if is_change else "predicted, in % of the label's rows")
        axes.set_ylabel("true label")
        axes.grid(visible=False)
    return plot.svg


def _cell(axes: Axes, i: int, j: int, value: float, n: int, *, is_change: bool, top: float) -> None:
    """Draws a cell; more than half covered, its number has the page's colour of ink all the same, which is legible."""
    from matplotlib.patches import Rectangle

    colour = ORANGE if value < 0 else BLUE
    strength = 0.75 * abs(value) / (top if is_change else 100.0)
    axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, facecolor=colour, alpha=strength, linewidth=0))
    written = f"{value:+.0f}" if is_change else f"{value:.0f}"
    if n <= MOST_NUMBERED and abs(value) >= 0.5:
        axes.text(j, i, written, ha="center", va="center", color=INK, fontsize=6.5)


def label_scores(rows: Rows, labels: Sequence[str]) -> str:
    """Plots the F1 of each label by each arm, with its interval."""
    arms = grouped(rows, "arm")
    with svg_plot("labels-f1", "F1 of each label by each arm", 4.6, _height(labels, len(arms))) as (plot, axes):
        for k, (arm, of_arm) in enumerate(arms.items()):
            by_label = {row["label"]: row for row in of_arm}
            at = [(y + _shift(k, len(arms)), by_label[label]) for y, label in enumerate(labels) if label in by_label]
            for y, row in at:
                axes.plot([row["f1_low"], row["f1_high"]], [y, y], color=_colour(k), linewidth=1.2)
            values = [row["f1"] for _, row in at]
            axes.plot(values, [y for y, _ in at], MARKERS[k % len(MARKERS)], color=_colour(k), markersize=4, label=arm)
        axes.set_xlabel("F1, with 95 % intervals")
        _name_labels(axes, labels, len(arms))
    return plot.svg


def label_changes(rows: Rows, labels: Sequence[str]) -> str:
    """Plots by how much the search's winner and each other arm differ in the F1 of each label, with the interval.

    Colours are those of `label_scores`; differences that are not distinguished from 0 are open.
    """
    arms = grouped(rows, "arm")
    with svg_plot("labels-changes", "F1 of each label, search minus arm", 4.6, _height(labels, len(arms))) as (
        plot,
        axes,
    ):
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        for k, (arm, of_arm) in enumerate(arms.items(), 1):  # the search itself is the first colour
            axes.plot([], [], MARKERS[k % len(MARKERS)], color=_colour(k), markersize=4, label=f"minus {arm}")
            for row in of_arm:
                if row["label"] in labels:
                    y = labels.index(row["label"]) + _shift(k - 1, len(arms))
                    face = _colour(k) if row["low"] > 0 or row["high"] < 0 else "none"
                    axes.plot([row["low"], row["high"]], [y, y], color=_colour(k), linewidth=1.2)
                    marker = MARKERS[k % len(MARKERS)]
                    axes.plot([row["difference"]], [y], marker, color=_colour(k), markerfacecolor=face, markersize=4)
        axes.set_xlabel("F1 of the search's winner minus that of the arm")
        _name_labels(axes, labels, len(arms))
    return plot.svg


def _colour(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _shift(place: int, count: int) -> float:
    """Returns by how much an arm is moved up or down within a label's line."""
    return (place - (count - 1) / 2) * 0.7 / count


def _height(labels: Sequence[str], arms: int) -> float:
    return max(0.24, 0.11 * arms + 0.1) * len(labels) + 0.8


def _name_labels(axes: Axes, labels: Sequence[str], arms: int) -> None:
    axes.set_yticks(range(len(labels)), [_cut(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for y in range(1, len(labels)):
        axes.axhline(y - 0.5, color=LINE, linewidth=0.5)
    if arms > 1 or axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def reliability(curves: Mapping[str, Rows]) -> str:
    """Plots for each arm how many rows are right of those of which it is so sure; the diagonal is calibrated."""
    columns = min(len(curves), 4)
    lines = -(-len(curves) // columns)
    label = "Accuracy over confidence of each arm"
    with svg_panels("reliability", label, (7.4 if columns > 2 else 2.6 * columns, 2.1 * lines), lines, columns) as (
        plot,
        panels,
    ):
        for axes, (arm, rows) in zip(panels, curves.items(), strict=False):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
            for row in rows:
                axes.plot([row["confidence"]] * 2, [row["low"], row["high"]], color=BLUE, linewidth=1.2, alpha=0.6)
            axes.plot(
                column(rows, "confidence"), column(rows, "accuracy"), "o-", color=BLUE, markersize=3.5, linewidth=1
            )
            axes.set_xlim(0, 1.02)
            axes.set_ylim(0, 1.02)
            axes.set_title(arm)
            axes.set_xlabel("confidence")
            axes.set_ylabel("share that is right")
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
    return plot.svg


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
