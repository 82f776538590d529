"""BatchBuilder of table rows: the end task's as they are, an objective's transformed and partly hidden as it says.

features (b, d) float, normalised by train's mean and standard deviation in data.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Open, TaskBatch, labels_of
from raysearch.modalities.table.dataset import TableSplit
from raysearch.modalities.table.primitives import TABLE_REPRESENTATIONS, TABLE_TRANSFORMS
from raysearch.modalities.text.outputs import Targets
from raysearch.objectives.objective import Objective


@dataclass(frozen=True)
class TableBatchBuilder:
    """Groups whose inputs are features (b, d)."""

    open_split: Open
    mean: tuple[float, ...]  # of each feature
    std: tuple[float, ...]
    probability: float  # that a feature is drawn by mask or swap

    def features(self, split: Split, rows: Tensor) -> Tensor:
        """Normalised features (b, d) of `rows`."""
        stored = torch.from_numpy(cast(TableSplit, split).features[rows.numpy()])
        return (stored - torch.tensor(self.mean)) / torch.tensor(self.std)

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """`rows` as they are."""
        features = self.features(split, rows)
        everything = torch.ones(features.shape, dtype=torch.bool)
        return TaskBatch((features,), Targets(features, everything, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """`count` rows drawn with replacement for `objective`, transformed and hidden as it says."""
        split = self._data(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        original = self.features(split, rows)
        seen, changed = TABLE_TRANSFORMS[objective.transform](original, self.probability, generator)
        hidden = TABLE_REPRESENTATIONS[objective.representation](seen, generator)
        asked = changed | hidden
        asked[~asked.any(1)] = True  # nothing is spoiled: the whole row is to be given back
        targets = Targets(original, asked, labels_of(split, rows), int(asked.sum()), count)
        return TaskBatch((seen.masked_fill(hidden, 0.0),), targets)

    def size(self, objective: Objective) -> int:
        """Rows that the objective draws from."""
        return len(self._data(objective))

    def _data(self, objective: Objective) -> Split:
        return self.open_split("train" if objective.data == "end_task" else objective.data)

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """All task batches' features, one after another."""
        return (torch.cat([batch.inputs[0] for batch in task_batches]),)
