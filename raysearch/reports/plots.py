"""Plots of a run as SVG, drawn from the answers of the reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from raysearch.formatting import MINUS
from raysearch.reports.svg import BLUE, DASHES, GREEN, INK, MUTED, ORANGE, PINK, RED, SKY, svg_plot
from raysearch.storage.states import MAIN_ARM, TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from raysearch.reports.svg import SvgPlot

LEAST_TICKS, MOST_TICKS = 3, 6  # of a logarithmic axis
MOST_CHARACTERS = 34  # of tick labels side by side

Rows = list[dict[str, Any]]  # the answer of a report; None for null

STATES = {
    TrialState.COMPLETE: (BLUE, "o"),
    TrialState.STOPPED: (ORANGE, "v"),
    TrialState.FAILED: (RED, "x"),
    TrialState.RUNNING: (MUTED, "o"),
}


SCORED = (TrialState.COMPLETE, TrialState.STOPPED)  # states of trials that are drawn at their score


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


def best_so_far(rows: Rows, over: str, metric: str) -> str:
    """Plots the score of each trial and the best score of each arm, over "nth" (configurations) or "seconds"."""
    axis = {"nth": "configurations tried", "seconds": "seconds spent"}[over]
    rows = [row for row in rows if row[over] is not None]
    with svg_plot(f"best-{over}", f"Best {metric} over {axis}", 4.4, 2.6) as (plot, axes):
        scatter_states(axes, [row for row in rows if row["arm"] == MAIN_ARM], over, rows)
        for i, (arm, of_arm) in enumerate(grouped(rows, "arm").items()):
            scored = [row for row in of_arm if row["best"] is not None]
            if scored:
                end = max(column(rows if over == "seconds" else of_arm, over))
                x, y = [*column(scored, over), end], [*column(scored, "best"), scored[-1]["best"]]
                dashes = DASHES[i % len(DASHES)]
                axes.step(x, y, where="post", color=arm_colour(arm, i), linestyle=dashes, label=f"best of {arm}")
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=legend_columns(axes, 3.9))
        axes.set_xlabel(axis)
        axes.set_ylabel(f"select-dev {metric}")
        axes.set_xlim(left=0)
        whole_numbers(axes)
    return plot.svg


def curves(rows: Rows, metric: str, best: Mapping[str, str]) -> list[str]:
    """Plots learning curves: of every trial of the search by its state, and of each arm's best trial.

    `best` has the best trial's id by arm.
    """
    trials, svgs = grouped(rows, "trial_id"), []
    of_search = [trial for trial in trials.values() if trial[0]["arm"] == MAIN_ARM]
    if of_search:
        with _curves_axes("curves-all", "every trial of the search", metric) as (plot, axes):
            for trial in of_search:
                colour, marker = STATES[trial[0]["state"]]
                is_best = trial[0]["trial_id"] == best.get(MAIN_ARM)
                width, alpha = (2.2, 1.0) if is_best else (1.0, 0.6)
                axes.plot(column(trial, "step"), column(trial, "score"), color=colour, linewidth=width, alpha=alpha)
                axes.plot(trial[-1]["step"], trial[-1]["score"], marker, color=colour, markersize=4)
        svgs.append(plot.svg)
    best = {arm: best[arm] for arm in grouped(rows, "arm") if best.get(arm) in trials}
    if best:
        with _curves_axes("curves-best", "the best trial of each arm", metric) as (plot, axes):
            for i, (arm, trial_id) in enumerate(best.items()):
                x, y = column(trials[trial_id], "step"), column(trials[trial_id], "score")
                axes.plot(x, y, color=arm_colour(arm, i), linestyle=DASHES[i % len(DASHES)], label=arm)
            axes.legend(loc="lower right")
        svgs.append(plot.svg)
    return svgs


@contextmanager
def _curves_axes(name: str, title: str, metric: str) -> Iterator[tuple[SvgPlot, Axes]]:
    with svg_plot(name, f"{metric} over steps: {title}", 4.4, 2.6) as (plot, axes):
        axes.set_title(title)
        yield plot, axes
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(f"select-dev {metric}")
        whole_numbers(axes)


def dimensions(rows: Rows, declared: Mapping[str, Any], metric: str, best: str | None) -> list[str]:
    """Plots, for each dimension, the score against the value, with a ring around the trial `best`.

    All plots have the same scale of scores. Words are placed side by side.
    """
    svgs = []
    for i, (name, points) in enumerate(grouped(rows, "dimension").items()):
        declaration = declared.get(name, {})
        with svg_plot(f"dimension{i}", f"{metric} against {name}", 3.1, 2.3) as (plot, axes):
            axes.set_title(name)
            if "choice" in declaration or any(row["number"] is None for row in points):
                points = words_as_places(axes, points, declaration.get("choice") or [])
            else:
                axes.set_title(rank_correlation(points), loc="right", color=MUTED, fontsize=7, fontweight="normal")
                value_axis(axes, declaration)
            scatter_states(axes, points, "number", rows)
            ringed = [row for row in points if row["trial_id"] == best]
            x, y = column(ringed, "number"), column(ringed, "score")
            axes.plot(x, y, "o", markersize=9, markerfacecolor="none", color=INK, zorder=4)
        svgs.append(plot.svg)
    return svgs


def differences(rows: Rows, metric: str) -> str:
    """Plots, for each baseline, the paired difference to the search's winner with its 95 % interval."""
    rows = [row for row in rows if row["low"] is not None]
    label = f"Difference in {metric}, search minus baseline"
    with svg_plot("differences", label, 4.4, 0.55 + 0.3 * len(rows)) as (plot, axes):
        axes.axvline(0, color=INK, linewidth=1)
        for place, row in enumerate(rows):
            colour = MUTED if row["low"] <= 0 <= row["high"] else BLUE
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
            axes.plot(row["difference"], place, "o", color=colour, markersize=6)
        far = 1.15 * max(abs(row[end]) for row in rows for end in ("low", "high")) or 0.01
        axes.set_xlim(-far, far)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), column(rows, "arm"))
        axes.set_xlabel(f"{metric}: search minus baseline, 95 % interval")
        axes.grid(axis="y", visible=False)
    return plot.svg


def scatter_states(axes: Axes, rows: Rows, x: str, all_rows: Rows) -> None:
    """Draws trials at their scores, those that were stopped at the score that they had then.

    A failed trial has no score and is at the lower edge, as is one that was stopped below every complete one. The scale
    is that of `all_rows`.
    """
    scored = [row for row in all_rows if row["state"] in SCORED and row["score"] is not None]
    scores = column(complete(scored), "score") or column(scored, "score") or [0.0, 1.0]
    low, high = min(scores), max([*scores, *column(scored, "score")])
    room = 0.08 * (high - low) or 0.01
    edge = low - 1.8 * room
    axes.set_ylim(low - 2.5 * room, high + room)
    for state, (colour, marker) in STATES.items():
        in_state = [row for row in rows if row["state"] == state]
        y = [row["score"] if state in SCORED and row["score"] is not None else edge for row in in_state]
        if in_state:
            y = [max(score, edge) for score in y]
            axes.plot(column(in_state, x), y, marker, color=colour, markersize=4.5, alpha=0.85, zorder=3)


def rank_correlation(rows: Rows) -> str:
    """Returns Spearman's rho of value and score over complete trials, in words; empty for fewer than eight."""
    from scipy.stats import spearmanr

    finished = complete(rows)
    values, scores = column(finished, "number"), column(finished, "score")
    if len(finished) < 8 or len(set(values)) == 1 or len(set(scores)) == 1:
        return ""
    return f"rank correlation {float(spearmanr(values, scores).statistic):+.2f}".replace("-", MINUS)


def words_as_places(axes: Axes, rows: Rows, choices: Iterable[object]) -> Rows:
    """Returns the rows with the place of their word on the x axis as number, shifted so that points do not overlap."""
    words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices]
    words += sorted({row["value"] for row in rows} - set(words))
    counts: Counter[str] = Counter()
    placed = []
    for row in rows:
        placed.append({**row, "number": words.index(row["value"]) + 0.06 * (counts[row["value"]] % 5 - 2)})
        counts[row["value"]] += 1
    axes.set_xticks(range(len(words)), [word.replace("_", " ") for word in words])
    if max(map(len, words), default=0) * len(words) > MOST_CHARACTERS:  # side by side they would run together
        axes.tick_params(axis="x", labelrotation=25)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_xlim(-0.5, len(words) - 0.5)
    axes.grid(axis="x", visible=False)
    return placed


def value_axis(axes: Axes, declaration: Mapping[str, Any]) -> None:
    """Sets the x axis to the declared range; a logarithmic axis has few ticks and writes 0.0003 as 3e-4."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    bounds: list[float] = declaration.get("float") or declaration.get("int") or []
    if declaration.get("log"):
        axes.set_xscale("log")
        if bounds:
            axes.xaxis.set_major_locator(FixedLocator(log_ticks(bounds[0], bounds[1])))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
            axes.xaxis.set_minor_locator(NullLocator())
            margin = (bounds[1] / bounds[0]) ** 0.04
            axes.set_xlim(bounds[0] / margin, bounds[1] * margin)
    else:
        axes.locator_params(axis="x", nbins=5)
        if bounds:
            margin = 0.04 * (bounds[1] - bounds[0]) or 0.5
            axes.set_xlim(bounds[0] - margin, bounds[1] + margin)


def log_ticks(low: float, high: float) -> list[float]:
    """Returns three to six round numbers of a logarithmic axis, all with different labels.

    They have the mantissas 1, then 1 and 3, 1, 2 and 5, and so on, the first that give three or more; where that are
    too many, every second or third of them.
    """
    decades = range(floor(log10(low)) - 1, ceil(log10(high)) + 1)
    for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), tuple(range(1, 10)), tuple(i / 10 for i in range(10, 100))):
        ticks = [float(f"{mantissa:g}e{decade}") for decade in decades for mantissa in mantissas]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= LEAST_TICKS:
            return ticks[:: -(-len(ticks) // MOST_TICKS)]
    return [low, high]


def short_number(value: float) -> str:
    """Returns a number of a logarithmic axis: `0.5`, `20`, `3e-4`, `1.5e-3`."""
    if 0.01 <= abs(value) < 10_000:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def legend_columns(axes: Axes, width: float) -> int:
    """Returns how many labels fit side by side into so many inches."""
    longest = max(len(str(label)) for label in axes.get_legend_handles_labels()[1])
    return max(1, int(width / (0.45 + 0.06 * longest)))


def whole_numbers(axes: Axes) -> None:
    """Puts the ticks of the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def arm_colour(arm: str, place: int) -> str:
    """Returns blue for the search, another colour for each baseline after it."""
    return BLUE if arm == MAIN_ARM else (GREEN, PINK, SKY)[(place - 1) % 3]
