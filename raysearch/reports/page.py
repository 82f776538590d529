"""The report of a run as one HTML page, with its style, plots, data and script inside; it loads nothing.

The page claims no more than the tables hold: it says when a score is the highest of many, and a difference whose
interval includes 0 is called "no difference found". Without script it is whole: the script adds filters, sorting,
names of trials under the pointer, and a view of each trial. A run may be a stranger's: all text is escaped or made a
text node, and a Content-Security-Policy permits the page's own script and style alone, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from raysearch.errors import RunError
from raysearch.formatting import (
    format_count,
    format_difference,
    format_differences,
    format_duration,
    format_value,
    printable,
    printable_tree,
)
from raysearch.methods import FAMILIES
from raysearch.reports import run_doctor
from raysearch.reports.blocks import SYMBOLS, Block, Nothing
from raysearch.reports.page_data import left_out, make_page_data, to_script_json
from raysearch.reports.plots import MAX_POINTS, STATES, Rows, column
from raysearch.reports.query import AnswerRows, Report, Views, ask_reports, open_views, read_report
from raysearch.reports.recommendation import recommend
from raysearch.reports.run_snapshot import Snapshot, needs_all_rows, page_tables
from raysearch.reports.sections import INTRODUCTIONS, SECTIONS, RunAnswers, catalog_blocks, default_blocks
from raysearch.schema import catalog
from raysearch.storage.containment import check_contained
from raysearch.storage.states import MAIN_ARM, EventName, RunState, TrialState

if TYPE_CHECKING:
    from raysearch.storage.run import Run

USER_SECTION = "user-report-"  # begins the ids of sections that answer a user's reports
_PROSE = re.compile(r"`(?P<code>[^`]+)`|(?P<address>https://[\w./-]+\w)|(?P<text>.+?(?=`|https://|$))", re.DOTALL)


TEMPLATES = Path(__file__).parent / "templates"
INTERACTIVE = ("curves", "leaderboard")  # sections in whose place the script has others
_UNREAD = "not read by this run before this page was written"


@dataclass(frozen=True)
class Section:
    """A report on the page."""

    id: str
    report: Report
    blocks: Sequence[Block]
    introduction: str = ""  # for a reader of the page; the report's notes explain its SQL

    @property
    def is_empty(self) -> bool:
        """Says whether there is nothing to show but one line."""
        return all(isinstance(block, Nothing) for block in self.blocks)

    @property
    def is_static(self) -> bool:
        """Says whether the script shows something else in its place."""
        return self.id in INTERACTIVE and not self.is_empty


@dataclass(frozen=True)
class Tile:
    """A number at the head of the page."""

    name: str
    value: str
    note: str


def write_html(run: Run, more_reports: Sequence[str | Path] = ()) -> Path:
    """Writes the run's report.html and returns its path.

    The page has every report of the catalog, then those of `more_reports` that are not in the catalog. Raises RunError
    when the search has not begun.
    """
    snapshot = Snapshot(run.path)
    if not len(snapshot.searches()):
        raise RunError(f"{run.path}: the search has not started, so there is nothing to report")
    catalog_reports = [read_report(name) for name in catalog.names("reports")]
    files = {report.file.resolve() for report in catalog_reports}
    user_reports = [report for report in map(read_report, more_reports) if report.file.resolve() not in files]
    check_contained(run.path)
    target = run.path / "report.html"
    unfinished = target.with_suffix(".tmp")
    unfinished.write_text(_page(snapshot, catalog_reports, user_reports), encoding="utf-8")
    return unfinished.replace(target)


def refresh_html(run: Run) -> Path | None:
    """Writes the run's page again if it has one; a page with a user's reports stays, because it names no files."""
    target = run.path / "report.html"
    if not target.exists() or f'id="{USER_SECTION}' in target.read_text(encoding="utf-8"):
        return None
    return write_html(run)


def _page(run: Snapshot, catalog_reports: Sequence[Report], user_reports: Sequence[Report]) -> str:
    tables = Views(run, page_tables(run))
    tables_by_report = _answers(run, tables, catalog_reports)
    search = {"dimensions": {}} | printable_tree(run.search)  # a search without dimensions has no such key
    best = dict(zip(*(tables["best"][name].to_pylist() for name in ("arm", "trial_id")), strict=True))
    numbers = {trial_id: place for place, trial_id in enumerate(tables["trials"]["trial_id"].to_pylist())}
    answers = RunAnswers(AnswerRows(tables_by_report), search, best, numbers, _notes(run))
    sections = list(_catalog_sections(catalog_reports, tables_by_report, answers))
    if user_reports:
        sections += _user_sections(open_views(run), user_reports)
    declaration = tables["searches"].to_pylist()[-1]
    title = f"{run.name} - raysearch report"
    style, script = _read_style(), _read_script()
    data = to_script_json(make_page_data(run, tables, title))
    mark_safe = _environment().filters["safe"]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            run=run.name,
            title=title,
            policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; {_POLICY}",
            style=mark_safe(style),
            script=mark_safe(script),
            data=mark_safe(data),
            task=search["task"]["name"],
            facts=_facts(search, answers.metric),
            recommendation=recommend(run),
            notes=run_doctor.warn(run),
            left_out=left_out(run),
            tiles=_tiles(run, answers),
            sections=sections,
            origin=_origin(declaration, tables["events"]["event"].to_pylist()),
            declaration=json.dumps(json.loads(declaration["spec"]), indent=2, ensure_ascii=False),
        )
    )


# Attributes `style` of plots and bars are permitted: nothing of a run's is ever markup, and nothing can be loaded.
_POLICY = "style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    """Returns what permits an inline script or style of this text in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _read_style() -> str:
    return f"\n{(TEMPLATES / 'page.css').read_text(encoding='utf-8')}"


@cache
def _read_script() -> str:
    """Returns the parts of the script as one function: nothing of it is seen from outside."""
    parts = [file.read_text(encoding="utf-8") for file in sorted((TEMPLATES / "script").glob("*.js"))]
    return '\n(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _answers(run: Snapshot, tables: Mapping[str, pa.Table], reports: Sequence[Report]) -> dict[str, pa.Table]:
    """Returns the answers of reports; one that needs all rows of a large table gets them, the others those shown."""
    large = [report for report in reports if needs_all_rows(report.name, report.sql)]
    answers = ask_reports(tables, [report for report in reports if report not in large])
    return answers | (ask_reports(open_views(run), large) if large else {})


def _notes(run: Snapshot) -> dict[str, str]:
    """Returns what sections of a large run leave out, by report."""
    trials, (ranked, complete) = len(run.trials()), run.ranked_share
    notes: dict[str, str] = {}
    if trials > MAX_POINTS:
        sentence = (
            f"Of more than {MAX_POINTS} trials the best third of the points, and others evenly spread, are drawn."
        )
        notes |= dict.fromkeys(("best_so_far", "dimensions"), sentence)
    if ranked < complete:
        notes["ranking"] = f"Of {complete:,} complete trials the {ranked:,} best ones are ranked."
    return notes


def _catalog_sections(
    reports: Sequence[Report], tables_by_report: Mapping[str, pa.Table], answers: RunAnswers
) -> Iterator[Section]:
    """Yields the sections of reports, those with a layout of their own first."""
    by_name = {report.name: report for report in reports}
    for name in SECTIONS:
        if blocks := catalog_blocks(name, answers):
            yield Section(name, by_name[name], blocks, INTRODUCTIONS.get(name, ""))
    for report in reports:
        if report.name not in SECTIONS:
            yield Section(report.name, report, default_blocks(tables_by_report[report.name]))


def _user_sections(tables: Mapping[str, pa.Table], reports: Sequence[Report]) -> Iterator[Section]:
    for number, report in enumerate(reports, 1):
        (answer,) = ask_reports(tables, [report]).values()
        yield Section(f"{USER_SECTION}{number}", report, default_blocks(answer))


def _facts(search: Mapping[str, Any], metric: str) -> list[str]:
    """Returns what the head of the page says about the search."""
    method = search["method"]
    return [
        f"scored by {metric}",
        *(f"{family} {method.get(family) or 'searched'}" for family in FAMILIES),
        *([f"space {search['space']}"] if search.get("space") else []),
        f"{format_count(len(search['dimensions']), 'dimension')} searched",
    ]


def _tiles(run: Snapshot, answers: RunAnswers) -> list[Tile]:
    rows = run.configurations().select(["arm", "state", "score"]).to_pylist()
    configurations = [row for row in rows if row["arm"] == MAIN_ARM]
    counts = Counter(column(configurations, "state"))
    best = next((row["score"] for row in configurations if row["score"] is not None), None)
    complete = counts[TrialState.COMPLETE]
    chosen = f"{answers.metric} of the search's winner"
    if complete > 1:
        chosen += f": the highest of {complete} scores on the same examples, so expect less on new examples"
    running = run.state == RunState.RUNNING
    return [
        Tile("best score in the search", "none yet" if best is None else f"{best:.3f}", chosen),
        *_fresh_tile(answers.rows["arms"]),
        Tile(
            "configurations",
            str(len(configurations)),
            " · ".join(f"{counts[state]} {state}" for state in STATES if state in counts),
        ),
        Tile(
            "time spent",
            format_duration(run.seconds()),
            "still running: the page shows the state when it was written" if running else str(run.state),
        ),
    ]


def _fresh_tile(arms: Rows) -> list[Tile]:
    """Returns the tile of the winner's mean on seeds that took no part in choosing it, if there are any."""
    for winner in (row for row in arms if row["arm"] == MAIN_ARM and row["fresh"]):
        spread = f"; standard deviation {winner['sd']:.3f}" if winner["seeds"] > 1 else ""
        note = f"mean of {format_count(winner['seeds'], 'seed')} that took no part in choosing the winner{spread}"
        return [Tile("winner on fresh seeds", f"{winner['mean']:.3f}", note)]
    return []


def _origin(declaration: Mapping[str, Any], events: list[str]) -> dict[str, str]:
    """Returns what is needed to repeat the run, by name."""
    data, versions, hardware = (json.loads(declaration[name] or "{}") for name in ("data", "versions", "hardware"))
    openings = events.count(EventName.OPENED_TEST)
    facts = {
        "started": f"{declaration['time']:%Y-%m-%d %H:%M} UTC",
        "search": f"sha256 {declaration['fingerprint']}",
        **{f"data: {name}": format_value(value) for name, value in data.items() if value not in ("", None)},
        "test split": f"read {format_count(openings, 'time')} by this run" if openings else _UNREAD,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        **{f"hardware: {name}": format_value(value) for name, value in hardware.items() if value not in ("", None)},
    }
    return {name: value for name, value in facts.items() if value}


def _without_controls(value: object) -> object:
    """Returns what a template shows, a text without control characters: a page is also read in a terminal."""
    return type(value)(printable(value)) if isinstance(value, str) else value


@cache
def _environment() -> Environment:
    """Returns the templates; all that they show is escaped, but for plots and the page's own style, script and data."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    environment.globals["symbols"] = {str(state): symbol for state, symbol in SYMBOLS.items()}
    environment.filters |= {
        "format_value": format_value,
        "format_difference": format_difference,
        "format_differences": format_differences,
        "format_number": lambda value, digits: f"{value:.{digits}f}",
        "sentence": lambda text: text[:1].upper() + text[1:],
        "split_prose": lambda text: [match.groupdict() for match in _PROSE.finditer(text)],
    }
    return environment
