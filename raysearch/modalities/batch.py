"""What a step's batch is made of, whatever the kind of task: groups of rows, one for each task within the batch.

All ranks draw the same global batch from the same generator, and each keeps every world-th row: sums over ranks are
then the sums of one rank alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.text.outputs import Targets
from raysearch.objectives.objective import Objective

Open = Callable[[str], Split]


@dataclass(frozen=True)
class TaskBatch:
    """The rows of one task within a batch."""

    inputs: tuple[Tensor, ...]  # what the body takes, each (b, ...)
    targets: Targets

    def __len__(self) -> int:
        return len(self.inputs[0])

    def slice(self, rank: int, world: int) -> TaskBatch:
        """Every world-th row, beginning with `rank`; the totals stay those of the whole group."""
        if world == 1:
            return self
        return self._each(lambda rows: rows[rank::world])

    def to(self, device: torch.device) -> TaskBatch:
        """The same rows on `device`."""
        return self._each(lambda rows: rows.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TaskBatch:
        t = self.targets
        targets = replace(t, original=change(t.original), selected=change(t.selected), labels=change(t.labels))
        return TaskBatch(tuple(change(rows) for rows in self.inputs), targets)


class BatchBuilder(Protocol):
    """A kind of task's way from row numbers to groups."""

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """`rows` (b,) of a split as they are: the end task's own batch."""

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """`count` examples drawn with replacement for `objective`, transformed and masked as it says."""

    def size(self, objective: Objective) -> int:
        """How many rows the objective's examples are drawn from."""

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """The inputs of all groups, one after another, for one forward."""


def labels_of(split: Split, rows: Tensor) -> Tensor:
    """Labels (b,) of `rows`: whole numbers for classes, float where they are numbers; empty for a split without."""
    if split.labels is None:
        return torch.empty(0, dtype=torch.long)
    found = np.asarray(split.labels)[rows.numpy()]
    return torch.from_numpy(found if found.dtype == np.float32 else found.astype(np.int64))
