"""BatchBuilder of images: the end task's as they are, an objective's transformed and partly hidden as it says.

pixels (b, C, H, W) float, normalised by the channels' mean and standard deviation in data.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Open, TaskBatch, labels_of
from raysearch.modalities.image.primitives import IMAGE_DATA, IMAGE_REPRESENTATIONS, IMAGE_TRANSFORMS
from raysearch.modalities.text.outputs import Targets
from raysearch.objectives.objective import Objective


@dataclass(frozen=True)
class ImageBatchBuilder:
    """Groups whose inputs are pixels (b, C, H, W)."""

    open_split: Open
    mean: tuple[float, ...]  # of each channel, in [0, 1]
    std: tuple[float, ...]
    probability: float  # that a patch is drawn by patch_mask

    def pixels(self, split: Split, rows: Tensor) -> Tensor:
        """Normalised pixels (b, C, H, W) of `rows`."""
        stored = torch.from_numpy(np.stack([split.row(int(row)) for row in rows]))
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (stored.float() / 255 - mean) / std

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """`rows` as they are."""
        pixels = self.pixels(split, rows)
        everything = torch.ones(pixels[:, 0].shape, dtype=torch.bool)
        return TaskBatch((pixels,), Targets(pixels, everything, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """`count` examples drawn with replacement for `objective`, transformed and hidden as it says."""
        split = IMAGE_DATA[objective.data](self.open_split)
        rows = torch.randint(len(split), (count,), generator=generator)
        view = IMAGE_TRANSFORMS[objective.transform](self.pixels(split, rows), self.probability, generator)
        hidden = IMAGE_REPRESENTATIONS[objective.representation](view.pixels, generator)
        asked = view.changed | hidden
        asked[~asked.flatten(1).any(1)] = True  # nothing is spoiled: the whole image is to be given back
        labels = view.turns if objective.output == "rotation" else labels_of(split, rows)
        targets = Targets(view.original, asked, labels, int(asked.sum()), count)
        return TaskBatch((view.pixels.masked_fill(hidden[:, None], 0.0),), targets)

    def size(self, objective: Objective) -> int:
        """Images that the objective draws from."""
        return len(IMAGE_DATA[objective.data](self.open_split))

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """All task batches' pixels, one after another."""
        return (torch.cat([batch.inputs[0] for batch in task_batches]),)
