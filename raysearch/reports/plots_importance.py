"""Plots of what matters in a search, each estimate with its interval."""

from __future__ import annotations

from raysearch.reports.plots import Rows
from raysearch.reports.svg import MUTED, SERIES, svg_plot

LONGEST_NAME = 46  # characters of a name beside an axis


def importance(rows: Rows) -> str:
    """Plots the importance of every dimension with its interval; those that are not distinguished from 0 are open."""
    names = [row["dimension"] for row in rows]
    estimates = [(100 * row["importance"], 100 * row["low"], 100 * row["high"]) for row in rows]
    label = "Importance of every dimension, with 95 % intervals"
    axis = "share of the variance of the scores that it explains by itself, in %"
    return _intervals("importance", label, names, estimates, axis, limits=(-20.0, 100.0))


def effects(rows: Rows, kind: str, unit: str) -> str:
    """Plots the effects of one kind with their intervals; those that are not distinguished from 0 are open."""
    estimates = [(row["effect"], row["low"], row["high"]) for row in rows]
    names = [row["name"].replace("_", " ") for row in rows]
    return _intervals(f"effects-{kind}", f"Effects of each {kind}, with 95 % intervals", names, estimates, unit)


def _intervals(
    name: str,
    label: str,
    names: list[str],
    estimates: list[tuple[float, float, float]],
    axis: str,
    limits: tuple[float, float] | None = None,
) -> str:
    height = 0.21 * len(names) + 0.75
    with svg_plot(name, label, 7.4, height) as (plot, axes):
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        for place, (estimate, low, high) in enumerate(estimates):
            is_apart = low > 0 or high < 0
            colour = SERIES[0] if is_apart else MUTED
            axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
            axes.plot(
                [estimate], [place], "o", color=colour, markerfacecolor=colour if is_apart else "none", markersize=4
            )
        axes.set_yticks(range(len(names)), [_cut(each) for each in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        if limits is not None:
            low, high = axes.get_xlim()
            axes.set_xlim(max(low, limits[0]), min(high, limits[1]))
        axes.set_xlabel(axis)
        axes.grid(axis="y", visible=False)
    return plot.svg


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
