"""The answers of reports as files and streams that other programs read: CSV, JSON, Parquet, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from raysearch.errors import SpecError
from raysearch.formatting import format_value, printable

TableFormat = Literal["csv", "json", "parquet", "markdown"]
_SUFFIXES = {"csv": ".csv", "json": ".json", "parquet": ".parquet", "markdown": ".md"}


def format_tables(answers: Mapping[str, pa.Table], form: TableFormat) -> str:
    """Returns the answers as one text. Raises SpecError for a form that is no text, or holds one table at a time."""
    if form == "parquet":
        raise SpecError("parquet is written to files: add --output FOLDER", file="--format parquet")
    if form == "csv" and len(answers) > 1:
        raise SpecError(
            f"{len(answers)} reports do not fit into one CSV: name one of them, or add --output FOLDER",
            file="--format csv",
        )
    if form == "json":
        return json.dumps({name: _plain(table.to_pylist()) for name, table in answers.items()}, indent=2, default=str)
    return "\n\n".join(
        to_csv(table) if form == "csv" else f"## {name}\n\n{to_markdown(table)}" for name, table in answers.items()
    )


def write_tables(answers: Mapping[str, pa.Table], form: TableFormat, folder: Path) -> list[Path]:
    """Writes each answer to a file of its own and returns the files; the folder is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, table in answers.items():
        file = folder / f"{Path(name).name}{_SUFFIXES[form]}"
        if form == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, file)
        elif form == "json":
            file.write_text(json.dumps(_plain(table.to_pylist()), indent=2, default=str) + "\n", encoding="utf-8")
        else:
            text = to_csv(table) if form == "csv" else to_markdown(table)
            file.write_text(text + "\n", encoding="utf-8")
        files.append(file)
    return files


def to_csv(table: pa.Table) -> str:
    """Returns a table as CSV with a head; a missing value is empty, a list or a mapping is JSON."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow([json.dumps(_plain(v), default=str) if isinstance(v, list | dict) else v for v in row.values()])
    return sink.getvalue().rstrip("\n")


def to_markdown(table: pa.Table) -> str:
    """Returns a table of Markdown; numbers with four digits, bars and line breaks escaped."""
    columns = table.column_names

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(' '.join(printable(cell).split()).replace('|', chr(92) + '|') for cell in cells)} |"

    rules = ["---:" if _is_number(table.schema.field(name).type) else "---" for name in columns]
    rows = [line([format_value(row[name]) for name in columns]) for row in table.to_pylist()]
    return "\n".join([line(columns), f"| {' | '.join(rules)} |", *rows])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _plain(value: Any) -> Any:
    """Returns the value with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
