"""The report's page: one HTML file, style and pictures inside, that asks nothing of the network.

It claims no more than the tables hold: the best of many scores is called that, and a difference whose interval holds 0
is called no difference found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysearch.formatting import format_count, format_duration, format_value
from raysearch.methods import FAMILIES
from raysearch.reports import markup as m
from raysearch.reports import plots, plots_sweep, plots_weights
from raysearch.reports.plots import STATES, Rows, column
from raysearch.reports.svg import VARIABLES
from raysearch.reports.verdicts import arms, as_declared, finals, values
from raysearch.storage.states import MAIN_ARM, EventName, RunState, TrialState

if TYPE_CHECKING:
    from raysearch.reports.query import Report
    from raysearch.storage.run import Run

_LEADERS = 50  # rows of the leaderboard that are shown
_NOTHING = {
    "stages": "No trial has a second phase whose scores could be set beside the first one's.",
    "trajectories": "The search's best trial has no weights that move: there is no trajectory to show.",
    "ranking": "No trial whose weights move has completed: there is nothing to rank.",
    "leaderboard": "No trial has ended yet.",
    "failures": "No trial failed.",
}


def page(run: Run, tables: Mapping[str, pa.Table], reports: Mapping[str, Report], found: Mapping[str, pa.Table]) -> str:
    """The whole page, of a run's tables and what the reports say of them."""
    said = {name: table.to_pylist() for name, table in found.items()}
    search = {"dimensions": {}} | run.search  # one without has no such key
    metric, declared = search["task"]["metric"], search["dimensions"]
    bodies = {
        "arms": arms(said["arms"], metric),
        "final": finals(said["final"], metric),
        "best_so_far": _best_so_far(said["best_so_far"], metric),
        "curves": _curves(said["curves"], metric),
        "sweep": values(said["sweep"], said["dimensions"], search, metric),
        "dimensions": _dimensions(said["dimensions"], search, metric),
        "stages": _stages(said["stages"]),
        "trajectories": _trajectories(said["trajectories"]),
        "ranking": _ranking(said["ranking"]),
        "leaderboard": _leaderboard(said["leaderboard"], declared, metric),
        "failures": _failures(said["failures"], declared),
        "compute": _compute(said["compute"]),
    }
    sections = {name: body or _nothing(name) for name, body in bodies.items() if body or name in _NOTHING}
    links = "".join(f'<a href="#{name}">{escape(reports[name].title)}</a>' for name in sections)
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(run.name)} - raysearch report</title>\n<style>\n{css}</style>\n</head>\n<body>",
            _header(run.name, search, metric),
            f'<nav>{links}<a href="#origin">Data and versions</a></nav>',
            _tiles(run.status(), said, metric),
            *(_section(reports[name], body) for name, body in sections.items()),
            _origin(tables["searches"].to_pylist()[-1], tables["events"]["event"].to_pylist()),
            "<footer>Written by <code>raysearch analyze</code> from the run's tables; nothing here was loaded from "
            "elsewhere.</footer>\n</body>\n</html>\n",
        ]
    )


def _nothing(name: str) -> str:
    return f'<p class="notes">{_NOTHING[name]}</p>'


def _section(report: Report, body: str) -> str:
    notes = f'<p class="notes">{m.prose(report.notes)}</p>' if report.notes else ""
    return (
        f'<section id="{report.name}">\n<h2>{escape(report.title)}</h2>\n'
        f'<p class="question">{m.prose(m.sentence(report.question))}</p>\n{body}\n{notes}\n'
        f"<details><summary>SQL: {escape(report.file.name)}</summary>"
        f"<pre><code>{escape(report.sql)}</code></pre></details>\n</section>"
    )


def _header(name: str, search: dict[str, Any], metric: str) -> str:
    method = search["method"]
    parts = [
        f"<b>{escape(search['task']['name'])}</b>, scored by {escape(metric)}",
        *(f"{family} {escape(method.get(family) or 'searched')}" for family in FAMILIES),
        f"space {escape(search['space'])}" if search.get("space") else "",
        format_count(len(search["dimensions"]), "dimension") + " searched",
    ]
    line = " · ".join(part for part in parts if part)
    return f'<header><p class="eyebrow">raysearch report</p><h1>{escape(name)}</h1><p>{line}</p></header>'


def _tiles(status: dict[str, Any], said: Mapping[str, Rows], metric: str) -> str:
    best, board = status["best"], [row for row in said["leaderboard"] if row["arm"] == MAIN_ARM]
    ended = Counter(column(board, "state"))
    states = " · ".join(f"{ended[state]} {state}" for state in STATES if state in ended)
    whole = ended[TrialState.COMPLETE]
    chosen = f"{metric} of the search's winner"
    if whole > 1:
        chosen += f": the highest of {whole} scores on the same examples, expect less on fresh ones"
    doing = "still running: this page is a moment of it" if status["state"] == RunState.RUNNING else status["state"]
    tiles = [
        ("best select-dev score", f"{best['score']:.3f}" if best else "none yet", chosen),
        ("configurations", str(len(board)), states),
        ("at work", format_duration(status["seconds"]), doing),
    ]
    for winner in (row for row in said["arms"] if row["arm"] == MAIN_ARM and row["fresh"]):
        spread = f"; standard deviation {winner['sd']:.3f}" if winner["seeds"] > 1 else ""
        mean = f"mean of {format_count(winner['seeds'], 'seed')} that chose nothing{spread}"
        tiles.insert(1, ("winner on fresh seeds", f"{winner['mean']:.3f}", mean))
    inside = "\n".join(
        f'<div class="tile"><span class="eyebrow">{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in tiles
    )
    return f'<div class="tiles">\n{inside}\n</div>'


def _best_so_far(found: Rows, metric: str) -> str:
    if not found:
        return ""
    drawn = [plots.best_so_far(found, over, metric) for over in ("nth", "seconds") if any(column(found, over))]
    return m.grid(drawn, "400px") + m.legend(column(found, "state"))


def _curves(found: Rows, metric: str) -> str:
    if not found:
        return ""
    return m.grid(plots.curves(found, metric), "400px") + m.legend(column(found, "state"), edge=False)


def _dimensions(found: Rows, search: Mapping[str, Any], metric: str) -> str:
    if not found:
        return ""
    found = as_declared(found, search["dimensions"])
    pairs = m.grid(plots_sweep.eta_pairs(found, search["dimensions"], metric), "250px")
    if search.get("sampler") == "grid":  # whose values are drawn by comparisons.values
        return pairs
    ring = '<span><i style="color:var(--ink)">◯</i>best trial</span>'
    drawn = m.grid(plots.dimensions(found, search["dimensions"], metric), "250px")
    return drawn + m.legend(column(found, "state"), ring) + pairs


def _stages(found: Rows) -> str:
    """Nothing where every trial has one phase."""
    if max(column(found, "stage"), default=1) == 1:
        return ""
    scores = ("before", "score", "kept")
    heads = ["arm", "phase", "#until step", "#seeds", *(f"#{name}" for name in scores), "#better"]
    rows = [
        [
            m.words(row["arm"]),
            m.words(row["phase"]),
            m.number(row["until"], 0),
            m.number(row["seeds"], 0),
            *(m.number(row[name]) for name in scores),
            m.number(row["better"], 0),
        ]
        for row in found
    ]
    return m.table(heads, rows)


def _trajectories(found: Rows) -> str:
    drawn = plots_weights.trajectories(found)
    if not drawn:
        return ""
    mark = f"<span><i>┆</i>best evaluation, step {found[0]['best_step']}</span>"
    return m.grid(drawn, "400px") + m.legend((), mark)


def _ranking(found: Rows) -> str:
    if not found:
        return ""
    keys = [
        f'<span><i style="color:var(--{VARIABLES[colour]})">●</i>output {escape(output.replace("_", " "))}</span>'
        for output, colour in plots_weights.output_colours(column(found, "name")).items()
    ]
    over = f"<span>means over {format_count(max(column(found, 'trials')), 'trial')}</span>"
    return m.legend((), *keys, over) + f'<div class="wide">{plots_weights.ranking(found)}</div>'


def _leaderboard(found: Rows, declared: Mapping[str, Any], metric: str) -> str:
    if not found:
        return ""
    several = max(column(found, "seeds")) > 1
    heads = ["#", f"#{metric}", *(["#sd", "#seeds"] if several else []), "state", "arm", "#best step", "#seconds"]
    rows = [
        [
            m.number(row["rank"], 0),
            m.number(row["score"]),
            *([m.number(row["sd"]), m.number(row["seeds"], 0)] if several else []),
            m.state(row["state"]),
            m.words(row["arm"], "keep"),
            m.number(row["best_step"], 0),
            m.number(row["seconds"], 1),
            m.draw(row["params"], declared),
            m.words(row["trial_id"], "keep mono"),
        ]
        for row in found[:_LEADERS]
    ]
    best = next(
        (i for i, row in enumerate(found) if (row["arm"], row["state"]) == (MAIN_ARM, TrialState.COMPLETE)), None
    )
    more = f'<p class="notes">and {len(found) - _LEADERS} more in the tables</p>' if len(found) > _LEADERS else ""
    return m.table([*heads, "values drawn", "trial"], rows, best=best) + more


def _failures(found: Rows, declared: Mapping[str, Any]) -> str:
    return "\n".join(
        f'<details class="failure"><summary><span class="state failed"><i>✕</i></span>'
        f'<span class="mono">{escape(row["trial_id"])}</span> &nbsp;{m.words(row["reason"])[1]}</summary>'
        f"{m.draw(row['params'], declared)[1]}<pre><code>{m.words(row['why'])[1]}</code></pre></details>"
        for row in found
    )


def _compute(found: Rows) -> str:
    if not found:
        return ""
    longest = max(row["seconds"] or 0.0 for row in found)
    rows = []
    for row in found:
        bar, seconds = "", row["seconds"]
        if seconds:
            width = f"{75 * seconds / longest:.1f}%"
            bar = f'<span class="bar {row["state"]}" style="width:{width}"></span> {100 * row["share"]:.0f} %'
        plain = [m.words(row["arm"], "keep"), m.words(row["role"]), m.state(row["state"])]
        numbers = [m.number(row["trials"], 0), m.number(row["steps"], 0), m.number(seconds, 1)]
        rows.append([*plain, *numbers, ("share", bar)])
    return m.table(["arm", "role", "state", "#trials", "#steps", "#seconds", "share of the time"], rows)


def _origin(search: dict[str, Any], events: list[str]) -> str:
    data, versions, hardware = (json.loads(search[name] or "{}") for name in ("data", "versions", "hardware"))
    opened = events.count(EventName.OPENED_TEST)
    rows = {
        "begun": f"{search['time']:%Y-%m-%d %H:%M} UTC",
        "search": f"sha256 {search['fingerprint']}",
        **{f"data: {name}": format_value(value) for name, value in data.items()},
        "test split": f"opened {format_count(opened, 'time')}" if opened else "never opened by this run",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        **{f"hardware: {name}": format_value(value) for name, value in hardware.items()},
    }
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items() if value)
    spec = escape(json.dumps(json.loads(search["spec"]), indent=2, ensure_ascii=False))
    return (
        '<section id="origin">\n<h2>Data and versions</h2>\n'
        f'<p class="question">What would it take to do this again?</p>\n<dl>{items}</dl>\n'
        f"<details><summary>The search as declared, resolved</summary><pre><code>{spec}</code></pre></details>\n"
        "</section>"
    )
