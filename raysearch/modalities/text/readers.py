"""Texts of a user's files or of a Hugging Face data set, with a label each or without.

A text that cannot be used is an error with its file and line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysearch.data.row_readers import TABLE_SUFFIXES, Place, Row, is_empty, parse_label, read_rows, row_places
from raysearch.errors import SpecError, did_you_mean

HUB_SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class TextRows:
    """Texts in the order of their source; `labels` is empty for unlabelled text, a label "" for an unlabelled row."""

    source: str  # a file, or the name of a data set
    texts: list[str]
    labels: list[str]
    places: Sequence[Place]  # where each text stands

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def keys(self) -> list[str]:
        """The texts, by which rows are split."""
        return self.texts

    def take(self, rows: Sequence[int]) -> TextRows:
        """Returns the rows with these indices, in this order."""
        labels = [self.labels[i] for i in rows] if self.labels else []
        return TextRows(self.source, [self.texts[i] for i in rows], labels, [self.places[i] for i in rows])

    def split_unlabelled(self) -> tuple[TextRows, TextRows]:
        """Returns the rows that have a label, and the texts of the others."""
        labelled = [i for i, label in enumerate(self.labels) if label]
        rest = [i for i, label in enumerate(self.labels) if not label]
        return self.take(labelled), replace(self.take(rest), labels=[])

    def extend(self, more: TextRows) -> TextRows:
        """Returns these unlabelled texts and then those of `more`."""
        return TextRows(self.source, [*self.texts, *more.texts], [], [*self.places, *more.places])


def read_text_rows(path: Path, text: str, label: str | None, *, needs_labels: bool = True) -> TextRows:
    """Reads the texts of a file; `text` and `label` name its columns, and texts are unlabelled if `label` is None.

    Raises SpecError with file and line for a row that cannot be used, such as one without a label if the rows need
    one, and for a file of another format.
    """
    suffixes = TABLE_SUFFIXES if label is not None else (*TABLE_SUFFIXES, ".txt")
    columns = [text] if label is None else [text, label]
    return _collect(str(path), columns, read_rows(path, columns, "rows", suffixes), needs_labels=needs_labels)


def read_hub_data_set(name: str, text: str, label: str | None) -> dict[str, TextRows]:
    """Loads the train, dev and test rows of a data set by `datasets.load_dataset`; `name` is NAME or NAME:CONFIG.

    Class numbers are replaced by the names of the classes. Raises SpecError if `datasets` is not installed or cannot
    load the data set.
    """
    try:
        import datasets
    except ImportError:
        raise SpecError(
            f"hub data set {name!r} needs the package datasets; pip install 'raysearch[datasets]'", key="task.hub"
        ) from None
    path, _, config = name.partition(":")
    try:
        tables = datasets.load_dataset(path, config or None)
    except Exception as error:  # the network, the hub and the loader raise anything; a user reads one line
        reason = " ".join(str(error).split())[:300]
        raise SpecError(f"cannot load data set {name!r}: {type(error).__name__}: {reason}", key="task.hub") from error
    rows: dict[str, TextRows] = {}
    for split, hub_names in HUB_SPLITS.items():
        table = next((tables[hub_name] for hub_name in hub_names if hub_name in tables), None)
        if table is not None:
            rows[split] = _hub_rows(f"{name}[{split}]", table, text, label)
    return rows


def _hub_rows(source: str, table: Any, text: str, label: str | None) -> TextRows:
    columns = [text] if label is None else [text, label]
    for column in columns:
        if column not in table.column_names:
            raise SpecError(f"no column {column!r}{did_you_mean(column, table.column_names)}", file=source)
    class_names = getattr(table.features[label], "names", None) if label is not None else None

    def rows() -> Iterator[Row]:
        for place, row in zip(row_places(source, len(table)), table.select_columns(columns), strict=True):
            if class_names and isinstance(row[label], int):
                is_class = 0 <= row[label] < len(class_names)
                row = {**row, label: class_names[row[label]] if is_class else None}
            yield place, row

    return _collect(source, columns, rows())


def _collect(source: str, columns: Sequence[str], rows: Iterable[Row], *, needs_labels: bool = True) -> TextRows:
    texts: list[str] = []
    labels: list[str] = []
    places: list[Place] = []
    for place, row in rows:
        text = row[columns[0]]
        if not isinstance(text, str) or not text.strip():
            raise place.error(columns[0], "the text is empty" if is_empty(text) else f"not a text: {text!r:.60}")
        texts.append(text.strip())
        places.append(place)
        for column in columns[1:]:
            labels.append("" if not needs_labels and is_empty(row[column]) else parse_label(row[column], column, place))
    if not texts:
        raise SpecError("holds no rows", file=source)
    return TextRows(source, texts, labels, places)
