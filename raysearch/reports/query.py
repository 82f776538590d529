"""Reports: questions to a run's tables, answered by SQL.

A report is a file with one SELECT statement (DuckDB). It may use these views: searches, trials, evaluations, weights
and events (the tables of `storage.schemas`, each row once), best and configurations (see `storage.best`), and those of
VIEWS. It may call the functions of `statistics` and `row_statistics` and the table macro `compared`. The file begins
with comments: the line `-- Title: the question`, then what a reader has to know to understand the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import SpecError
from raysearch.formatting import CONTROLS_PATTERN, printable
from raysearch.reports import end_task, row_statistics, statistics
from raysearch.reports.importance import IMPORTANCES, importances
from raysearch.reports.objective_effects import EFFECTS, objective_effects
from raysearch.reports.trial_sample import Sample, sample_configurations
from raysearch.schema import catalog
from raysearch.storage.best import best_trials, configurations

if TYPE_CHECKING:
    from raysearch.storage.run import Run

_WORD = re.compile(r"\w+")
FUNCTIONS = statistics.FUNCTIONS | row_statistics.FUNCTIONS


@dataclass(frozen=True)
class View:
    """A table that reports may use and that no run holds: it is computed from the run's tables."""

    schema: pa.Schema
    compute: Callable[[Run, Mapping[str, pa.Table]], pa.Table]  # of the run and its other tables


def _sample(run: Run, tables: Mapping[str, pa.Table]) -> Sample | None:
    return sample_configurations(tables["trials"], tables["evaluations"], run.cells)


VIEWS = {
    "outputs": View(end_task.OUTPUTS, lambda run, tables: end_task.end_task_outputs(run, tables["trials"])),
    "row_texts": View(end_task.ROW_TEXTS, lambda run, _: end_task.row_texts(run)),
    "importances": View(IMPORTANCES, lambda run, tables: importances(_sample(run, tables))),
    "objective_effects": View(EFFECTS, lambda run, tables: objective_effects(_sample(run, tables), tables["weights"])),
}


@dataclass(frozen=True)
class Report:
    """A question to a run's tables and the SQL that answers it."""

    name: str
    file: Path
    title: str
    question: str
    notes: str  # what a reader has to know to understand the answer
    sql: str


class AnswerRows(Mapping[str, list[dict[str, Any]]]):
    """The rows of answers by the report's name; rows of a large answer are made when they are asked for."""

    def __init__(self, answers: Mapping[str, pa.Table]) -> None:
        self._answers = answers

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._answers[name].to_pylist()
        return rows

    def table(self, name: str) -> pa.Table:
        """Returns the whole answer of a report, as a table."""
        return self._answers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)


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


class Views(Mapping[str, pa.Table]):
    """The tables that a report may use, by name; those of VIEWS are computed when they are first read."""

    def __init__(self, run: Run, tables: Mapping[str, pa.Table]) -> None:
        self._run, self._tables = run, dict(tables)

    def __getitem__(self, name: str) -> pa.Table:
        if name not in self._tables and name in VIEWS:
            self._tables[name] = VIEWS[name].compute(self._run, self)
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._tables, **VIEWS})

    def __len__(self) -> int:
        return len({**self._tables, **VIEWS})


def open_views(run: Run) -> Views:
    """Returns the tables that a report may use, by name."""
    tables = {name: getattr(run, name)() for name in ("searches", "trials", "evaluations", "weights", "events")}
    cells, trials = run.cells, tables["trials"]
    ranked = configurations(trials, cells, run.dropped())
    return Views(run, {**tables, "best": best_trials(trials, cells), "configurations": ranked})


def ask_reports(tables: Mapping[str, pa.Table], reports: Sequence[Report]) -> dict[str, pa.Table]:
    """Returns the answer of each report on these tables, by the report's name."""
    import duckdb
    from duckdb.func import FunctionNullHandling

    answers = {}
    words = {word for report in reports for word in _WORD.findall(report.sql)}
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        for name in words.intersection(tables):
            connection.register(name, tables[name])
        for name, (function, parameters, result) in FUNCTIONS.items():
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
            if pc.any(pc.match_substring_regex(column, CONTROLS_PATTERN)).as_py():
                clean = [text if text is None else printable(text) for text in column.to_pylist()]
                column = pa.chunked_array([clean], column.type)
            columns.append(column)
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
