"""Sequence batches: the end task's sequences unchanged, an objective's transformed and partly hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from helpers.sequence_modality.taxonomy import TAXONOMY
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Targets, TaskBatch, TensorBatchBuilder, labels_of
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import load_target


@dataclass(frozen=True)
class SequenceBatchBuilder(TensorBatchBuilder):
    """A builder of task batches whose inputs are values (b, L)."""

    taxonomy = TAXONOMY
    mean: float
    std: float

    def values(self, split: Split, rows: Tensor) -> Tensor:
        """Returns the standardised values (b, L) of `rows`."""
        return (torch.from_numpy(np.stack([split.row(int(row)) for row in rows])) - self.mean) / self.std

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """Returns the sequences `rows` unchanged."""
        values = self.values(split, rows)
        everything = torch.ones(values.shape, dtype=torch.bool)
        return TaskBatch((values,), Targets(values, everything, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """Returns `count` sequences for `objective`, drawn with replacement, transformed and partly hidden."""
        split = self.split_of(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        original = self.values(split, rows)
        view = self.functions["transform"][objective.transform](original, generator)
        hidden = self.functions["representation"][objective.representation](view.values, generator)
        output = TAXONOMY.find("output", objective.output)
        assert output is not None
        labels = load_target(output.labels)(view) if output.labels else labels_of(split, rows)
        targets = Targets(original, torch.ones_like(hidden), labels, hidden.numel(), count)
        return TaskBatch((view.values.masked_fill(hidden, 0.0),), targets)
