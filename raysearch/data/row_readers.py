"""Rows of text as they stand in a user's files: JSONL, CSV, Parquet, plain lines, or a Hugging Face data set.

Nothing is repaired here: a row that cannot be used is refused with its file and line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raysearch.errors import SpecError, did_you_mean

HUB_SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class TextRows:
    """Texts in the order of their source; `labels` is empty for unlabelled text."""

    source: str  # a file, or the data set's name
    texts: list[str]
    labels: list[str]
    places: Sequence[int]  # line, or row, of each text in the source, from 1
    by_line: bool = True  # do `places` count lines?

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: Sequence[int]) -> TextRows:
        """The rows of these indices, in this order."""
        labels = [self.labels[i] for i in chosen] if self.labels else []
        return TextRows(
            self.source, [self.texts[i] for i in chosen], labels, [self.places[i] for i in chosen], self.by_line
        )

    def error(self, i: int, key: str, problem: str) -> SpecError:
        """An error about row `i`, to be raised."""
        return _error(self.source, self.places[i], self.by_line, key, problem)


def read_text_rows(path: Path, text: str, label: str | None) -> TextRows:
    """The rows of a file; `text` and `label` name its columns, and `label` None reads unlabelled text.

    Raises SpecError with file and line for a row that cannot be used, and for a file of another kind.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None or (reader is _lines and label is not None):
        kinds = [suffix for suffix, read in READERS.items() if label is None or read is not _lines]
        raise SpecError(
            f"cannot read a {path.suffix or 'nameless'} file as rows; use {', '.join(kinds)}", file=str(path)
        )
    columns = [text] if label is None else [text, label]
    by_line = reader is not _parquet
    return _collect(str(path), by_line, columns, reader(path, columns))


def read_hub_data_set(name: str, text: str, label: str | None) -> dict[str, TextRows]:
    """The train, dev and test rows of a data set that `datasets.load_dataset` knows; NAME or NAME:CONFIG.

    Class numbers become their names. Raises SpecError when `datasets` is not installed or cannot load it.
    """
    try:
        import datasets
    except ImportError:
        raise SpecError(
            f"hub data set {name!r} needs the package datasets; pip install 'raysearch[datasets]'", key="task.hub"
        ) from None
    path, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(path, config or None)
    except Exception as error:  # whatever the network, the hub or the loader says, in one line
        said = " ".join(str(error).split())[:300]
        raise SpecError(f"cannot load data set {name!r}: {type(error).__name__}: {said}", key="task.hub") from error
    rows: dict[str, TextRows] = {}
    for split, known in HUB_SPLITS.items():
        table = next((found[part] for part in known if part in found), None)
        if table is not None:
            rows[split] = _hub_rows(f"{name}[{split}]", table, text, label)
    return rows


def _hub_rows(source: str, table: Any, text: str, label: str | None) -> TextRows:
    columns = [text] if label is None else [text, label]
    for column in columns:
        if column not in table.column_names:
            raise SpecError(f"no column {column!r}{did_you_mean(column, table.column_names)}", file=source)
    names = getattr(table.features[label], "names", None) if label is not None else None

    def values() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(table.select_columns(columns), 1):
            if names and isinstance(row[label], int):
                known = 0 <= row[label] < len(names)
                row = {**row, label: names[row[label]] if known else None}
            yield number, row

    return _collect(source, False, columns, values())


def _collect(source: str, by_line: bool, columns: list[str], rows: Iterator[tuple[int, dict[str, Any]]]) -> TextRows:
    texts: list[str] = []
    labels: list[str] = []
    places: list[int] = []
    for place, row in rows:
        for column in columns:
            if column not in row:
                problem = f"no such column{did_you_mean(column, row)}"
                raise _error(source, place, by_line, column, problem)
        value = row[columns[0]]
        if not isinstance(value, str) or not value.strip():
            problem = "the text is empty" if isinstance(value, str) or value is None else f"no text: {value!r:.60}"
            raise _error(source, place, by_line, columns[0], problem)
        texts.append(value.strip())
        places.append(place)
        if len(columns) == 2:
            labels.append(_label(row[columns[1]], partial(_error, source, place, by_line, columns[1])))
    if not texts:
        raise SpecError("holds no rows", file=source)
    return TextRows(source, texts, labels, places, by_line)


def _label(value: object, error: Callable[[str], SpecError]) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise error("the label is empty")
    if not isinstance(value, str | int):
        raise error(f"a label is a word or a whole number, got {value!r:.60}")
    return str(value).strip()


def _error(source: str, place: int, by_line: bool, key: str, problem: str) -> SpecError:
    if by_line:
        return SpecError(problem, file=source, line=place, key=key)
    return SpecError(problem, file=source, key=f"row {place}: {key}")


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8; save the file as UTF-8", file=str(path), line=line) from None


def _jsonl(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    del columns
    for number, line in enumerate(_decoded(path).split("\n"), 1):  # texts hold other line separators
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SpecError(f"not JSON: {error.msg} at column {error.colno}", file=str(path), line=number) from None
        if not isinstance(row, dict):
            raise SpecError("a line must be one JSON object", file=str(path), line=number)
        yield number, row


def _csv(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    comma = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), delimiter=comma, strict=True)
    limit = csv.field_size_limit(1 << 30)
    try:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                problem = f"no column {column!r} in the header{did_you_mean(column, header)}"
                raise SpecError(problem, file=str(path), line=1)
        end = reader.line_num
        for values in reader:
            begin, end = end + 1, reader.line_num
            if len(values) != len(header):
                if not values:
                    continue
                problem = f"{len(values)} fields where the header has {len(header)}"
                raise SpecError(problem, file=str(path), line=begin)
            yield begin, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise SpecError(f"not CSV: {error}", file=str(path), line=reader.line_num) from None
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        for column in columns:
            if column not in names:
                raise SpecError(f"no column {column!r}{did_you_mean(column, names)}", file=str(path))
        table = pq.read_table(path, columns=columns)
    except pa.ArrowInvalid as error:
        raise SpecError(f"not Parquet: {' '.join(str(error).split())[:200]}", file=str(path)) from None
    yield from enumerate(table.to_pylist(), 1)


def _lines(path: Path, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if line.strip():
            yield number, {columns[0]: line}


READERS: dict[str, Callable[[Path, list[str]], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".txt": _lines,
}
