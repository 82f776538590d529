"""A file of labels or probabilities as a teacher: what a language model, people or anything else has written.

A JSONL, CSV, TSV or Parquet file with a row for each example that it speaks of:

    text or row      the unlabelled example: its text, or its number in the file of unlabelled text, from 0
    label            the class; certain, with a probability of 1, or of the column `probability`
    one column per class, in place of `label`: its probability (they are divided by their sum)

How often it is right is estimated from what it says of labelled texts, if the file has any: its guesses of a class are
used where their purity is enough. Without any, the file is trusted as far as its probabilities say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.places import Place
from raysearch.data.prepared import Split
from raysearch.data.row_readers import read_rows
from raysearch.errors import SpecError, did_you_mean

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FileGuesses:
    """What a file says: probabilities (C,) by the key of an example's text, and by its row number."""

    by_text: Mapping[bytes, Array]
    by_row: Mapping[int, Array]

    def find(self, key: bytes, row: int | None) -> Array | None:
        """Returns the probabilities of an example; None if the file does not speak of it."""
        guess = self.by_text.get(key)
        return guess if guess is not None or row is None else self.by_row.get(row)


def read_guesses(path: Path, labels: Sequence[str], keys_of: Callable[[Sequence[str]], Sequence[bytes]]) -> FileGuesses:
    """Reads a file of guesses; `keys_of` returns the keys of texts.

    Raises SpecError with file and line for a row that cannot be used.
    """
    class_of = {label: i for i, label in enumerate(labels)}
    texts: list[str] = []
    of_texts: list[Array] = []
    by_row: dict[int, Array] = {}
    for place, row in read_rows(path, None, "guesses", SUFFIXES):
        p = _probabilities(place, row, labels, class_of)
        if row.get("text") not in (None, ""):
            texts.append(str(row["text"]))
            of_texts.append(p)
        elif "row" in row:
            by_row[_row_number(place, row["row"])] = p
        else:
            raise place.error("text", "a row needs `text`, or `row`, the number of the unlabelled example")
    return FileGuesses(dict(zip(keys_of(texts), of_texts, strict=True)), by_row)


def _row_number(place: Place, value: Any) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise place.error("row", f"is a number of an example, from 0, got {value!r}")
    return number


def _probabilities(place: Place, row: Mapping[str, Any], labels: Sequence[str], class_of: Mapping[str, int]) -> Array:
    """Returns the probabilities (C,) that a row states."""
    if row.get("label") not in (None, ""):
        label = str(row["label"])
        if label not in class_of:
            raise place.error("label", f"{label!r} is not a label of the task{did_you_mean(label, labels)}")
        sure = _number(place, "probability", row.get("probability") or 1.0)
        if not 1 / len(labels) <= sure <= 1:
            raise place.error("probability", f"must be from 1 / {len(labels)} to 1, got {sure:g}")
        p = np.full(len(labels), (1 - sure) / max(1, len(labels) - 1))
        p[class_of[label]] = sure
        return p
    if not any(label in row for label in labels):
        raise place.error("label", "a row needs `label`, or a column with the probability of each class")
    p = np.array([_number(place, label, row.get(label) or 0.0) for label in labels])
    if (p < 0).any() or p.sum() <= 0:
        raise place.error(labels[0], "probabilities are at least 0, and not all of them are 0")
    shares: Array = p / p.sum()
    return shares


def _number(place: Place, column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise place.error(column, f"is a number, got {value!r}")
    return number


def guessed_rows(guesses: FileGuesses, split: Split, *, has_numbers: bool) -> tuple[Array, NDArray[np.int64]]:
    """Returns the probabilities (R, C) of the examples of a split that a file speaks of, and their numbers (R,).

    `has_numbers` says whether the file's row numbers are those of this split.
    """
    of_rows = (
        (row, guesses.find(np.asarray(split.row(row)).tobytes(), row if has_numbers else None))
        for row in range(len(split))
    )
    spoken_of = [(row, p) for row, p in of_rows if p is not None]
    rows = np.array([row for row, _ in spoken_of], dtype=np.int64)
    return np.array([p for _, p in spoken_of]), rows


def missing_file(path: str) -> SpecError:
    """Returns the error about a teacher's file that is not there."""
    return SpecError(f"no such file {path!r}: the teacher `file` reads it", key="teacher_path")
