"""Rows of a user's file: JSONL, CSV, TSV, Parquet, or plain lines. All modalities read tables with it.

Nothing is repaired: a row that cannot be used is an error with its file and line, or its file and row number where
the file has no lines. What is passed over, such as blank lines, is a note.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from raysearch.data.delimited import delimited_rows
from raysearch.data.parquet import parquet_rows
from raysearch.data.places import Place, Row
from raysearch.data.text_files import number_lines
from raysearch.errors import SpecError, did_you_mean, shorten

MISSING_VALUES = {"nan", "null", "na", "n/a", "<na>", "#n/a"}  # as other programs write a missing value
HIDDEN_LABEL = "-1"  # of a held-out example whose label is not published
_NUMBER = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5})?")
_JSON_DEPTH = "its lists or objects are nested too deeply"


def read_rows(
    path: Path,
    columns: Sequence[str] | None,
    what: str,
    suffixes: Sequence[str],
    notes: list[str] | None = None,
) -> Iterator[Row]:
    """Yields the rows of a file; each has all of `columns`, or whatever columns there are if it is None.

    When the last row has been yielded, `notes` has a sentence for each thing that was unusual or passed over. Raises
    SpecError with file and line for a row that cannot be read, for a file without rows, and for a file with none of
    these suffixes, which cannot be read as `what`.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise unreadable_file(path, what, ", ".join(suffixes))
    is_empty = True
    for place, row in _READERS[suffix](path, columns, [] if notes is None else notes):
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


def parse_label(
    value: object, column: str, place: Place, class_names: Sequence[str] = (), *, may_be_hidden: bool = False
) -> str:
    """Returns a label as a word; a whole number is the index of a class where there are class names.

    With `may_be_hidden`, the number -1 is HIDDEN_LABEL, as the data sets of the hub have it. Raises SpecError for an
    empty label and for one that is neither a word nor a whole number.
    """
    if is_empty(value):
        raise place.error(column, "the label is empty")
    if isinstance(value, str) and class_names and _NUMBER.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, int) and class_names and not (may_be_hidden and value == int(HIDDEN_LABEL)):
        if not 0 <= value < len(class_names):
            problem = f"{value} is not the number of a class: there are {len(class_names)} names, from 0"
            raise place.error(column, problem)
        return str(class_names[value])
    if not isinstance(value, str | int):
        raise place.error(column, f"a label is a word or a whole number, got {value!r:.60}")
    return str(value).strip()


def label_notes(source: str, labels: Sequence[str]) -> list[str]:
    """Returns a sentence for each label that looks like a missing value, or like another label."""
    notes = []
    counts = Counter(labels)
    for label, count in counts.items():
        if label.lower() in MISSING_VALUES:
            rows = "row has" if count == 1 else "rows have"
            notes.append(f"{source}: {count} {rows} the label {label!r}, which may be a missing value")
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        spellings.setdefault(_normalise(label), []).append(label)
    similar = [f"{', '.join(map(repr, group))}"[:100] for group in spellings.values() if len(group) > 1]
    if similar:
        notes.append(f"{source}: labels that differ only in how they are written: {'; '.join(similar[:5])}")
    return notes


def _normalise(label: str) -> str:
    """Returns what labels that are written differently have in common: capitals and spaces aside, or as numbers."""
    words = " ".join(label.lower().split())
    return f"{float(words):g}" if _DECIMAL.fullmatch(words) else words


def is_hidden(labels: Sequence[object], train: Collection[object]) -> bool:
    """Says whether a held-out part's labels are not published: all are -1 or empty, and no row of train has -1."""
    is_unpublished = bool(labels) and set(labels) <= {HIDDEN_LABEL, ""}
    return is_unpublished and not (HIDDEN_LABEL in labels and HIDDEN_LABEL in train)


def hidden_note(source: str, part: str) -> str:
    """Returns the note on a held-out part whose labels are not published."""
    return f"{source}: every label is -1 or empty, as if not published; it is left out, as if no {part} were declared"


def _jsonl_rows(path: Path, columns: Sequence[str] | None, notes: list[str]) -> Iterator[Row]:
    source = str(path)
    for number, line in number_lines(path, notes):
        repeated: list[str] = []

        def collect(pairs: list[tuple[str, Any]], repeated: list[str] = repeated) -> dict[str, Any]:
            values = dict(pairs)
            if len(values) < len(pairs):
                counts = Counter(name for name, _ in pairs)
                repeated.extend(name for name in counts if counts[name] > 1 and (columns is None or name in columns))
            return values

        try:
            row = json.loads(line, object_pairs_hook=collect)
        except json.JSONDecodeError as error:
            raise SpecError(f"not JSON: {error.msg} at column {error.colno}", file=source, line=number) from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            reason = _JSON_DEPTH if isinstance(error, RecursionError) else str(error).partition(";")[0]
            raise SpecError(f"not JSON that can be read: {reason}", file=source, line=number) from None
        if not isinstance(row, dict):
            raise SpecError("a line must be one JSON object", file=source, line=number)
        if repeated:
            raise SpecError(f"the key {shorten(repeated[0])!a} stands twice", file=source, line=number)
        place = Place(source, number, is_line=True)
        if "\\ud" in line.lower():
            _refuse_half_characters(row, columns, place)
        yield place, row


def _refuse_half_characters(row: dict[str, Any], columns: Sequence[str] | None, place: Place) -> None:
    """Raises SpecError for a used value with half of a character: a surrogate without its partner."""
    for column in row if columns is None else columns:
        try:
            json.dumps(row.get(column), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start]).strip("'")
            problem = f"holds half of a character, {half} (a surrogate without its partner); write the whole character"
            raise place.error(ascii(column)[1:-1], problem) from None


def _text_lines(path: Path, columns: Sequence[str] | None, notes: list[str]) -> Iterator[Row]:
    """Yields each line that is not blank as a row of one column."""
    (column,) = columns or ("text",)
    for number, line in number_lines(path, notes):
        yield Place(str(path), number, is_line=True), {column: line}


_READERS: dict[str, Callable[[Path, Sequence[str] | None, list[str]], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".csv": delimited_rows,
    ".tsv": delimited_rows,
    ".parquet": parquet_rows,
    ".txt": _text_lines,
}
TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # formats with columns
