"""Sequences, prepared: from JSONL rows to the splits that every trial reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from helpers.sequence_modality.config import SequenceTask
from numpy.typing import NDArray

from raysearch.data.prepared import write_split
from raysearch.data.row_readers import parse_label, read_rows
from raysearch.data.splits import leak_notes, sort_labels, split_parts


@dataclass(frozen=True)
class SequenceRows:
    """Labelled sequences of one length, in the order of their file."""

    source: str
    values: NDArray[np.float32]  # (n, L)
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> SequenceRows:
        """Returns the sequences with these indices, in this order."""
        return SequenceRows(self.source, self.values[list(rows)], [self.labels[i] for i in rows])

    @property
    def keys(self) -> list[str]:
        """The content of each sequence as text."""
        return [row.tobytes().hex() for row in self.values]


@dataclass(frozen=True)
class SequenceSplit:
    """The sequences of a split, mapped from disk."""

    values: NDArray[np.float32]  # (n, L)
    labels: NDArray[np.int32]  # (n,)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Zeros (n,): all sequences are of one length."""
        return np.zeros(len(self), dtype=np.int64)

    def row(self, i: int) -> NDArray[np.float32]:
        """Returns the values (L,) of sequence `i`."""
        values: NDArray[np.float32] = self.values[i]
        return values


class SequencePreparation:
    """How sequences are read, split and stored; a `data.pipeline.Preparation`."""

    folder_suffixes: Collection[str] = ()

    def files(self, task: SequenceTask) -> Mapping[str, str | None]:
        """Returns the declared path of each part."""
        return {"train": task.train, "dev": task.dev, "test": task.test}

    def source(self, task: SequenceTask, model: Mapping[str, Any], digests: Mapping[str, str | None]) -> dict[str, Any]:
        """Returns all that the prepared data depend on."""
        del model
        return {**digests, "task": {name: value for name, value in task.to_plain().items() if name != "base"}}

    def read_splits(self, task: SequenceTask, paths: Mapping[str, Path | None]) -> dict[str, SequenceRows]:
        """Reads the sequences and splits them. Raises SpecError for data that cannot be used."""
        return split_parts({part: _read(path) for part, path in paths.items() if path}, task.split, task.meta_dev)

    def write_splits(
        self, folder: Path, task: SequenceTask, model: Mapping[str, Any], splits: Mapping[str, SequenceRows]
    ) -> dict[str, Any]:
        """Writes the splits and returns their metadata."""
        del model
        train = splits["train"]
        labels = sort_labels(train.labels)
        for name, rows in splits.items():
            classes = pa.array([labels.index(label) for label in rows.labels], pa.int32())
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.values.reshape(-1)), rows.values.shape[1])
            write_split(folder / f"{name}.arrow", pa.RecordBatch.from_pydict({"values": values, "label": classes}))
        metadata = {"task": task.name, "kind": "sequence", "metric": task.metric, "labels": labels}
        metadata |= {
            "length": train.values.shape[1],
            "mean": float(train.values.mean()),
            "std": float(train.values.std()),
        }
        return metadata | {"sizes": {name: len(rows) for name, rows in splits.items()}}

    def notes(self, splits: Mapping[str, SequenceRows], metadata: Mapping[str, Any]) -> list[str]:
        """Returns a sentence for each leak."""
        del splits
        return leak_notes(metadata["leaks"], metadata["sizes"], "sequences also stand")

    def decode(self, batch: pa.RecordBatch) -> SequenceSplit:
        """Returns the split that an Arrow file's batch holds."""
        column = batch.column("values")
        values = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        return SequenceSplit(values, batch.column("label").to_numpy())


def _read(path: Path) -> SequenceRows:
    rows = list(read_rows(path, ("values", "label"), "sequences", (".jsonl",)))
    for place, row in rows:
        if len(row["values"]) != len(rows[0][1]["values"]):
            raise place.error("values", f"has {len(row['values'])} values, the first row {len(rows[0][1]['values'])}")
    labels = [parse_label(row["label"], "label", place) for place, row in rows]
    return SequenceRows(str(path), np.array([row["values"] for _, row in rows], dtype=np.float32), labels)
