"""The columns of a user's file, and which of them holds a text, a label or an index, guessed by name and content."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raysearch.data.row_readers import TABLE_SUFFIXES, is_empty, read_rows, unreadable_file
from raysearch.errors import SpecError, did_you_mean

SAMPLE = 500  # values of a column that are looked at closely, evenly spread
MIN_WORDS = 3.0  # mean words of a column that is a text whatever its name
LONG_TEXT = 60.0  # mean words above which a longer column is no better a text
MOST_CLASSES = 150
TEXT_NAMES = (
    *("text", "sentence", "review", "content", "body", "message", "comment", "tweet", "document", "abstract"),
    *("question", "utterance", "title", "description", "post"),
)
LABEL_NAMES = (
    *("label", "class", "category", "target", "sentiment", "intent", "topic", "relation", "polarity", "emotion"),
    *("y", "gold", "tag", "type", "rating", "stars", "genre", "species", "outcome", "answer", "section", "fine_label"),
)
INDEX_NAMES = ("", "id", "idx", "index", "row", "row_id", "uid", "guid", "__index_level_0__", "unnamed: 0")


@dataclass(frozen=True)
class Column:
    """The values of a column that are not empty, in the file's order."""

    name: str
    values: Sequence[Any]
    empty: int  # rows without a value

    @property
    def sample(self) -> Sequence[Any]:
        """At most SAMPLE of the values, evenly spread."""
        return self.values[:: max(1, -(-len(self.values) // SAMPLE))]

    @cached_property
    def counts(self) -> Counter[str]:
        """The rows of each value, as text."""
        return Counter(str(value).strip() for value in self.values if isinstance(value, str | int | float))

    @cached_property
    def words(self) -> float:
        """The mean number of words of its values; 0 if they are not texts."""
        sample = self.sample
        if not sample or not all(isinstance(value, str) for value in sample):
            return 0.0
        return sum(len(value.split()) for value in sample) / len(sample)

    @cached_property
    def is_numeric(self) -> bool:
        """Whether every value is a finite number."""
        return bool(self.values) and all(map(_is_number, self.sample)) and all(map(_is_number, self.values))

    @property
    def is_index(self) -> bool:
        """Whether it numbers the rows or has the name of a column that does."""
        name = self.name.strip().lower()
        numbers = [float(value) for value in self.values[:SAMPLE]] if self.is_numeric else []
        counts_up = bool(numbers) and numbers == [numbers[0] + i for i in range(len(numbers))]
        is_distinct = len(self.counts) == len(self.values) > 2
        return is_distinct and (name in INDEX_NAMES or name.endswith("_id") or counts_up)

    @property
    def is_label(self) -> bool:
        """Whether its values can be classes: words or whole numbers, few distinct ones that repeat."""
        if not all(isinstance(value, str | int) for value in self.sample):
            return False
        most = min(MOST_CLASSES, max(2, len(self.values) // 3))
        return 2 <= len(self.counts) <= most and self.words < 2 * MIN_WORDS


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]  # a TypeError says that it is none
    except (TypeError, ValueError):
        return False


def read_columns(path: Path) -> dict[str, Column]:
    """Reads the columns of a CSV, TSV, JSONL or Parquet file.

    Raises SpecError, with its place, for what cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise unreadable_file(path, "labelled data", f"a folder of images, or {', '.join(TABLE_SUFFIXES)}")
    return columns_of([row for _, row in read_rows(path, None, "labelled data", TABLE_SUFFIXES)])


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Returns the columns of rows that were read."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    columns = {}
    for name, column in values.items():
        filled = [value for value in column if not is_empty(value) and value == value]  # NaN is empty too
        columns[name] = Column(name, filled, len(rows) - len(filled))
    return columns


@dataclass(frozen=True)
class Guess:
    """A column that was chosen, and why."""

    column: Column
    reason: str


def choose_text(columns: Mapping[str, Column], chosen: str | None, file: Path) -> Guess | None:
    """Returns the column of the texts: the chosen one, or the one with the longest texts or a usual name."""
    if chosen is not None:
        return Guess(named_column(columns, chosen, file, "--text"), "as --text says")
    scores = {}
    for column in columns.values():
        has_usual_name = _rank(column.name, TEXT_NAMES) < len(TEXT_NAMES)
        if column.words >= MIN_WORDS or (column.words and has_usual_name and not column.is_numeric):
            scores[column.name] = min(column.words, LONG_TEXT) * (2 if has_usual_name else 1)
    if not scores:
        return None
    best = columns[max(scores, key=lambda name: scores[name])]
    others = [name for name in scores if name != best.name]
    return Guess(best, f"{best.words:.0f} words on average{_alternatives(others, '--text')}")


def choose_label(
    columns: Mapping[str, Column], chosen: str | None, file: Path, *, text: str = "", numbers: bool = False
) -> Guess | None:
    """Returns the column of the labels: the chosen one, or the one with a usual name, or the last that has classes.

    `text` is the column of the examples; with `numbers` a label may also be any number.
    """
    if chosen is not None:
        column = named_column(columns, chosen, file, "--label")
        return Guess(column, f"as --label says: {_classes(column)}")
    candidates = [
        column
        for column in columns.values()
        if column.name != text and not column.is_index and (column.is_label or (numbers and column.is_numeric))
    ]
    if not candidates:
        return None
    usual = [column for column in candidates if _rank(column.name, LABEL_NAMES) < len(LABEL_NAMES)]
    by_name = min(usual, key=lambda column: _rank(column.name, LABEL_NAMES), default=None)
    best = by_name or candidates[-1]
    others = [column.name for column in candidates if column is not best and (column.is_label or not numbers)]
    return Guess(best, f"{_classes(best)}{_alternatives(others, '--label')}")


def named_column(columns: Mapping[str, Column], name: str, file: Path, option: str) -> Column:
    """Returns the column of that name. Raises SpecError with the nearest name."""
    if name not in columns:
        raise SpecError(f"no column {name!r}{did_you_mean(name, columns)}", file=str(file), key=option)
    return columns[name]


def _classes(column: Column) -> str:
    return f"{len(column.counts)} values" if column.is_label else "numbers"


def _alternatives(names: Sequence[str], option: str) -> str:
    return f"; {option} {' or '.join(names[:3])} would be another" if names else ""


def _rank(name: str, usual: Sequence[str]) -> int:
    """Returns the place of a name among usual ones; a name that ends with a usual one counts as the last of them."""
    word = name.strip().lower()
    if word in usual:
        return usual.index(word)
    tail = word.rstrip("s").replace("-", "_").split("_")[-1]
    return len(usual) - 1 if tail in usual else len(usual)
