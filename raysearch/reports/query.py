"""Reports: questions to a run's tables, answered by SQL.

A report is a file with one SELECT statement (DuckDB). It may use these views: searches, trials, evaluations, weights
and events (the tables of `storage.schemas`, each row once), best and configurations (see `storage.best`). It may call
the functions of `statistics` and its table macro `compared`. The file begins with comments: the line
`-- Title: the question`, then what a reader has to know to understand the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysearch.errors import SpecError
from raysearch.formatting import printable
from raysearch.reports import statistics
from raysearch.schema import catalog
from raysearch.storage.best import best_trials, configurations

if TYPE_CHECKING:
    from raysearch.storage.run import Run


@dataclass(frozen=True)
class Report:
    """A question to a run's tables and the SQL that answers it."""

    name: str
    file: Path
    title: str
    question: str
    notes: str  # what a reader has to know to understand the answer
    sql: str


def read_report(name_or_path: str | Path) -> Report:
    """Returns the report of that name in the catalog, or at that path.

    Raises SpecError unless the file begins with its title and question.
    """
    file = catalog.path("reports", name_or_path)
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("--").strip() for line in takewhile(lambda line: line.startswith("--"), lines)]
    title, colon, question = comments[0].partition(": ") if comments else ("", "", "")
    if not colon:
        problem = "a report begins with the comment `-- Title: the question that it answers`"
        raise SpecError(problem, file=catalog.display_path(file), line=1)
    sql = "\n".join(lines[len(comments) :]).strip().removesuffix(";")
    return Report(file.stem, file, title, question, " ".join(comments[1:]), sql)


def analyze(run: Run, reports: Sequence[str | Path] | None = None) -> dict[str, pa.Table]:
    """Returns the answer of every report by name: of those named, or of all in the catalog.

    Raises SpecError for an unknown report, and for SQL that does not fit the tables.
    """
    names = catalog.names("reports") if reports is None else reports
    return ask_reports(open_views(run), [read_report(name) for name in names])


def open_views(run: Run) -> dict[str, pa.Table]:
    """Returns the tables that a report may use, by name."""
    tables = {name: getattr(run, name)() for name in ("searches", "trials", "evaluations", "weights", "events")}
    cells, trials = run.cells, tables["trials"]
    ranked = configurations(trials, cells, run.dropped())
    return {**tables, "best": best_trials(trials, cells), "configurations": ranked}


def ask_reports(tables: Mapping[str, pa.Table], reports: Sequence[Report]) -> dict[str, pa.Table]:
    """Returns the answer of each report on these tables, by the report's name."""
    import duckdb
    from duckdb.func import FunctionNullHandling

    answers = {}
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        for name, (function, parameters, result) in statistics.FUNCTIONS.items():
            connection.create_function(
                name, _null_for_null(function), parameters, result, null_handling=FunctionNullHandling.SPECIAL
            )
        connection.execute(statistics.COMPARED)
        for report in reports:
            try:
                answers[report.name] = _printable_rows(connection.sql(report.sql).to_arrow_table())
            except duckdb.Error as error:
                problem = " ".join(str(error).split("\n\n")[0].split())
                raise SpecError(problem, file=catalog.display_path(report.file)) from error
    return answers


def _printable_rows(table: pa.Table) -> pa.Table:
    """Returns a table without control characters in its texts, which may be a stranger's, and in its columns' names."""
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts = column.to_pylist()
            clean = [text if text is None else printable(text) for text in texts]
            columns.append(pa.chunked_array([clean], column.type) if clean != texts else column)
        else:
            columns.append(column)
    return pa.table(columns, names=[printable(name) for name in table.column_names])


def _null_for_null(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with a null result whenever an argument is null.

    DuckDB's default handling of nulls does the same, but then the function may return null for no other arguments.
    """

    @wraps(function)  # DuckDB reads the signature
    def call(*arguments: Any) -> Any:
        return None if any(argument is None for argument in arguments) else function(*arguments)

    return call
