"""The report's comparisons as HTML: arms beside each other, values of a dimension beside each other.

A verdict is one sentence that a reader may quote; what a paper printed is labelled as the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from raysearch.formatting import format_count
from raysearch.reports import markup as m
from raysearch.reports import plots, plots_sweep
from raysearch.reports.plots import Rows, column
from raysearch.storage.states import MAIN_ARM


def arms(found: Rows, metric: str) -> str:
    """The search's winner beside each baseline, the paper's numbers beside ours; empty if there is but one arm."""
    if len(found) < 2 and not any(column(found, "fresh")):
        return ""
    printed = any(column(found, "paper"))
    seeds = "#fresh seeds" if any(column(found, "fresh")) else "#seeds"
    heads = ["arm", "#configuration", "#chosen at", seeds, "#mean", "#sd", *(["#the paper's"] if printed else [])]
    heads += ["#search less it", "#95 % interval", "#bootstrap", "#p, Holm", ""]
    heads += ["#over the first baseline", "#95 % interval"]
    rows = [
        [
            m.words(row["arm"], "keep"),
            m.number(row["configuration"], 0),
            m.number(row["chosen_at"]),
            m.number(row["seeds"], 0),
            m.number(row["mean"]),
            m.number(row["sd"]),
            *([m.words(row["paper"], "num")] if printed else []),
            m.signed(row["difference"]),
            m.interval(row["low"], row["high"]),
            m.interval(row["boot_low"], row["boot_high"]),
            m.words(None if row["p_holm"] is None else f"{row['p_holm']:.3f}", "num"),
            m.words(row["verdict"], "keep"),
            m.signed(row["gain"]),
            m.interval(row["gain_low"], row["gain_high"]),
        ]
        for row in found
    ]
    judged = [row for row in found if row["low"] is not None and not _unfair(row)]
    verdicts = "".join(_verdict(row, metric, len(judged)) for row in found if row["arm"] != MAIN_ARM)
    picture = f'<div class="narrow">{plots.differences(judged, metric)}</div>' if judged else ""
    best = next((i for i, row in enumerate(found) if row["place"] == 1), None)
    return verdicts + picture + m.table(heads, rows, best=best) + _source(found)


def _source(found: Rows) -> str:
    """Where the paper's numbers were printed."""
    source = next(filter(None, column(found, "source")), None)
    return f'<p class="notes">The paper\'s: {m.prose(source)}; printed there, not measured here.</p>' if source else ""


def _unfair(row: dict[str, Any]) -> bool:
    """Do its seeds say nothing, because they chose it or are not there?"""
    return str(row["verdict"]).startswith("not repeated")


def _verdict(row: dict[str, Any], metric: str, judged: int) -> str:
    """One sentence that a reader may quote, of as many as are judged together."""
    arm, verdict = (f"<strong>{escape(row[name])}</strong>" for name in ("arm", "verdict"))
    difference, low, high = row["difference"], row["low"], row["high"]
    if difference is None or _unfair(row):
        return f'<p class="verdict">Beside {arm}: {verdict}, so nothing is claimed.</p>'
    seeds = format_count(row["seeds"], "fresh seed" if row["fresh"] else "seed")
    said = f"{m.signed(difference)[1]} {escape(metric)} over {seeds}"
    bounds, why = ("" if low is None else f" (95 % interval {m.interval(low, high)[1]})"), ""
    if row["rests_on"] == "interval":
        together = f" for {judged} baselines together" if judged > 1 else ""
        why = f" by the interval; {format_count(row['seeds'], 'seed')} cannot reach p &lt; 0.05{together}"
    elif row["rests_on"]:
        why = f" (p = {row['p_holm']:.3f})"
    return f'<p class="verdict">Beside {arm} the search\'s winner is at {said}{bounds}: {verdict}{why}.</p>'


def finals(found: Rows, metric: str) -> str:
    """All arms on test, the paper's numbers beside ours; empty while test is closed."""
    if not found:
        return ""
    printed = any(column(found, "paper"))
    heads = ["arm", "#configurations", "#seconds of search", "#fresh seeds", "#dev", f"#test {metric}", "#sd"]
    heads += [*(["#the paper's"] if printed else []), "#search less it", "#95 % interval", "#p, Holm", ""]
    rows = [
        [
            m.words(row["arm"], "keep"),
            m.number(row["configurations"], 0),
            m.number(row["seconds"], 0),
            m.number(row["seeds"], 0),
            m.number(row["dev"]),
            m.number(row["test"]),
            m.number(row["sd"]),
            *([m.words(row["paper"], "num")] if printed else []),
            m.signed(row["difference"]),
            m.interval(row["low"], row["high"]),
            m.words(None if row["p_holm"] is None else f"{row['p_holm']:.3f}", "num"),
            m.words(row["verdict"], "keep"),
        ]
        for row in found
    ]
    return m.table(heads, rows) + _source(found)


def values(found: Rows, points: Rows, search: Mapping[str, Any], metric: str) -> str:
    """Every value of every dimension beside the best one; a grid's with pictures, of `points`, a row for each trial."""
    if not found:
        return ""
    printed = any(column(found, "paper"))
    heads = ["dimension", "#value", "#trials", "#seeds", "#mean", "#sd", *(["#the paper's"] if printed else [])]
    rows = [
        [
            m.words(row["dimension"], "keep"),
            m.words(row["value"], "num"),
            m.number(row["trials"], 0),
            m.number(row["seeds"], 0),
            m.number(row["mean"]),
            m.number(row["sd"]),
            *([m.words(row["paper"], "num")] if printed else []),
            m.words(row["reference"], "num"),
            m.number(row["pairs"], 0),
            m.signed(row["difference"]),
            m.interval(row["low"], row["high"]),
        ]
        for row in as_declared(found, search["dimensions"])
    ]
    table = m.table([*heads, "#reference", "#pairs", "#value less it", "#95 % interval"], rows) + _source(found)
    if search.get("sampler") != "grid":
        return f"<details><summary>{format_count(len(found), 'value')}</summary>{table}</details>"
    points = as_declared(points, search["dimensions"])
    return m.grid(plots_sweep.sweeps(points, search["dimensions"], metric), "330px") + table


def as_declared(found: Rows, declared: Mapping[str, Any]) -> Rows:
    """The rows, their dimensions in the order of the declaration."""
    place = {name: i for i, name in enumerate(declared)}
    return sorted(found, key=lambda row: place.get(row["dimension"], len(place)))
