"""What a step's batch is made of, in every modality: task batches, one for each task within the batch.

All ranks draw the same global batch from the same generator, and each keeps every world-th example: sums over ranks
are then the sums of one rank alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn

from raysearch.data.prepared import Split
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES, Taxonomy

OpenSplit = Callable[[str], Split]


@dataclass(frozen=True)
class Targets:
    """The targets of one task's examples: what is to be predicted."""

    original: Tensor  # (b, ...) the inputs before the transform, or another quantity that the output predicts
    selected: Tensor  # (b, ...) bool: where it is predicted; most often what the transform may have changed
    labels: Tensor  # (b,) classes or float numbers, or (b, L) of 0 and 1 for several at once; empty if there are none
    selected_total: int  # selected positions over all ranks
    rows_total: int  # examples over all ranks
    real: Tensor | None = None  # (b, S) bool: the positions that hold something; None where every one does
    guesses: Tensor | None = None  # (b, C) what a teacher says: the probabilities of the end task's classes
    trust: Tensor | None = None  # (b,) how much each guess counts, from 0
    anchors: Tensor | None = None  # (b, H) the examples' vectors by the encoder as it was before training


Output = Callable[[Tensor, Targets, nn.Module], Tensor]  # the loss of hidden states, targets and a head


@dataclass(frozen=True)
class TaskBatch:
    """The examples of one task within a batch."""

    inputs: tuple[Tensor, ...]  # what the body takes, each (b, ...)
    targets: Targets
    group: int = 1  # examples in a row that stay together, because a loss compares them: the views of one, or all

    def __len__(self) -> int:
        return len(self.inputs[0])

    def slice(self, rank: int, world: int) -> TaskBatch:
        """Returns every world-th group, beginning with `rank`; the totals stay those of the whole batch."""
        if world == 1:
            return self
        if self.group == 1:
            return self._map(lambda examples: examples[rank::world])
        rows = torch.arange(len(self)).reshape(-1, self.group)[rank::world].flatten()
        return self._map(lambda examples: examples[rows.to(examples.device)])

    def to(self, device: torch.device) -> TaskBatch:
        """Returns the same examples on `device`."""
        return self._map(lambda examples: examples.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> TaskBatch:
        t = self.targets
        names = ("original", "selected", "labels", "real", "guesses", "trust", "anchors")
        parts = {name: getattr(t, name) for name in names}
        of_examples: dict[str, Any] = {
            name: change(part) for name, part in parts.items() if part is not None and len(part)
        }
        return TaskBatch(tuple(change(part) for part in self.inputs), replace(t, **of_examples), self.group)


class BatchBuilder(Protocol):
    """A modality's way from example numbers to task batches.

    One whose objectives learn from a teacher also has `with_tutors` and `features` (`ViewBatchBuilder`).
    """

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """Returns the examples `rows` (b,) of a split unchanged: the end task's batch."""

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """Returns `count` examples for `objective`, drawn with replacement, transformed and masked."""

    def output(self, objective: Objective) -> Output:
        """Returns the loss function of the objective's output."""

    def size(self, objective: Objective) -> int:
        """Returns how many examples the objective draws from."""

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """Returns the inputs of all task batches, one after another, for one forward."""


class ViewBatchBuilder(BatchBuilder, Protocol):
    """A batch builder whose objectives may learn from a teacher and from several views of an example."""

    def split_of(self, objective: Objective) -> Split:
        """Opens the split that an objective draws from."""

    def cache_rows(self, split: Split, rows: Any) -> None:
        """Prepares what is computed once of examples of a split that objectives will see unchanged."""

    def with_tutors(self, tutors: Any) -> BatchBuilder:
        """Returns the same builder with a teacher, and with the encoder as it was before training."""

    def keys_of(self, examples: Sequence[str]) -> list[bytes]:
        """Returns what a split's `row` would store of examples that a file names, as bytes."""

    def features(self, split: Split, rows: Any) -> Any:
        """Returns counts (R, F) of examples of a split that owe nothing to the encoder, as a SciPy CSR matrix.

        The columns of two splits mean the same.
        """


def labels_of(split: Split, rows: Tensor) -> Tensor:
    """Returns the labels (b,) of the examples `rows`: int64 for classes, float for numbers; empty without labels."""
    if split.labels is None:
        return torch.empty(0, dtype=torch.long)
    labels = np.asarray(split.labels)[rows.numpy()]
    return torch.from_numpy(labels if labels.dtype == np.float32 else labels.astype(np.int64))


@dataclass(frozen=True)
class TensorBatchBuilder:
    """A base of batch builders whose examples are one tensor of a fixed shape each."""

    taxonomy: ClassVar[Taxonomy]  # of the builder's modality

    open_split: OpenSplit

    def output(self, objective: Objective) -> Output:
        """Returns the loss function of the objective's output."""
        return self.functions["output"][objective.output]

    def size(self, objective: Objective) -> int:
        """Returns how many examples the objective draws from."""
        return len(self.split_of(objective))

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """Returns all task batches' tensors, one after another."""
        return (torch.cat([batch.inputs[0] for batch in task_batches]),)

    @cached_property
    def functions(self) -> dict[str, dict[str, Callable[..., Any]]]:
        """The functions of all primitives, by stage and name."""
        return {stage: self.taxonomy.functions(stage) for stage in STAGES}

    def split_of(self, objective: Objective) -> Split:
        """Opens the split that an objective draws from; `extra_NAME` is the split of that name."""
        source = self.functions["data"].get(objective.data)
        split: Split = source(self.open_split) if source is not None else self.open_split(objective.data)
        return split
