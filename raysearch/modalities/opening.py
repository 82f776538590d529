"""The way in for every modality: preparing a task, and opening its splits.

The driver prepares a task once a run; workers map the result into memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysearch.data.prepared import SPLITS, PreparedData, Split
from raysearch.errors import SpecError, did_you_mean
from raysearch.modalities.image.dataset import opened_images, prepare_images
from raysearch.modalities.table.dataset import opened_table, prepare_table
from raysearch.modalities.text.dataset import opened_text, prepare_text

if TYPE_CHECKING:
    from raysearch.modalities.image.config import ImageTask
    from raysearch.modalities.table.config import TableTask
    from raysearch.modalities.text.config import TextTask


def prepare(
    task: TextTask | ImageTask | TableTask, model: Mapping[str, Any], folder: Path, data_root: Path | None = None
) -> PreparedData:
    """The splits of `task` in `folder`, as `model` reads them; what is there is kept if its sources are the same.

    Files are looked for under `data_root` (None: what RAYSEARCH_DATA names), then beside the declaration.
    Raises SpecError for data that cannot be used, and for a folder that was prepared from other sources.
    """
    if data_root is None and os.environ.get("RAYSEARCH_DATA"):
        data_root = Path(os.environ["RAYSEARCH_DATA"])
    if task.kind == "image":
        return prepare_images(task, model, folder, data_root)
    if task.kind == "table":
        return prepare_table(task, folder, data_root)
    return prepare_text(task, model, folder, data_root)


def open_split(folder: Path | str, name: str) -> Split:
    """One split of prepared data, mapped into memory. "test" is for export alone.

    Raises SpecError when the split is not there.
    """
    path = Path(folder) / f"{name}.arrow"
    if not path.exists():
        known = [split for split in SPLITS if (Path(folder) / f"{split}.arrow").exists()]
        raise SpecError(f"no split {name!r}{did_you_mean(name, known)}", file=str(folder))
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    if "pixels" in batch.schema.names:
        return opened_images(batch)
    if "features" in batch.schema.names:
        return opened_table(batch)
    return opened_text(batch)


class Splits:
    """The splits that a trial may read, each mapped once; test is not among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Split] = {}

    def __call__(self, name: str) -> Split:
        """One split by name."""
        if name == "test":
            raise ValueError("a trial may not open the test split")
        if name not in self._open:
            self._open[name] = open_split(self.folder, name)
        return self._open[name]
