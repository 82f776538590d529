"""Table batches: the end task's rows unchanged, an objective's transformed and partly hidden.

features (b, d) float, normalised by train's mean and standard deviation in data.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit, Output, Targets, TaskBatch, labels_of
from raysearch.modalities.table.dataset import TableSplit
from raysearch.modalities.table.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES


@dataclass(frozen=True)
class TableBatchBuilder:
    """A builder of task batches whose inputs are features (b, d)."""

    open_split: OpenSplit
    mean: tuple[float, ...]  # of each feature
    std: tuple[float, ...]
    probability: float  # that a feature is drawn by mask or swap

    def features(self, split: Split, rows: Tensor) -> Tensor:
        """Returns the normalised features (b, d) of `rows`."""
        stored = torch.from_numpy(cast(TableSplit, split).features[rows.numpy()])
        return (stored - torch.tensor(self.mean)) / torch.tensor(self.std)

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """Returns `rows` unchanged."""
        features = self.features(split, rows)
        everything = torch.ones(features.shape, dtype=torch.bool)
        return TaskBatch((features,), Targets(features, everything, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """Returns `count` rows for `objective`, drawn with replacement, transformed and partly hidden."""
        split = self._split(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        original = self.features(split, rows)
        transform = self._functions["transform"][objective.transform]
        features, changed = transform(original, self.probability, generator)
        hidden = self._functions["representation"][objective.representation](features, generator)
        selected = changed | hidden
        selected[~selected.any(1)] = True  # nothing is changed or hidden: the whole row is predicted
        targets = Targets(original, selected, labels_of(split, rows), int(selected.sum()), count)
        return TaskBatch((features.masked_fill(hidden, 0.0),), targets)

    def output(self, objective: Objective) -> Output:
        """Returns the loss function of the objective's output."""
        return self._functions["output"][objective.output]

    def size(self, objective: Objective) -> int:
        """Returns how many rows the objective draws from."""
        return len(self._split(objective))

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """Returns all task batches' features, one after another."""
        return (torch.cat([batch.inputs[0] for batch in task_batches]),)

    @cached_property
    def _functions(self) -> dict[str, dict[str, Callable[..., Any]]]:
        """The functions of all primitives, by stage and name."""
        return {stage: TAXONOMY.functions(stage) for stage in STAGES}

    def _split(self, objective: Objective) -> Split:
        """Opens the rows that an objective draws from; `extra_NAME` is the split of that name."""
        source = self._functions["data"].get(objective.data)
        return source(self.open_split) if source is not None else self.open_split(objective.data)
