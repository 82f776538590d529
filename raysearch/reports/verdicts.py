"""The sections that compare: arms with each other, and the values of a dimension with each other.

A verdict is one sentence that a reader may quote. Scores from a paper are labelled as the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.formatting import format_count, format_difference, format_differences
from raysearch.reports import plots, plots_sweep
from raysearch.reports.blocks import Block, Column, Note, Plots, Table, Verdict, difference, interval, number, text
from raysearch.reports.plots import Rows, column
from raysearch.storage.states import MAIN_ARM


def compare_arms(rows: Rows, metric: str) -> list[Block]:
    """Returns verdicts, plot and table of the search's winner and each baseline; nothing if there is only one arm."""
    fresh = any(column(rows, "fresh"))
    if len(rows) < 2 and not fresh:
        return []
    columns = [
        text("arm", "arm"),
        number("configuration", "configuration", 0),
        number("score when chosen", "chosen_at"),
        number("fresh seeds" if fresh else "seeds", "seeds", 0),
        *([number("folds of each", "folds", 0)] if any(column(rows, "folds")) else []),
        number("mean", "mean"),
        number("sd", "sd"),
        *_paper_column(rows),
        difference("search minus arm", "difference"),
        interval("95 % interval", "low", "high"),
        interval("bootstrap interval", "boot_low", "boot_high"),
        number("p, Holm", "p_holm", 3, missing=""),
        text("verdict", "verdict"),
        difference("arm minus first baseline", "gain"),
        interval("95 % interval", "gain_low", "gain_high"),
    ]
    judged = [row for row in rows if row["low"] is not None and not _is_unrepeated(row)]
    verdicts = [_verdict(row, metric, len(judged)) for row in rows if row["arm"] != MAIN_ARM]
    plot = [Plots([plots.differences(judged, metric)], layout="narrow")] if judged else []
    best = next((i for i, row in enumerate(rows) if row["place"] == 1), None)
    return [*verdicts, *plot, Table(columns, rows, best=best), *_source(rows)]


def compare_on_test(rows: Rows, metric: str) -> list[Block]:
    """Returns the table of all arms on the test split; nothing until the split is opened."""
    if not rows:
        return []
    columns = [
        text("arm", "arm"),
        number("configurations", "configurations", 0),
        number("seconds of search", "seconds", 0),
        number("fresh seeds", "seeds", 0),
        number("dev", "dev"),
        number(f"test {metric}", "test"),
        number("sd", "sd"),
        *_paper_column(rows),
        difference("search minus arm", "difference"),
        interval("95 % interval", "low", "high"),
        number("p, Holm", "p_holm", 3, missing=""),
        text("verdict", "verdict"),
    ]
    return [Table(columns, rows), *_source(rows)]


def compare_values(rows: Rows, points: Rows, search: Mapping[str, Any], metric: str) -> list[Block]:
    """Returns the table of every value of every dimension and its difference from the best value.

    A grid has plots too, drawn from `points`, which has a row for every trial and dimension.
    """
    if not rows:
        return []
    rows = in_declared_order(rows, search["dimensions"])
    columns = [
        text("dimension", "dimension"),
        text("value", "value", numeric=True),
        number("trials", "trials", 0),
        number("seeds", "seeds", 0),
        number("mean", "mean"),
        number("sd", "sd"),
        *_paper_column(rows),
        text("reference", "reference", numeric=True),
        number("pairs", "pairs", 0),
        difference("value minus reference", "difference"),
        interval("95 % interval", "low", "high"),
    ]
    if not draws_every_value(search):
        return [Table(columns, rows, summary=format_count(len(rows), "value")), *_source(rows)]
    points = in_declared_order(points, search["dimensions"])
    svgs = plots_sweep.sweeps(points, search["dimensions"], metric)
    return [Plots(svgs, least="330px"), Table(columns, rows), *_source(rows)]


def draws_every_value(search: Mapping[str, Any]) -> bool:
    """Returns whether the sampler of a stored search goes through all values, so that they are compared as a sweep."""
    sampler = DECLARED_SAMPLERS.get(search.get("sampler", ""))
    return sampler is not None and sampler.lists_values


def in_declared_order(rows: Rows, declared: Mapping[str, Any]) -> Rows:
    """Returns the rows sorted by dimension, in the order in which the search declares the dimensions."""
    place = {name: i for i, name in enumerate(declared)}
    return sorted(rows, key=lambda row: place.get(row["dimension"], len(place)))


def _paper_column(rows: Rows) -> list[Column]:
    return [text("paper's score", "paper", numeric=True)] if any(column(rows, "paper")) else []


def _source(rows: Rows) -> list[Note]:
    """Returns the note that says where the paper's scores were printed."""
    source = next(filter(None, column(rows, "source")), None)
    return [Note(f"Paper's scores: {source}. They were printed there, not measured here.")] if source else []


def _is_unrepeated(row: dict[str, Any]) -> bool:
    """Says whether the arm has no seeds that took no part in choosing its configuration."""
    return str(row["verdict"]).startswith("not repeated")


def _verdict(row: dict[str, Any], metric: str, judged: int) -> Verdict:
    """Returns the sentence about one baseline, of `judged` baselines that are tested together."""
    if row["difference"] is None or _is_unrepeated(row):
        return Verdict(f"Search compared with {row['arm']}", row["verdict"], ", so nothing is claimed")
    seeds = format_count(row["seeds"], "fresh seed" if row["fresh"] else "seed")
    if row["folds"]:
        partitions = format_count(row["seeds"], "fresh partition" if row["fresh"] else "partition")
        seeds = f"{format_count(row['folds'], 'fold')} of {partitions}"
    bounds = "" if row["low"] is None else f" (95 % interval {format_differences(row['low'], row['high'])})"
    comparison = (
        f"Search compared with {row['arm']}: {format_difference(row['difference'])} {metric} on average over "
        f"{seeds}{bounds}"
    )
    return Verdict(comparison, row["verdict"], _certainty(row, judged))


def _certainty(row: dict[str, Any], judged: int) -> str:
    """Returns what the verdict rests on: the p-value, or the interval when there are too few seeds for a p-value."""
    if row["rests_on"] == "interval":
        together = f" for {judged} baselines together" if judged > 1 else ""
        return f", judged by the interval, because {format_count(row['seeds'], 'seed')} cannot reach p < 0.05{together}"
    return f" (p = {row['p_holm']:.3f})" if row["rests_on"] else ""
