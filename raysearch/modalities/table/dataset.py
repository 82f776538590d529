"""Tables, prepared: from a user's rows, or drawn ones, to the splits that every trial reads.

A split is one Arrow file: `features`, float32 (d,) of every row, and `label`: a class, or a number that is
standardised by the labels of its table (the end task's by those of train). data.json holds these means and standard
deviations, the names of features and labels, and the mean and standard deviation of each feature of train, by which a
batch is normalised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.normalisation import round_mean_and_std
from raysearch.data.prepared import write_split
from raysearch.data.row_readers import hidden_note, is_hidden
from raysearch.data.splits import EXTRA_PREFIX, leak_notes, sort_labels, split_parts
from raysearch.errors import SpecError, did_you_mean, shorten
from raysearch.modalities.table import planted
from raysearch.modalities.table.readers import TableRows, read_table

if TYPE_CHECKING:
    from raysearch.modalities.table.config import TableTask

DATA_VERSION = "1"


@dataclass(frozen=True)
class TableSplit:
    """The rows of a table, mapped from disk."""

    features: NDArray[np.float32]  # (n, d), not normalised
    labels: NDArray[Any] | None  # (n,) int32 classes, or float32 numbers

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Zeros (n,): all rows are of one length."""
        return np.zeros(len(self), dtype=np.int64)

    def row(self, i: int) -> NDArray[np.float32]:
        """Returns the features (d,) of row `i`."""
        features: NDArray[np.float32] = self.features[i]
        return features


class TablePreparation:
    """How tables are read or drawn, split and stored; a `data.pipeline.Preparation`."""

    folder_suffixes: Collection[str] = ()

    def files(self, task: TableTask) -> dict[str, str | None]:
        """Returns the declared path of each table."""
        files = {part: name for part in ("train", "dev", "test") if (name := getattr(task, part))}
        return files | {f"{EXTRA_PREFIX}{name}": extra.train for name, extra in task.extra.items()}

    def source(self, task: TableTask, model: Mapping[str, Any], digests: Mapping[str, str | None]) -> dict[str, Any]:
        """Returns all that the prepared tables depend on."""
        del model
        declared = {name: value for name, value in task.to_plain().items() if name != "base"}
        return {**digests, "task": declared, "version": DATA_VERSION}

    def read_splits(self, task: TableTask, paths: Mapping[str, Path | None]) -> dict[str, TableRows]:
        """Reads or draws the rows and splits them. Raises SpecError for data that cannot be used."""
        if task.planted is not None:
            return _draw_splits(task)
        splits = split_parts(_read_parts(task, paths), task.split, task.meta_dev, _classes)
        return {name: rows for name, rows in splits.items() if len(rows) or name != "test"}

    def write_splits(
        self, folder: Path, task: TableTask, model: Mapping[str, Any], splits: Mapping[str, TableRows]
    ) -> dict[str, Any]:
        """Writes the splits and returns their metadata."""
        del model
        train = splits["train"]
        label = label_metadata(task.label, splits, "train")
        extra = {name: label_metadata(name, splits, name) for name in splits if name.startswith(EXTRA_PREFIX)}
        metadata: dict[str, Any] = {"task": task.name, "kind": "table", "metric": task.metric}
        metadata |= {"labels": label["labels"], "label": label, "extra": extra, "features": list(train.names)}
        metadata |= _mean_and_std(train.features)
        metadata["sizes"] = {name: len(rows) for name, rows in splits.items()}
        metadata["splits"] = {
            name: _write_split(folder / f"{name}.arrow", rows.features, _encode_labels(rows, extra.get(name, label)))
            for name, rows in splits.items()
        }
        return metadata

    def notes(self, splits: Mapping[str, TableRows], metadata: Mapping[str, Any]) -> list[str]:
        """Returns what the readers noted, and a sentence for each leak.

        A further table may well have the features of the end task's rows.
        """
        notes = list(dict.fromkeys(note for rows in splits.values() for note in rows.notes))
        leaks = {pair: count for pair, count in metadata["leaks"].items() if f" in {EXTRA_PREFIX}" not in pair}
        return notes + leak_notes(leaks, metadata["sizes"], "rows have features that also stand")

    def decode(self, batch: pa.RecordBatch) -> TableSplit:
        """Returns the split that an Arrow file's batch holds, without a copy."""
        column = batch.column("features")
        features = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        return TableSplit(features, batch.column("label").to_numpy())


def _draw_splits(task: TableTask) -> dict[str, TableRows]:
    assert task.planted is not None
    names = tuple(f"x{i}" for i in range(task.planted.dim))
    return {
        name: TableRows("planted", names, table.features.astype(np.float32), table.labels.tolist())
        for name, table in planted.draw_tables(task.planted).items()
    }


def _read_parts(task: TableTask, paths: Mapping[str, Path | None]) -> dict[str, TableRows]:
    """Returns the tables; all have the features of train."""
    label_columns = frozenset({task.label, *(extra.label for extra in task.extra.values())})
    parts: dict[str, TableRows] = {}
    features = task.features
    for part, path in paths.items():
        assert path is not None
        label = task.extra[part.removeprefix(EXTRA_PREFIX)].label if part.startswith(EXTRA_PREFIX) else task.label
        numbers = task.label_type(part) == "number"
        parts[part] = read_table(
            path,
            label,
            numbers=numbers,
            features=features,
            others=label_columns,
            may_be_hidden=part in ("dev", "test"),
        )
        features = features or parts[part].names
    hidden = [part for part in ("dev", "test") if part in parts and _is_hidden(parts[part], parts["train"])]
    notes = [hidden_note(Path(parts[part].source).name, part) for part in hidden]
    train = replace(parts["train"], notes=(*parts["train"].notes, *notes))
    return {part: rows for part, rows in parts.items() if part not in hidden} | {"train": train}


def _classes(rows: TableRows) -> Sequence[str]:
    """Returns the classes of the rows; nothing if their labels are numbers."""
    return [label for label in rows.labels if isinstance(label, str)]


def _is_hidden(rows: TableRows, train: TableRows) -> bool:
    return is_hidden(_classes(rows), set(train.labels))


def label_metadata(name: str, splits: Mapping[str, TableRows], train: str) -> dict[str, Any]:
    """Returns the kind of a label and its classes, or its name, mean and standard deviation.

    Raises SpecError if the label has a single value, and for a held-out row of the end task with an unknown class.
    """
    rows = splits[train]
    if isinstance(rows.labels[0], str):
        classes = sort_labels(map(str, rows.labels))
        known = set(classes)
        if len(classes) < 2:
            raise SpecError(f"only one class, {classes[0]!r}; there must be at least two", file=rows.source)
        for split in ("meta_dev", "select_dev", "test") if train == "train" else ():
            for label in splits[split].labels if split in splits else ():
                if label not in known:
                    problem = f"{shorten(str(label))!r} is not a class of the training rows"
                    problem += did_you_mean(str(label), classes)
                    raise SpecError(problem, file=splits[split].source, key=split)
        return {"kind": "class", "labels": classes}
    numbers = np.array(rows.labels, dtype=np.float64)
    if numbers.min() == numbers.max():
        raise SpecError(f"all labels are {numbers[0]:g}: there is nothing to learn", file=rows.source)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(numbers.mean()), float(numbers.std())
    if not 0 < std < np.inf:
        problem = f"labels from {numbers.min():g} to {numbers.max():g} cannot be standardised; use another unit"
        raise SpecError(problem, file=rows.source)
    return {"kind": "number", "labels": [name], "mean": mean, "std": std}


def _encode_labels(rows: TableRows, label: Mapping[str, Any]) -> NDArray[Any]:
    """Returns int32 classes (n,) or standardised float32 numbers (n,)."""
    if label["kind"] == "class":
        class_of = {name: i for i, name in enumerate(label["labels"])}
        return np.array([class_of[str(name)] for name in rows.labels], dtype=np.int32)
    numbers = (np.array(rows.labels, dtype=np.float64) - label["mean"]) / label["std"]
    return np.asarray(numbers.astype(np.float32))


def _mean_and_std(features: NDArray[np.float32]) -> dict[str, list[float]]:
    """Returns the mean and the standard deviation of each feature; 1 for a constant one."""
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return round_mean_and_std(mean, std, features.min(axis=0) == features.max(axis=0))


def _write_split(path: Path, features: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, Any]:
    features = np.ascontiguousarray(features)
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
    write_split(path, pa.RecordBatch.from_pydict({"features": column, "label": pa.array(labels)}))
    digest = hashlib.sha256(features.tobytes())
    digest.update(labels.tobytes())
    return {"rows": len(features), "sha256": digest.hexdigest()}
