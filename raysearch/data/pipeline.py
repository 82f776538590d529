"""How the data of a task are prepared, whatever their modality.

Files are found and hashed; a folder that was prepared from the same files and settings is kept. Otherwise the files
are read and split, and the splits, their labels and what is unusual about them are written to a new folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from raysearch.data import doctor
from raysearch.data.prepared import (
    UNHASHED,
    PreparedData,
    Split,
    hash_path,
    is_up_to_date,
    load_prepared_data,
    read_split,
    resolve_path,
    write_atomically,
)
from raysearch.data.splits import EXTRA_PREFIX, Examples, count_leaks


class DeclaredTask(Protocol):
    """A task as a search declares it."""

    @property
    def base(self) -> str:
        """The folder of the declaring file."""


TaskT = TypeVar("TaskT", bound=DeclaredTask, contravariant=True)
E = TypeVar("E", bound=Examples)


class Preparation(Protocol[TaskT, E]):
    """What is particular to a modality when its data are prepared."""

    folder_suffixes: Collection[str]
    """Suffixes of the files in a folder of examples; empty if examples are only read from single files."""

    def files(self, task: TaskT) -> Mapping[str, str | None]:
        """Returns the path that the task declares for each part of its data, or None for a part that has none."""

    def source(self, task: TaskT, model: Mapping[str, Any], digests: Mapping[str, str | None]) -> dict[str, Any]:
        """Returns all that the prepared data depend on and that is known before the examples are read.

        `digests` holds the hash of each of `files`.
        """

    def read_splits(self, task: TaskT, paths: Mapping[str, Path | None]) -> dict[str, E]:
        """Reads the examples and splits them. Raises SpecError for data that cannot be used."""

    def write_splits(
        self, folder: Path, task: TaskT, model: Mapping[str, Any], splits: Mapping[str, E]
    ) -> dict[str, Any]:
        """Writes each split to an Arrow file and returns the metadata that the fingerprint is made of.

        Those under `prepared.UNHASHED` are stored too, and the fingerprint leaves them out.
        """

    def notes(self, splits: Mapping[str, E], metadata: Mapping[str, Any]) -> list[str]:
        """Returns a sentence for each thing that is unusual about the data."""

    def decode(self, batch: pa.RecordBatch) -> Split:
        """Returns the split that an Arrow file's batch holds, without a copy."""


def prepare(
    preparation: Preparation[TaskT, E], task: TaskT, model: Mapping[str, Any], folder: Path, data_root: Path | None
) -> PreparedData:
    """Prepares the data of `task` for `model` in `folder`, unless they have been prepared from the same sources.

    Files are looked for below `data_root` (by default the folder that RAYSEARCH_DATA names), then beside the
    declaring file. Raises SpecError for data that cannot be used, and if `folder` was prepared from other sources.
    """
    paths = find_files(preparation, task, data_root)
    digests = {part: hash_path(path, preparation.folder_suffixes) if path else None for part, path in paths.items()}
    source: dict[str, Any] = json.loads(json.dumps(preparation.source(task, model, digests)))
    if is_up_to_date(folder, source):
        return load_prepared_data(folder)
    splits = preparation.read_splits(task, paths)

    def write(draft: Path) -> None:
        metadata = preparation.write_splits(draft, task, model, splits)
        unhashed = metadata.pop(UNHASHED, {})
        keys: dict[str, Sequence[str]] = {name: examples.keys for name, examples in splits.items()}
        metadata["fingerprint"] = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
        metadata["meta_dev_from"] = "dev"
        metadata["duplicates"] = {name: len(split_keys) - len(set(split_keys)) for name, split_keys in keys.items()}
        metadata["leaks"] = count_leaks(keys)
        metadata["notes"] = preparation.notes(splits, metadata)
        lengths = read_split(draft, "train", preparation.decode).lengths
        metadata["facts"] = doctor.gather_facts(splits, lengths.tolist()).to_plain()
        metadata["source"] = source
        metadata |= unhashed
        text = json.dumps(metadata, indent=1, ensure_ascii=False)
        (draft / "data.json").write_text(text + "\n", encoding="utf-8")

    return write_atomically(folder, write)


def find_files(preparation: Preparation[TaskT, E], task: TaskT, data_root: Path | None) -> dict[str, Path | None]:
    """Returns the path of each part of the task's data, None for a part without a file.

    Raises SpecError, with the key that names it, for a file that is missing.
    """
    if data_root is None and os.environ.get("RAYSEARCH_DATA"):
        data_root = Path(os.environ["RAYSEARCH_DATA"])
    has_folders = bool(preparation.folder_suffixes)
    return {
        part: resolve_path(name, _key(part), task.base, data_root, folders=has_folders) if name else None
        for part, name in preparation.files(task).items()
    }


def _key(part: str) -> str:
    """Returns where a task declares the file of a part, for error messages."""
    if part.startswith(EXTRA_PREFIX):
        return f"task.extra.{part.removeprefix(EXTRA_PREFIX)}.train"
    return f"task.{part}.train" if part == "auxiliary" else f"task.{part}"
