"""Tables of numbers in a user's files: CSV, TSV, JSONL, Parquet, or the arrays of an .npz archive.

Nothing is repaired: a value that is not a finite number is an error with its file, line and column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.archives import read_archive
from raysearch.data.parquet import INDEX_COLUMN, index_columns, stored_class_names
from raysearch.data.places import Place, row_places
from raysearch.data.row_readers import TABLE_SUFFIXES, label_notes, parse_label, read_rows
from raysearch.errors import SpecError, did_you_mean

LARGEST = 1e38  # absolute value of a feature: the difference of two is a float32 too
LARGEST_BLUR = 1e-3  # error of float32, as a share of a column's range
FEWEST_NUMBERED, FEWEST_DISTINCT = 10, 20  # rows from which whole numbers look like an index, or like identifiers
IDENTIFIERS = {"index", "id", "idx", "row", "rowid", "row_id", "row_number"}  # names of columns of distinct integers
_INTEGER = re.compile(r"-?[0-9]{1,15}(\.0*)?")


@dataclass(frozen=True)
class TableRows:
    """Rows in the order of their source."""

    source: str
    names: tuple[str, ...]  # of the features
    features: NDArray[np.float32]  # (n, d)
    labels: list[float] | list[str]  # numbers or classes
    notes: Sequence[str] = ()  # what was unusual about the source

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> TableRows:
        """Returns the rows with these indices, in this order."""
        labels: Any = [self.labels[i] for i in rows]
        return TableRows(self.source, self.names, self.features[list(rows)], labels, self.notes)

    @property
    def keys(self) -> list[str]:
        """The features of each row as text, equal for equal numbers."""
        return [row.tobytes().hex() for row in self.features]


def read_table(
    path: Path,
    label: str,
    *,
    numbers: bool,
    features: Sequence[str] = (),
    others: frozenset[str] = frozenset(),
    may_be_hidden: bool = False,
) -> TableRows:
    """Reads the rows of a file; without `features`, all columns but the label, `others` and an index are features.

    Labels are read as numbers or, if `numbers` is False, as classes; `may_be_hidden` as for `parse_label`. Raises
    SpecError with file and place for what cannot be used.
    """
    notes: list[str] = []
    columns, places = _read_archive(path) if path.suffix.lower() == ".npz" else _read_columns(path, notes)
    for column in (label, *features):
        if column not in columns:
            raise SpecError(f"no column {column!r}{did_you_mean(column, columns)}", file=str(path))
    if not places:
        raise SpecError("holds no rows", file=str(path))
    candidates = [name for name in columns if name != label and name not in others]
    names = tuple(features) or _without_index(path, columns, candidates, notes)
    if label in names or not names:
        problem = "is the label and a feature" if names else "there is no column beside the labels: no features"
        raise SpecError("; ".join([problem, *notes]), file=str(path), key=label)
    matrix = np.stack([_parse_numbers(columns[name], name, places) for name in names], axis=1)
    stored = _as_float32(matrix, names, places, notes)
    if numbers:
        return TableRows(str(path), names, stored, _parse_numbers(columns[label], label, places).tolist(), notes)
    class_names = stored_class_names(path, label)
    classes = [
        parse_label(value, label, place, class_names, may_be_hidden=may_be_hidden)
        for value, place in zip(columns[label], places, strict=True)
    ]
    return TableRows(str(path), names, stored, classes, (*notes, *label_notes(path.name, classes)))


def _read_columns(path: Path, notes: list[str]) -> tuple[dict[str, Sequence[Any]], list[Place]]:
    """Returns the values of each column of a file, and the place of each row."""
    rows = list(read_rows(path, None, "a table of numbers", (*TABLE_SUFFIXES, ".npz"), notes))
    header = rows[0][1].keys()
    for place, row in rows:
        if row.keys() != header:
            column = next(name for name in (*header, *row) if name not in row or name not in header)
            raise place.error(column, "is not in every row")
    return {name: [row[name] for _, row in rows] for name in header}, [place for place, _ in rows]


def _read_archive(path: Path) -> tuple[dict[str, Sequence[Any]], list[Place]]:
    """Returns the arrays (n,) of an archive as columns; an array (n, d) becomes the columns NAME.0 to NAME.d-1."""
    columns: dict[str, Sequence[Any]] = {}
    for name, array in read_archive(path).items():
        if array.ndim not in (1, 2):
            raise SpecError(f"must be (n,) or (n, d), got {list(array.shape)}", file=str(path), key=name)
        if array.ndim == 1:
            columns[name] = array.tolist()
        else:
            columns |= {f"{name}.{i}": array[:, i].tolist() for i in range(array.shape[1])}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise SpecError(f"its arrays have {sorted(lengths)} rows: they must have equally many", file=str(path))
    return columns, row_places(str(path), lengths.pop())


# ---- which columns are features ----


def _without_index(
    path: Path, columns: Mapping[str, Sequence[Any]], candidates: Sequence[str], notes: list[str]
) -> tuple[str, ...]:
    """Returns the candidates that do not merely number the rows, as pandas' index does; adds a note on the others.

    They are those that pandas has stored or named as an index, those without a name, and those that count the rows of
    the file one by one.
    """
    index = set(index_columns(path))
    passed_over = [
        name
        for name in candidates
        if name in index or INDEX_COLUMN.fullmatch(name) or _counts_rows(name, columns[name])
    ]
    if passed_over:
        names = ", ".join(repr(name) for name in passed_over)
        verb = "numbers the rows and is no feature" if len(passed_over) == 1 else "number the rows and are no features"
        which = "it in `features:` if it is one" if len(passed_over) == 1 else "in `features:` those that are"
        notes.append(f"{path.name}: {names} {verb}; list {which}")
    rest = tuple(name for name in candidates if name not in passed_over)
    identifiers = [name for name in rest if _is_distinct(_integers(columns[name]), FEWEST_DISTINCT)]
    if identifiers:
        names = ", ".join(repr(name) for name in identifiers)
        problem = "has another whole number in every row; if it identifies rows, list the others in `features:`"
        notes.append(f"{path.name}: {names} {problem}")
    return rest


def _counts_rows(name: str, column: Sequence[Any]) -> bool:
    """Says whether a column has the numbers of the rows, from 0 or 1, or distinct ones and the name of an identifier.

    Columns of less than FEWEST_NUMBERED rows are not looked at.
    """
    numbers = _integers(column)
    if not _is_distinct(numbers, FEWEST_NUMBERED):
        return False
    has_all = min(numbers) in (0, 1) and max(numbers) - min(numbers) < len(numbers)
    return has_all or name.strip().lower() in IDENTIFIERS


def _is_distinct(numbers: Sequence[int], fewest: int) -> bool:
    return len(numbers) >= fewest and len(set(numbers)) == len(numbers)


def _integers(column: Sequence[Any]) -> list[int]:
    """Returns a column as whole numbers; empty if one of its values is none."""
    numbers = []
    for value in column:
        text = value.strip() if isinstance(value, str) else value
        if isinstance(text, str):
            is_integer = bool(_INTEGER.fullmatch(text))
        else:
            is_integer = type(text) is int or (isinstance(text, float) and text.is_integer())
        if not is_integer:
            return []
        numbers.append(int(text.partition(".")[0]) if isinstance(text, str) else int(text))
    return numbers


# ---- numbers ----


def _parse_numbers(column: Sequence[Any], name: str, places: Sequence[Place]) -> NDArray[np.float64]:
    numbers = np.empty(len(column))
    for i, value in enumerate(column):
        try:
            # Python alone also takes 1_000, and the digits of other scripts
            is_number = not isinstance(value, str) or (value.isascii() and "_" not in value)
            numbers[i] = float(value) if is_number else math.nan
        except (TypeError, ValueError, OverflowError):
            numbers[i] = math.nan
        if not math.isfinite(numbers[i]):
            raise places[i].error(name, f"not a finite number: {value!r:.60}")
    return numbers


def _as_float32(
    matrix: NDArray[np.float64], names: Sequence[str], places: Sequence[Place], notes: list[str]
) -> NDArray[np.float32]:
    """Returns features (n, d) as they are stored, and adds a note where float32 blurs the differences of a column.

    Raises SpecError with the place of a number beyond LARGEST.
    """
    too_large = np.argwhere(np.abs(matrix) > LARGEST)
    if len(too_large):
        row, column = (int(i) for i in too_large[0])
        problem = f"{matrix[row, column]:g} is beyond {LARGEST:g}; give the column in another unit"
        raise places[row].error(names[column], problem)
    stored = matrix.astype(np.float32)
    error = np.abs(stored.astype(np.float64) - matrix).max(axis=0)
    spread = np.ptp(matrix, axis=0)
    for i in map(int, np.flatnonzero((np.ptp(stored, axis=0) == 0) & (spread > 0))):
        row = int(np.argmax(matrix[:, i] != matrix[0, i]))
        values = f"{float(matrix[row, i])!r} from {float(matrix[0, i])!r}"
        problem = f"float32 does not tell {values}; give the column in another unit"
        raise places[row].error(names[i], problem)
    blurred = [names[i] for i in map(int, np.flatnonzero((error > LARGEST_BLUR * spread) & (spread > 0)))]
    if blurred:
        source = Path(places[0].source).name
        notes.append(
            f"{source}: {', '.join(map(repr, blurred))}: 7 digits are kept of a number, which blurs differences this "
            "small; subtract a constant from the column"
        )
    return stored
