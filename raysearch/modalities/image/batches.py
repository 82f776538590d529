"""Image batches: the end task's unchanged, an objective's transformed and partly hidden.

pixels (b, C, H, W) float, normalised by the channels' mean and standard deviation in data.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy import sparse
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.errors import SpecError
from raysearch.modalities.batch import Targets, TaskBatch, TensorBatchBuilder, labels_of
from raysearch.modalities.guessing import Tutors, draw_rows, group_of, tutored_targets
from raysearch.modalities.image.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import load_target

GRID = 8  # cells of a side, of an ensemble's second view of images


@dataclass(frozen=True)
class ImageBatchBuilder(TensorBatchBuilder):
    """A builder of task batches whose inputs are pixels (b, C, H, W)."""

    taxonomy = TAXONOMY
    mean: tuple[float, ...]  # of each channel, in [0, 1]
    std: tuple[float, ...]
    probability: float  # that a patch is drawn by patch_mask
    tutors: Tutors = field(default_factory=Tutors)

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
        """Returns `count` images for `objective`, drawn with replacement, transformed and partly hidden.

        An output with two views has each image twice, one after the other.
        """
        split, output = self.split_of(objective), TAXONOMY.find("output", objective.output)
        assert output is not None
        rows = draw_rows(output, self.tutors, split, count, generator)
        tutored = tutored_targets(output, self.tutors, split, rows)
        rows = rows.repeat_interleave(output.views)
        transform = self.functions["transform"][objective.transform]
        view = transform(self.pixels(split, rows), self.probability, generator)
        hidden = self.functions["representation"][objective.representation](view.pixels, generator)
        selected = view.changed | hidden
        selected[~selected.flatten(1).any(1)] = True  # nothing is changed or hidden: the whole image is predicted
        labels = load_target(output.labels)(view) if output.labels else labels_of(split, rows)
        targets = Targets(view.original, selected, labels, int(selected.sum()), count, **tutored)
        pixels = view.pixels.masked_fill(hidden[:, None], 0.0)
        return TaskBatch((pixels,), targets, group=group_of(output, len(rows)))

    def with_tutors(self, tutors: Tutors) -> ImageBatchBuilder:
        """Returns the same builder with a teacher, and with the encoder as it was before training."""
        return replace(self, tutors=tutors)

    def cache_rows(self, split: Split, rows: NDArray[np.int64]) -> None:
        """Does nothing: images pass through the whole encoder at every step."""

    def keys_of(self, examples: Sequence[str]) -> list[bytes]:
        """Raises SpecError: a file names images by their numbers."""
        if examples:
            raise SpecError("names images by `row`, their number among the auxiliary images, not by `text`")
        return []

    def features(self, split: Split, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Returns the mean brightness of each cell of a grid of GRID x GRID, from 0 to 255, by channel."""
        stored = torch.from_numpy(np.stack([split.row(int(row)) for row in rows])).float()
        cells = F.adaptive_avg_pool2d(stored, GRID).flatten(1)
        return sparse.csr_matrix(cells.round().numpy())
