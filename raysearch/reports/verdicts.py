"""The sections that compare: arms with each other, and the values of a dimension with each other.

A verdict is one sentence that a reader may quote. Scores from a paper are labelled as the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.formatting import format_bounds, format_count
from raysearch.reports import plots, plots_sweep
from raysearch.reports.blocks import (
    Block,
    Column,
    Note,
    Nothing,
    Plots,
    Table,
    Verdict,
    difference,
    interval,
    number,
    text,
)
from raysearch.reports.plots import Rows, column
from raysearch.storage.states import MAIN_ARM


def compare_arms(rows: Rows, metric: str) -> list[Block]:
    """Returns verdicts, plot and table of the search's winner and each baseline; nothing if there is only one arm."""
    fresh = any(column(rows, "fresh"))
    if len(rows) < 2 and not fresh:
        return []
    columns = [
        text("arm", "arm"),
        text("verdict", "verdict", wraps=True),
        number("mean", "mean"),
        number("sd", "sd"),
        number("fresh seeds" if fresh else "seeds", "seeds", 0),
        *([number("folds of each", "folds", 0)] if any(column(rows, "folds")) else []),
        difference("search minus arm", "difference"),
        interval("95 % interval", "low", "high"),
        *_paper_column(rows),
    ]
    statistics = [
        text("arm", "arm"),
        number("configuration", "configuration", 0),
        number("score when chosen", "chosen_at"),
        interval("bootstrap interval", "boot_low", "boot_high"),
        number("p, Holm", "p_holm", 3, missing=""),
        difference("arm minus first baseline", "gain"),
        interval("its 95 % interval", "gain_low", "gain_high"),
    ]
    judged = [row for row in rows if row["low"] is not None and not _is_unrepeated(row)]
    verdicts = [_verdict(row, metric) for row in rows if row["arm"] != MAIN_ARM]
    plot = [Plots([plots.differences(judged, metric)], layout="narrow")] if judged else []
    best = next((i for i, row in enumerate(rows) if row["place"] == 1), None)
    more = Table(statistics, rows, summary="More statistics: tests, bootstrap, against the first baseline")
    return [*verdicts, *plot, Table(columns, rows, best=best), *_source(rows), more]


def compare_on_test(rows: Rows, metric: str) -> list[Block]:
    """Returns the table of all arms on the test split; nothing until the split is opened."""
    if not rows:
        return []
    columns = [
        text("arm", "arm"),
        text("verdict", "verdict", wraps=True),
        number(f"test {metric}", "test"),
        number("sd", "sd"),
        number("dev", "dev"),
        number("fresh seeds", "seeds", 0),
        difference("search minus arm", "difference"),
        interval("95 % interval", "low", "high"),
        *_paper_column(rows),
    ]
    more = [
        text("arm", "arm"),
        number("p, Holm", "p_holm", 3, missing=""),
        number("configurations", "configurations", 0),
        number("seconds of search", "seconds", 0),
    ]
    return [Table(columns, rows), *_source(rows), Table(more, rows, summary="More: the test, and what was spent")]


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
        worse, finding = _value_finding(rows)
        if not worse and not any(column(rows, "paper")):
            return [Nothing(finding)]
        return [Note(finding), Table(columns, rows, summary=format_count(len(rows), "value")), *_source(rows)]
    points = in_declared_order(points, search["dimensions"])
    svgs = plots_sweep.sweeps(points, search["dimensions"], metric)
    return [Plots(svgs, least="330px"), Table(columns, rows), *_source(rows)]


def _value_finding(rows: Rows) -> tuple[list[str], str]:
    """Returns the values that are worse than the best one of their dimension by their intervals, and a sentence."""
    compared = [row for row in rows if row["low"] is not None]
    worse = [f"{row['dimension']} {row['value']}" for row in compared if row["high"] < 0]
    if not compared:
        return [], "No value was tried often enough to be compared with the best one of its dimension."
    if not worse:
        sentence = f"None of {format_count(len(compared), 'value')} is worse than the best one of its dimension by more"
        return [], f"{sentence} than chance; `raysearch analyze NAME sweep` has them all."
    several = "; some do by chance where many are compared" if len(compared) > 10 else ""
    return worse, (
        f"{len(worse)} of {format_count(len(compared), 'value')} score less than the best one of their dimension "
        f"by their own intervals{several}: {', '.join(worse)}."
    )


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


def _verdict(row: dict[str, Any], metric: str) -> Verdict:
    """Returns the sentences about one baseline: by how much the search's winner differs from it, and how surely."""
    arm = row["arm"]
    if row["difference"] is None or _is_unrepeated(row):
        reason = "they have no seed in common" if row["verdict"] == "no common seed" else "not repeated on fresh seeds"
        return Verdict(f"The search's winner compared with {arm}", "nothing is claimed", f" ({reason})")
    size = f"{abs(row['difference']):.3f}"
    direction = "more" if row["difference"] > 0 else "less"
    amount = f"the same {metric} as" if float(size) == 0 else f"{size} {metric} {direction} than"
    bounds = "" if row["low"] is None else f"; 95 % interval {format_bounds(row['low'], row['high'])}"
    return Verdict(f"The search's winner scores {amount} {arm} ({_seeds(row)}{bounds})", *_finding(row))


def _seeds(row: dict[str, Any]) -> str:
    """Returns on how many seeds the comparison rests, or on how many folds."""
    if row["folds"]:
        partitions = format_count(row["seeds"], "fresh partition" if row["fresh"] else "partition")
        return f"{format_count(row['folds'], 'fold')} of {partitions}"
    return format_count(row["seeds"], "fresh seed" if row["fresh"] else "seed")


def _finding(row: dict[str, Any]) -> tuple[str, str]:
    """Returns what was found, and how surely where a test could say so."""
    p = f" (p = {row['p_holm']:.3f})" if row["rests_on"] == "p_holm" else ""
    words = {"the search is better": "it is better", "the baseline is better": f"{row['arm']} is better"}
    if finding := words.get(row["verdict"]):
        return finding, p
    if row["verdict"] == "no difference found":
        return "no evidence that it helps", "" if row["difference"] > 0 else f", and none that {row['arm']} is better"
    return "one seed is not enough to tell", ""
