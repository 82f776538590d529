"""Rows of a user's file: JSONL, CSV, TSV, Parquet, or plain lines. All modalities read tables with it.

Nothing is repaired: a row that cannot be used is an error with its file and line, or its file and row number where
the file has no lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raysearch.errors import SpecError, did_you_mean


class Place(NamedTuple):  # a tuple, because there is one for every row
    """Where a row stands in its source."""

    source: str
    number: int  # of the line or the row, from 1
    is_line: bool = False

    def error(self, column: str, problem: str) -> SpecError:
        """Returns an error about a column of this row, to be raised."""
        if self.is_line:
            return SpecError(problem, file=self.source, line=self.number, key=column)
        return SpecError(problem, file=self.source, key=f"row {self.number}: {column}")


Row = tuple[Place, dict[str, Any]]  # where it stands, and its values by column


def row_places(source: str, count: int) -> list[Place]:
    """Returns the places of `count` rows of a source without lines."""
    return [Place(source, number) for number in range(1, count + 1)]


def read_rows(path: Path, columns: Sequence[str] | None, what: str, suffixes: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a file; each has all of `columns`, or whatever columns there are if it is None.

    Raises SpecError with file and line for a row that cannot be read, for a file without rows, and for a file with
    none of these suffixes, which cannot be read as `what`.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise unreadable_file(path, what, ", ".join(suffixes))
    is_empty = True
    for place, row in _READERS[suffix](path, columns):
        if columns and not row.keys() >= set(columns):
            column = next(column for column in columns if column not in row)
            raise place.error(column, f"no such column{did_you_mean(column, row)}")
        is_empty = False
        yield place, row
    if is_empty:
        raise SpecError("holds no rows", file=str(path))


def unreadable_file(path: Path, what: str, formats: str) -> SpecError:
    """Returns the error about a file with an unknown suffix, to be raised."""
    return SpecError(f"cannot read a {path.suffix or 'nameless'} file as {what}; use {formats}", file=str(path))


def is_empty(value: object) -> bool:
    """Returns whether a cell holds nothing: null, or a text without a visible character."""
    return value is None or (isinstance(value, str) and not value.strip())


def parse_label(value: object, column: str, place: Place, class_names: Sequence[str] = ()) -> str:
    """Returns a label as a word; a whole number is the index of a class where there are class names.

    Raises SpecError for an empty label and for one that is neither a word nor a whole number.
    """
    if is_empty(value):
        raise place.error(column, "the label is empty")
    if isinstance(value, str) and class_names and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and class_names:
        if not 0 <= value < len(class_names):
            problem = f"{value} is not the number of a class: there are {len(class_names)} names, from 0"
            raise place.error(column, problem)
        return str(class_names[value])
    if not isinstance(value, str | int):
        raise place.error(column, f"a label is a word or a whole number, got {value!r:.60}")
    return str(value).strip()


def read_parquet(path: Path, columns: Sequence[str] | None) -> Any:
    """Returns a pyarrow table of these columns, or of all. Raises SpecError for a missing column or another format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        for column in columns or ():
            if column not in names:
                raise SpecError(f"no column {column!r}{did_you_mean(column, names)}", file=str(path))
        return pq.read_table(path, columns=None if columns is None else list(dict.fromkeys(columns)))
    except pa.ArrowInvalid as error:
        raise SpecError(f"not Parquet: {' '.join(str(error).split())[:200]}", file=str(path)) from None


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    source = str(path)
    for number, row in enumerate(read_parquet(path, columns).to_pylist(), 1):
        yield Place(source, number), row


def _read_utf8(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8; save the file as UTF-8", file=str(path), line=line) from None


def _jsonl_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    del columns
    source = str(path)
    for number, line in enumerate(_read_utf8(path).split("\n"), 1):  # not splitlines: texts hold other separators
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SpecError(f"not JSON: {error.msg} at column {error.colno}", file=source, line=number) from None
        if not isinstance(row, dict):
            raise SpecError("a line must be one JSON object", file=source, line=number)
        yield Place(source, number, is_line=True), row


def _csv_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    source = str(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(_read_utf8(path), newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(1 << 30)
    try:
        header = next(reader, [])
        for column in columns or ():
            if column not in header:
                problem = f"no column {column!r} in the header{did_you_mean(column, header)}"
                raise SpecError(problem, file=source, line=1)
        stop = reader.line_num
        for values in reader:
            start, stop = stop + 1, reader.line_num
            if len(values) != len(header):
                if not values:
                    continue
                problem = f"{len(values)} fields where the header has {len(header)}"
                raise SpecError(problem, file=source, line=start)
            yield Place(source, start, is_line=True), dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise SpecError(f"not CSV: {error}", file=source, line=reader.line_num) from None
    finally:
        csv.field_size_limit(limit)


def _text_lines(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    """Yields each line that is not blank as a row of one column."""
    (column,) = columns or ("text",)
    for number, line in enumerate(_read_utf8(path).split("\n"), 1):
        if line.strip():
            yield Place(str(path), number, is_line=True), {column: line}


_READERS: dict[str, Callable[[Path, Sequence[str] | None], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_lines,
}
TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # formats with columns
