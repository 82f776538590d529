"""Tables of numbers in a user's files: CSV, TSV, JSONL, Parquet, or the arrays of an .npz archive.

Nothing is repaired: a value that is not a finite number is an error with its file, line and column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.row_readers import TABLE_SUFFIXES, Place, parse_label, read_rows, row_places
from raysearch.errors import SpecError, did_you_mean


@dataclass(frozen=True)
class TableRows:
    """Rows in the order of their source."""

    source: str
    names: tuple[str, ...]  # of the features
    features: NDArray[np.float32]  # (n, d)
    labels: list[float] | list[str]  # numbers or classes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> TableRows:
        """Returns the rows with these indices, in this order."""
        labels: Any = [self.labels[i] for i in rows]
        return TableRows(self.source, self.names, self.features[list(rows)], labels)

    @property
    def keys(self) -> list[str]:
        """The features of each row as text, equal for equal numbers."""
        return [row.tobytes().hex() for row in self.features]


def read_table(
    path: Path, label: str, *, numbers: bool, features: Sequence[str] = (), others: frozenset[str] = frozenset()
) -> TableRows:
    """Reads the rows of a file; without `features`, all columns but the label and `others` are features.

    Labels are read as numbers or, if `numbers` is False, as classes. Raises SpecError with file and place for what
    cannot be used.
    """
    columns, places = _read_archive(path) if path.suffix.lower() == ".npz" else _read_columns(path)
    for column in (label, *features):
        if column not in columns:
            raise SpecError(f"no column {column!r}{did_you_mean(column, columns)}", file=str(path))
    names = tuple(features) or tuple(name for name in columns if name != label and name not in others)
    if label in names or not names:
        problem = "is the label and a feature" if names else "there is no column beside the labels: no features"
        raise SpecError(problem, file=str(path), key=label)
    if not places:
        raise SpecError("holds no rows", file=str(path))
    matrix = np.stack([_parse_numbers(columns[name], name, places) for name in names], axis=1).astype(np.float32)
    if numbers:
        return TableRows(str(path), names, matrix, _parse_numbers(columns[label], label, places).tolist())
    classes = [parse_label(value, label, place) for value, place in zip(columns[label], places, strict=True)]
    return TableRows(str(path), names, matrix, classes)


def _read_columns(path: Path) -> tuple[dict[str, Sequence[Any]], list[Place]]:
    """Returns the values of each column of a file, and the place of each row."""
    rows = list(read_rows(path, None, "a table of numbers", (*TABLE_SUFFIXES, ".npz")))
    header = rows[0][1].keys()
    for place, row in rows:
        if row.keys() != header:
            raise place.error(next(iter(row.keys() ^ header)), "is not in every row")
    return {name: [row[name] for _, row in rows] for name in header}, [place for place, _ in rows]


def _read_archive(path: Path) -> tuple[dict[str, Sequence[Any]], list[Place]]:
    """Returns the arrays (n,) of an archive as columns; an array (n, d) becomes the columns NAME.0 to NAME.d-1."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise SpecError(f"not an npz archive: {' '.join(str(error).split())[:120]}", file=str(path)) from None
    columns: dict[str, Sequence[Any]] = {}
    for name, array in arrays.items():
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


def _parse_numbers(column: Sequence[Any], name: str, places: Sequence[Place]) -> NDArray[np.float64]:
    numbers = np.empty(len(column))
    for i, value in enumerate(column):
        try:
            numbers[i] = float(value)
        except (TypeError, ValueError):
            numbers[i] = math.nan
        if not math.isfinite(numbers[i]):
            raise places[i].error(name, f"not a finite number: {value!r:.60}")
    return numbers
