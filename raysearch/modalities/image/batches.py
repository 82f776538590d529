"""Image batches: the end task's unchanged, an objective's transformed and partly hidden.

pixels (b, C, H, W) float, normalised by the channels' mean and standard deviation in data.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit, Output, Targets, TaskBatch, labels_of
from raysearch.modalities.image.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES, load_target


@dataclass(frozen=True)
class ImageBatchBuilder:
    """A builder of task batches whose inputs are pixels (b, C, H, W)."""

    open_split: OpenSplit
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
        split = self._split(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        transform = self._functions["transform"][objective.transform]
        view = transform(self.pixels(split, rows), self.probability, generator)
        hidden = self._functions["representation"][objective.representation](view.pixels, generator)
        selected = view.changed | hidden
        selected[~selected.flatten(1).any(1)] = True  # nothing is changed or hidden: the whole image is predicted
        output = TAXONOMY.find("output", objective.output)
        assert output is not None
        labels = load_target(output.labels)(view) if output.labels else labels_of(split, rows)
        targets = Targets(view.original, selected, labels, int(selected.sum()), count)
        return TaskBatch((view.pixels.masked_fill(hidden[:, None], 0.0),), targets)

    def output(self, objective: Objective) -> Output:
        """Returns the loss function of the objective's output."""
        return self._functions["output"][objective.output]

    def size(self, objective: Objective) -> int:
        """Returns how many images the objective draws from."""
        return len(self._split(objective))

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """Returns all task batches' pixels, one after another."""
        return (torch.cat([batch.inputs[0] for batch in task_batches]),)

    @cached_property
    def _functions(self) -> dict[str, dict[str, Callable[..., Any]]]:
        """The functions of all primitives, by stage and name."""
        return {stage: TAXONOMY.functions(stage) for stage in STAGES}

    def _split(self, objective: Objective) -> Split:
        split: Split = self._functions["data"][objective.data](self.open_split)
        return split
