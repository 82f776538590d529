"""The weights of a trial, step by step, between two evaluations: numbers now, an Arrow batch when it is said.

A step costs two copies of a row of numbers; names are written once for all steps of a batch.

    T   entries since the last evaluation
    R   rows of an entry: tasks, objectives, primitives
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raysearch.methods.weighting.base import GradientSimilarities, Weighting
from raysearch.storage.schemas import WEIGHTS

_COLUMNS = pa.schema([f for f in WEIGHTS if f.name not in ("trial_id", "attempt")])


class WeightLog:
    """Collects what the weights table is told."""

    def __init__(self, weighting: Weighting, every: int) -> None:
        self.weighting, self.every = weighting, every
        self.names = weighting.names()
        self.last = 0  # the step of the last entry; 0 before the first
        self.current_weights = weighting.weights()  # (R,) after the last step
        self.steps: list[int] = []  # (T,)
        self.weights: list[Tensor] = []  # T of (R,)
        self.scores: list[Tensor] = []  # T of (R,), NaN where there is none

    def record(
        self, step: int, learned: tuple[list[int], GradientSimilarities] | None, *, in_round: bool = False
    ) -> None:
        """Take the weights as they stand after `step`; what `learned` there is null where nothing was.

        After a step that neither learned nor moved them, and was no round, they are not told again.
        """
        before, self.current_weights = self.current_weights, self.weighting.weights()
        is_new = learned is not None or in_round or not torch.equal(self.current_weights, before)
        if self.last and (not is_new or step < self.last + self.every):
            return
        scores = torch.full((len(self.names),), math.nan, dtype=torch.float64)
        if learned is not None:
            sampled, found = learned
            scores[0], scores[1] = found.end_task, found.aux
            scores[torch.tensor(sampled, dtype=torch.long) + 2] = found.objectives.to(scores)
        self.last = step
        self.steps.append(step)
        self.weights.append(self.current_weights)
        self.scores.append(scores)

    def flush(self) -> pa.RecordBatch | None:
        """All entries since the last call, as rows of the weights table less trial and attempt."""
        if not self.steps:
            return None
        weights, scores = torch.stack(self.weights).flatten().numpy(), torch.stack(self.scores).flatten().numpy()
        R, T = len(self.names), len(self.steps)
        which = pa.array(np.tile(np.arange(R), T))
        columns = [
            pa.array(np.repeat(np.array(self.steps, dtype=np.int64), R)),
            *(pa.array(part, pa.string()).take(which) for part in zip(*self.names, strict=True)),
            pa.array(weights),
            pa.array(scores, mask=np.isnan(scores)),
        ]
        self.steps, self.weights, self.scores = [], [], []
        return pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on from here."""
        empty = torch.empty(0, len(self.names), dtype=torch.float64)
        both = [torch.stack(rows) if rows else empty for rows in (self.weights, self.scores)]
        return {"last": self.last, "steps": self.steps, "weights": both[0], "scores": both[1]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken, the weighting already being there."""
        self.current_weights = self.weighting.weights()
        self.last, self.steps = state["last"], list(state["steps"])
        self.weights, self.scores = list(state["weights"].cpu()), list(state["scores"].cpu())
