"""Reports: SQL over a run's tables, and one HTML file with pictures made of what the SQL says.

A report is a file of one SELECT (DuckDB) over the views searches, trials, evaluations, weights, events (the schemas of
`tables`, each row once, see `run`), best and configurations (see `storage.best`); it may call the statistics of
`paired` and its table `compared`. It begins with two kinds of comment: a line
`-- Title: the question`, then what is to be known to read the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysearch.errors import RunError, SpecError
from raysearch.reports import statistics
from raysearch.schema import catalog
from raysearch.storage.best import best_trials, configurations

if TYPE_CHECKING:
    from raysearch.storage.run import Run


@dataclass(frozen=True)
class Report:
    """A question to a run's tables, and how it is asked."""

    name: str
    file: Path
    title: str
    question: str
    notes: str  # what is to be known to read the answer
    sql: str


def read_report(name_or_path: str | Path) -> Report:
    """The report of that name in the catalog, or at that path; SpecError unless it begins as it should."""
    file = catalog.path("reports", name_or_path)
    lines = file.read_text().splitlines()
    said = [line.removeprefix("--").strip() for line in lines[: _comment_lines(lines)]]
    title, colon, question = said[0].partition(": ") if said else ("", "", "")
    if not colon:
        wanted = "a report begins with the comment `-- Title: the question that it answers`"
        raise SpecError(wanted, file=catalog.display_path(file), line=1)
    sql = "\n".join(lines[len(said) :]).strip().removesuffix(";")
    return Report(file.stem, file, title, question, " ".join(said[1:]), sql)


def analyze(run: Run, reports: Sequence[str | Path] | None = None) -> dict[str, pa.Table]:
    """The answer of every report, by name; without `reports` of all in the catalog.

    Raises SpecError for an unknown report, and for SQL that does not fit the tables.
    """
    chosen = catalog.names("reports") if reports is None else reports
    return answers(views(run), [read_report(name) for name in chosen])


def views(run: Run) -> dict[str, pa.Table]:
    """The tables that a report may use, by name."""
    tables = {name: getattr(run, name)() for name in ("searches", "trials", "evaluations", "weights", "events")}
    seeds, trials = run.search.get("seeds", []), tables["trials"]
    return {**tables, "best": best_trials(trials, seeds), "configurations": configurations(trials, seeds)}


def answers(tables: dict[str, pa.Table], reports: Sequence[Report]) -> dict[str, pa.Table]:
    """What each report says of these tables."""
    import duckdb
    from duckdb.func import FunctionNullHandling

    found, nulls = {}, FunctionNullHandling.SPECIAL
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        for name, (function, takes, gives) in statistics.FUNCTIONS.items():
            connection.create_function(name, _of_null_null(function), takes, gives, null_handling=nulls)
        connection.execute(statistics.COMPARED)
        for report in reports:
            try:
                found[report.name] = connection.sql(report.sql).to_arrow_table()
            except duckdb.Error as error:
                problem = " ".join(str(error).split("\n\n")[0].split())
                raise SpecError(problem, file=catalog.display_path(report.file)) from error
    return found


def write_html(run: Run) -> Path:
    """Write the run's report.html, one file that needs no other, and say where it is."""
    from raysearch.reports.page import page

    tables = views(run)
    if not len(tables["searches"]):
        raise RunError(f"{run.path}: the search has not begun; there is nothing to report")
    reports = {name: read_report(name) for name in catalog.names("reports")}
    target = run.path / "report.html"
    unfinished = target.with_suffix(".tmp")
    unfinished.write_text(page(run, tables, reports, answers(tables, list(reports.values()))), encoding="utf-8")
    return unfinished.replace(target)


def _of_null_null(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as SQL has it: null of a null. DuckDB's own way lets it return no null of anything else."""

    @wraps(function)  # whose arguments DuckDB counts
    def asked(*given: Any) -> Any:
        return None if any(value is None for value in given) else function(*given)

    return asked


def _comment_lines(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
