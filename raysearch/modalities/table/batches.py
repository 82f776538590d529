"""Table batches: the end task's rows unchanged, an objective's transformed and partly hidden.

features (b, d) float, normalised by train's mean and standard deviation in data.json
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Targets, TaskBatch, TensorBatchBuilder, labels_of
from raysearch.modalities.table.dataset import TableSplit
from raysearch.modalities.table.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective


@dataclass(frozen=True)
class TableBatchBuilder(TensorBatchBuilder):
    """A builder of task batches whose inputs are features (b, d)."""

    taxonomy = TAXONOMY
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
        split = self.split_of(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        original = self.features(split, rows)
        transform = self.functions["transform"][objective.transform]
        features, changed = transform(original, self.probability, generator)
        hidden = self.functions["representation"][objective.representation](features, generator)
        selected = changed | hidden
        selected[~selected.any(1)] = True  # nothing is changed or hidden: the whole row is predicted
        targets = Targets(original, selected, labels_of(split, rows), int(selected.sum()), count)
        return TaskBatch((features.masked_fill(hidden, 0.0),), targets)
