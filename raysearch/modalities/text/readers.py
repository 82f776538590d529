"""Texts of a user's files or of a Hugging Face data set, with a label each or without.

A text that cannot be used is an error with its file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raysearch.data.parquet import stored_class_names
from raysearch.data.places import Place, Row, row_places
from raysearch.data.row_readers import TABLE_SUFFIXES, is_empty, label_notes, parse_label, read_rows
from raysearch.errors import SpecError, did_you_mean

HUB_SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class TextRows:
    """Texts in the order of their source; `labels` is empty for unlabelled text, a label "" for an unlabelled row."""

    source: str  # a file, or the name of a data set
    texts: list[str]
    labels: list[str]
    places: Sequence[Place]  # where each text stands
    notes: Sequence[str] = ()  # what was unusual about the source

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def keys(self) -> list[str]:
        """The texts, by which rows are split."""
        return self.texts

    def take(self, rows: Sequence[int]) -> TextRows:
        """Returns the rows with these indices, in this order."""
        labels = [self.labels[i] for i in rows] if self.labels else []
        texts, places = [self.texts[i] for i in rows], [self.places[i] for i in rows]
        return TextRows(self.source, texts, labels, places, self.notes)

    def split_unlabelled(self) -> tuple[TextRows, TextRows]:
        """Returns the rows that have a label, and the texts of the others."""
        labelled = [i for i, label in enumerate(self.labels) if label]
        rest = [i for i, label in enumerate(self.labels) if not label]
        return self.take(labelled), replace(self.take(rest), labels=[])

    def extend(self, more: TextRows) -> TextRows:
        """Returns these unlabelled texts and then those of `more`."""
        notes = tuple(dict.fromkeys([*self.notes, *more.notes]))
        return TextRows(self.source, [*self.texts, *more.texts], [], [*self.places, *more.places], notes)


def read_text_rows(
    path: Path,
    text: str,
    label: str | None,
    *,
    needs_labels: bool = True,
    may_be_hidden: bool = False,
    class_names: Sequence[str] = (),
) -> TextRows:
    """Reads the texts of a file; `text` and `label` name its columns, and texts are unlabelled if `label` is None.

    Class numbers are replaced by the names that the file stores, or else by `class_names` if there are any;
    `may_be_hidden` as for `parse_label`. Raises SpecError with file and line for a row that cannot be used, such as one
    without a label if the rows need one, and for a file of another format.
    """
    suffixes = TABLE_SUFFIXES if label is not None else (*TABLE_SUFFIXES, ".txt")
    columns = [text] if label is None else [text, label]
    notes: list[str] = []
    class_names = (stored_class_names(path, label) if label is not None else []) or class_names

    def read_label(value: object, place: Place) -> str:
        if not needs_labels and is_empty(value):
            return ""
        return parse_label(value, columns[1], place, class_names, may_be_hidden=may_be_hidden)

    rows = _collect(str(path), columns, read_rows(path, columns, "rows", suffixes, notes), read_label)
    return replace(rows, notes=(*notes, *label_notes(path.name, rows.labels)))


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
    present = {
        split: [hub_name for hub_name in hub_names if hub_name in tables] for split, hub_names in HUB_SPLITS.items()
    }
    used = {split: hub_names[0] for split, hub_names in present.items() if hub_names}
    others = [f"{split} ({len(table)} rows)" for split, table in tables.items() if split not in used.values()]
    notes = [f"{name}: splits that are not used: {', '.join(others)}"] if others else []
    return {
        split: _hub_rows(f"{name}[{split}]", tables[hub_name], text, label, notes, may_be_hidden=split != "train")
        for split, hub_name in used.items()
    }


def _hub_rows(
    source: str, table: Any, text: str, label: str | None, notes: Sequence[str], *, may_be_hidden: bool
) -> TextRows:
    columns = [text] if label is None else [text, label]
    for column in columns:
        if column not in table.column_names:
            raise SpecError(f"no column {column!r}{did_you_mean(column, table.column_names)}", file=source)
    class_names = getattr(table.features[label], "names", None) or () if label is not None else ()
    numbered = zip(row_places(source, len(table)), table.select_columns(columns), strict=True)

    def read_label(value: object, place: Place) -> str:
        return parse_label(value, columns[1], place, class_names, may_be_hidden=may_be_hidden)

    rows = _collect(source, columns, numbered, read_label)
    return replace(rows, notes=(*notes, *label_notes(source, rows.labels)))


def _collect(
    source: str, columns: Sequence[str], rows: Iterable[Row], read_label: Callable[[object, Place], str]
) -> TextRows:
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
            labels.append(read_label(row[column], place))
    if not texts:
        raise SpecError("holds no rows", file=source)
    return TextRows(source, texts, labels, places)
