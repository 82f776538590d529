"""Image batches: the end task's unchanged, an objective's transformed and partly hidden.

pixels (b, C, H, W) float, normalised by the channels' mean and standard deviation in data.json
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Targets, TaskBatch, TensorBatchBuilder, labels_of
from raysearch.modalities.image.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import load_target


@dataclass(frozen=True)
class ImageBatchBuilder(TensorBatchBuilder):
    """A builder of task batches whose inputs are pixels (b, C, H, W)."""

    taxonomy = TAXONOMY
    mean: tuple[float, ...]  # of each channel, in [0, 1]
    std: tuple[float, ...]
    probability: float  # that a patch is drawn by patch_mask

    def pixels(self, split: Split, rows: Tensor) -> Tensor:
        """Returns the normalised pixels (b, C, H, W) of the images `rows`."""
        stored = torch.from_numpy(np.stack([split.row(int(row)) for row in rows]))
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (stored.float() / 255 - mean) / std

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """Returns the images `rows` unchanged."""
        pixels = self.pixels(split, rows)
        everything = torch.ones(pixels[:, 0].shape, dtype=torch.bool)
        return TaskBatch((pixels,), Targets(pixels, everything, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """Returns `count` images for `objective`, drawn with replacement, transformed and partly hidden."""
        split = self.split_of(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        transform = self.functions["transform"][objective.transform]
        view = transform(self.pixels(split, rows), self.probability, generator)
        hidden = self.functions["representation"][objective.representation](view.pixels, generator)
        selected = view.changed | hidden
        selected[~selected.flatten(1).any(1)] = True  # nothing is changed or hidden: the whole image is predicted
        output = TAXONOMY.find("output", objective.output)
        assert output is not None
        labels = load_target(output.labels)(view) if output.labels else labels_of(split, rows)
        targets = Targets(view.original, selected, labels, int(selected.sum()), count)
        return TaskBatch((view.pixels.masked_fill(hidden[:, None], 0.0),), targets)
