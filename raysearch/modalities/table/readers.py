"""Rows of numbers as they stand in a user's files: CSV, TSV, JSONL, Parquet, or the arrays of an .npz archive.

Nothing is repaired here: a value that is no finite number is refused with its file, line and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.row_readers import READERS
from raysearch.errors import SpecError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".npz")


@dataclass(frozen=True)
class TableRows:
    """Rows in the order of their source."""

    source: str
    names: tuple[str, ...]  # of the features
    features: NDArray[np.float32]  # (n, d)
    labels: list[float] | list[str]  # numbers or classes, as asked for

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Sequence[int]) -> TableRows:
        """The rows of these indices, in this order."""
        labels: Any = [self.labels[i] for i in chosen]
        return TableRows(self.source, self.names, self.features[list(chosen)], labels)

    @property
    def keys(self) -> list[str]:
        """The features of each row, as text that is the same for the same numbers."""
        return [row.tobytes().hex() for row in self.features]


def read_table(
    path: Path, label: str, *, numbers: bool, features: Sequence[str] = (), others: frozenset[str] = frozenset()
) -> TableRows:
    """The rows of a file; its features are those named, or else all columns but the label and `others`.

    Raises SpecError with file and place for what cannot be used.
    """
    if path.suffix.lower() not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        raise SpecError(
            f"cannot read a {path.suffix or 'nameless'} file as a table of numbers; use {kinds}", file=str(path)
        )
    columns, place = _archive(path) if path.suffix.lower() == ".npz" else _columns(path)
    for column in (label, *features):
        if column not in columns:
            raise SpecError(f"no column {column!r}{did_you_mean(column, columns)}", file=str(path))
    names = tuple(features) or tuple(name for name in columns if name != label and name not in others)
    if label in names or not names:
        problem = "is the label and a feature" if names else "there is no column beside the labels: no features"
        raise SpecError(problem, file=str(path), key=label)
    if not len(columns[label]):
        raise SpecError("holds no rows", file=str(path))
    values = [_numbers(columns[name], name, place) for name in names]
    labels: Any = _numbers(columns[label], label, place).tolist() if numbers else _classes(columns[label], label, place)
    return TableRows(str(path), names, np.stack(values, axis=1).astype(np.float32), labels)


Place = Callable[[int, str, str], SpecError]  # row from 0, column, problem


def _columns(path: Path) -> tuple[dict[str, Sequence[Any]], Place]:
    suffix = path.suffix.lower()
    by_line = suffix != ".parquet"
    known: list[str] = []
    if not by_line:
        import pyarrow.parquet as pq

        known = pq.read_schema(path).names
    rows = list(READERS[suffix](path, known))
    if not rows:
        raise SpecError("holds no rows", file=str(path))
    header = list(rows[0][1])

    def place(i: int, column: str, problem: str) -> SpecError:
        at = rows[i][0]
        if by_line:
            return SpecError(problem, file=str(path), line=at, key=column)
        return SpecError(problem, file=str(path), key=f"row {at}: {column}")

    for i, (_, row) in enumerate(rows):
        if row.keys() != rows[0][1].keys():
            odd = next(iter(row.keys() ^ rows[0][1].keys()))
            raise place(i, odd, "is not in every row")
    return {name: [row[name] for _, row in rows] for name in header}, place


def _archive(path: Path) -> tuple[dict[str, Sequence[Any]], Place]:
    """The arrays of one row each as columns; of an array (n, d), NAME.0 to NAME.d-1."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise SpecError(f"not an npz archive: {' '.join(str(error).split())[:120]}", file=str(path)) from None
    columns: dict[str, Sequence[Any]] = {}
    for name, array in arrays.items():
        if array.ndim not in (1, 2):
            raise SpecError(f"must be (n,) or (n, d), got {list(array.shape)}", file=str(path), key=name)
        columns |= {name: array} if array.ndim == 1 else {f"{name}.{i}": array[:, i] for i in range(array.shape[1])}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise SpecError(f"its arrays have {sorted(lengths)} rows: they must be as many", file=str(path))

    def place(i: int, column: str, problem: str) -> SpecError:
        return SpecError(problem, file=str(path), key=f"row {i + 1}: {column}")

    return columns, place


def _numbers(column: Sequence[Any], name: str, place: Place) -> NDArray[np.float64]:
    found = np.empty(len(column))
    for i, value in enumerate(column):
        try:
            found[i] = float(value)
        except (TypeError, ValueError):
            found[i] = math.nan
        if not math.isfinite(found[i]):
            raise place(i, name, f"no finite number: {value!r:.60}")
    return found


def _classes(column: Sequence[Any], name: str, place: Place) -> list[str]:
    found = []
    for i, value in enumerate(column):
        said = value.item() if isinstance(value, np.generic) else value
        if not isinstance(said, str | int) or not str(said).strip():
            raise place(i, name, f"a class is a word or a whole number, got {said!r:.60}")
        found.append(str(said).strip())
    return found
