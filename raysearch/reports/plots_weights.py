"""Plots of weights: how they changed during a trial, and how large they were, early and late.

Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), Figures 4 and 5, https://arxiv.org/abs/2205.14082
Kourdis, Gordon-Hall & Gorinski 2024, Figure 3, https://arxiv.org/abs/2405.07769
"""

from __future__ import annotations

from collections.abc import Iterable

from raysearch.reports.axis import Axis
from raysearch.reports.chart import DASHES, SERIES, Chart
from raysearch.reports.plots import Rows, column, grouped

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
        highest = max(max(column(line, "weight")) for line in lines.values())
        y = Axis() if stage in SIGNED else Axis(low=0.0, high=(1 + ROOM) * highest or 1.0)
        x, label = Axis(label="optimizer steps", whole=True), f"Weights of {stage} over steps"
        height = 240 if len(lines) < 12 else 110 + 12 * len(lines)
        title = TITLES.get(stage, stage)
        chart = Chart(f"weights-{stage}", label, x, y, title=title, height=height)
        chart.rule(weights[0]["best_step"])
        for i, (name, line) in enumerate(lines.items()):
            colour = SERIES[i % len(SERIES)]
            steps, values = column(line, "step"), column(line, "weight")
            chart.line(steps, values, colour, dashes=DASHES[(i // len(SERIES)) % len(DASHES)])
            if stage != "task":
                chart.end_labels.append((values[-1], name.replace("_", " "), colour))
        svgs.append(chart.svg)
    return svgs


def ranking(rows: Rows) -> str:
    """Plots the mean weight of each objective, early and late in training, the largest late one first.

    The weights are those of AANG's Figure 5, on their own scale: ranks would let equal weights cross. A line marks the
    weight that all would have if they were equal.
    """
    colours, names = output_colours(column(rows, "name")), tuple(_short_names(column(rows, "name")))
    low = min(100 * (row[when] - (row["late_sd"] or 0)) for row in rows for when in ("early", "late"))
    x = Axis(label=f"weight in % (equal: {100 / len(rows):.1f} %)", low=0.0 if low <= 0 else None)
    chart = _list_chart("ranking", "Mean weight of objectives, early and late", x, names)
    chart.rule(100 / len(rows))
    for place, row in enumerate(rows):
        colour, (early, late) = colours[_output(row["name"])], (100 * row[when] for when in ("early", "late"))
        if row["late_sd"] is not None:
            spread = 100 * row["late_sd"]
            chart.segment([max(late - spread, 0), late + spread], [place, place], colour, width=4, opacity=0.25)
        chart.segment([early, late], [place, place], colour, width=1)
        chart.points([early], [place], colour, marker="O", size=7)
        chart.points([late], [place], colour, size=7)
    return chart.svg


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
    x, names = Axis(label="mean and two standard errors"), tuple(_short_names(column(rows, "name")))
    chart = _list_chart("signal", "Signal and noise of each objective", x, names)
    chart.rule(rows[0]["mean_of_all"])
    for place, row in enumerate(rows):
        is_apart = row["verdict"] != "not distinguished"
        colour, reach = "s1" if is_apart else "muted", 2 * row["error"]
        chart.segment([row["mean"] - reach, row["mean"] + reach], [place, place], colour)
        chart.points([row["mean"]], [place], colour, marker="o" if is_apart else "O", size=6)
    return chart.svg


def _list_chart(name: str, label: str, x: Axis, names: tuple[str, ...]) -> Chart:
    """Returns an empty plot with a line for each name."""
    return Chart(name, label, x, Axis(words=names), width=720, height=44 + 19 * len(names))


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
