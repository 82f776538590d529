"""Folds: the labelled rows of a task divided into n parts, each of which scores a training on the others.

The labelled rows are those of train, meta_dev and select_dev; test is none of them. A partition is a function of the
rows' contents, their labels and a salt: it is computed again wherever it is needed, is the same everywhere, and nothing
is written. What a fold's trial sees:

    select_dev   the rows of its fold f
    meta_dev     the rows of the next fold, f + 1, if the trial's method learns from rows of its own; else none
    train        all other rows
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.prepared import Split, Splits, read_batch

LABELLED = ("train", "meta_dev", "select_dev")


@dataclass(frozen=True)
class FoldView:
    """Which rows of a task a trial trains on."""

    folds: int
    fold: int | None  # the fold that scores, within its partition; None: all rows train
    salt: str  # of the partition
    has_meta_dev: bool  # the trial's method learns from rows of its own


class FoldedSplits(Splits):
    """The splits that a trial of a fold may read: views of the labelled rows, and all other splits unchanged.

    Without a fold that scores, `select_dev` is all labelled rows. They also train: such scores say nothing of others.
    """

    def __init__(self, folder: Path, decode: Callable[[pa.RecordBatch], Split], view: FoldView) -> None:
        super().__init__(folder, decode)
        self.view = view

    def __call__(self, name: str) -> Split:
        """Returns one split by name."""
        if name in LABELLED and name not in self._open:
            rows = np.flatnonzero(self._takes(name))
            self._open[name] = self._decode(_one_batch(self._labelled.take(pa.array(rows))))
        return super().__call__(name)

    def rows(self, name: str) -> NDArray[np.int64]:
        """Returns the numbers of a split's examples (n,): of a labelled split those among all labelled rows."""
        return np.flatnonzero(self._takes(name)) if name in LABELLED else super().rows(name)

    @cached_property
    def _labelled(self) -> pa.Table:
        """The rows of all labelled splits, one after another."""
        names = [name for name in LABELLED if (self.folder / f"{name}.arrow").exists()]
        return pa.Table.from_batches([read_batch(self.folder, name) for name in names])

    @cached_property
    def _fold_of(self) -> NDArray[np.int64]:
        rows = self._decode(_one_batch(self._labelled))
        contents = [rows.row(i).tobytes() for i in range(len(rows))]
        return partition(contents, classes_of(rows.labels), self.view.folds, self.view.salt)

    def _takes(self, name: str) -> NDArray[np.bool_]:
        """Returns for each labelled row whether the split has it, (n,)."""
        view, fold_of = self.view, self._fold_of
        scores: NDArray[np.bool_] = fold_of == (-1 if view.fold is None else view.fold)
        meta_fold = 0 if view.fold is None else (view.fold + 1) % view.folds
        is_meta: NDArray[np.bool_] = fold_of == (meta_fold if view.has_meta_dev else -1)
        if name == "select_dev":
            return scores if view.fold is not None else np.ones(len(fold_of), dtype=np.bool_)
        return is_meta if name == "meta_dev" else np.logical_not(scores | is_meta)


def classes_of(labels: NDArray[np.generic] | None) -> list[Hashable] | None:
    """Returns what rows are spread by: their class, their pattern of several labels, or nothing for numbers."""
    if labels is None or np.issubdtype(labels.dtype, np.floating):
        return None
    return labels.tolist() if labels.ndim == 1 else [row.tobytes() for row in labels]


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches: list[pa.RecordBatch] = rows.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)


def partition(contents: Sequence[bytes], labels: Sequence[Hashable] | None, folds: int, salt: str) -> NDArray[np.int64]:
    """Returns the fold (n,) of each row, in [0, folds).

    Rows of equal content are in one fold. The rows of a label are spread evenly: the numbers of its distinct contents
    in two folds differ by at most one, so that a label with fewer rows than folds has at most one in each. The folds
    too differ by at most one distinct content. Without `labels` all rows count as of one label; the label of contents
    with several is that of the first row.

    Raises ValueError if there are fewer distinct contents than folds.
    """
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row, content in enumerate(contents):
        rows_of[content].append(row)
    if not 2 <= folds <= len(rows_of):
        raise ValueError(f"{len(rows_of)} distinct rows cannot be divided into {folds} folds")
    by_label: dict[Hashable, list[bytes]] = defaultdict(list)
    for content, rows in rows_of.items():
        by_label[labels[rows[0]] if labels is not None else ""].append(content)
    fold_of = np.empty(len(contents), dtype=np.int64)
    sizes = Counter(dict.fromkeys(range(folds), 0))
    order = _by_hash(range(folds), salt)  # no fold is always the first to be filled
    for label in sorted(by_label, key=lambda label: (-len(by_label[label]), repr(label))):
        of_label = Counter(dict.fromkeys(range(folds), 0))
        for content in sorted(by_label[label], key=lambda content: _digest(salt, content)):
            fold = min(order, key=lambda fold: (of_label[fold], sizes[fold]))
            fold_of[rows_of[content]] = fold
            of_label[fold] += 1
            sizes[fold] += 1
    return fold_of


def _by_hash(numbers: range, salt: str) -> list[int]:
    return sorted(numbers, key=lambda number: _digest(salt, str(number).encode()))


def _digest(salt: str, content: bytes) -> bytes:
    return hashlib.sha256(salt.encode() + b"\0" + content).digest()
