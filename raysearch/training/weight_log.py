"""The weights of a trial, step by step, between two evaluations: stored as numbers, returned as an Arrow batch.

A step costs two copies of a row of numbers; names are written once for all steps of a batch.

    T   entries since the last evaluation
    R   rows of an entry: tasks, objectives, primitives
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raysearch.methods.weighting.base import GradientSimilarities, Weighting
from raysearch.storage.schemas import WEIGHTS

_COLUMNS = pa.schema([f for f in WEIGHTS if f.name not in ("trial_id", "attempt")])


class WeightLog:
    """Collects the rows of the weights table."""

    def __init__(self, weighting: Weighting, every: int, remarks: Sequence[tuple[str, str, float]] = ()) -> None:
        """`remarks` are what is known of a teacher's guesses: stage, name and value, written with the first entry."""
        self.weighting, self.every, self.remarks = weighting, every, remarks
        self.names = weighting.names()
        self.last = 0  # the step of the last entry; 0 before the first
        self.is_first = True  # nothing was returned yet
        self.current_weights = weighting.weights()  # (R,) after the last step
        self.steps: list[int] = []  # (T,)
        self.weights: list[Tensor] = []  # T of (R,)
        self.scores: list[Tensor] = []  # T of (R,), NaN where there is none

    def record(
        self, step: int, learned: tuple[list[int], GradientSimilarities] | None, *, in_round: bool = False
    ) -> None:
        """Records the weights after `step`, at most every so many steps.

        `learned` are the sampled objectives and the similarities observed at this step, or None. A step that neither
        learned nor changed the weights, and was no round, is not recorded.
        """
        before, self.current_weights = self.current_weights, self.weighting.weights()
        is_new = learned is not None or in_round or not torch.equal(self.current_weights, before)
        if self.last and (not is_new or step < self.last + self.every):
            return
        scores = torch.full((len(self.names),), math.nan, dtype=torch.float64)
        if learned is not None:
            sampled, similarities = learned
            scores[0], scores[1] = similarities.end_task, similarities.aux
            scores[torch.tensor(sampled, dtype=torch.long) + 2] = similarities.objectives.to(scores)
        self.last = step
        self.steps.append(step)
        self.weights.append(self.current_weights)
        self.scores.append(scores)

    def flush(self) -> pa.RecordBatch | None:
        """Returns the entries since the last call as rows of the weights table, without trial and attempt."""
        if not self.steps:
            return None
        weights, scores = torch.stack(self.weights).flatten().numpy(), torch.stack(self.scores).flatten().numpy()
        R, T = len(self.names), len(self.steps)
        name_numbers = pa.array(np.tile(np.arange(R), T))
        columns = [
            pa.array(np.repeat(np.array(self.steps, dtype=np.int64), R)),
            *(pa.array(part, pa.string()).take(name_numbers) for part in zip(*self.names, strict=True)),
            pa.array(weights),
            pa.array(scores, mask=np.isnan(scores)),
        ]
        entries = pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)
        is_first, self.steps, self.weights, self.scores = self.is_first, [], [], []
        self.is_first = False
        return _with_remarks(entries, self.remarks) if is_first and self.remarks else entries

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume from here."""
        empty = torch.empty(0, len(self.names), dtype=torch.float64)
        weights, scores = (torch.stack(rows) if rows else empty for rows in (self.weights, self.scores))
        state = {"last": self.last, "steps": self.steps, "weights": weights, "scores": scores}
        return state | ({"is_first": self.is_first} if self.remarks else {})

    def load(self, state: dict[str, Any]) -> None:
        """Resumes from what `state` returned; the weighting has been loaded before."""
        self.current_weights = self.weighting.weights()
        self.is_first = state.get("is_first", self.is_first)
        self.last, self.steps = state["last"], list(state["steps"])
        self.weights, self.scores = list(state["weights"].cpu()), list(state["scores"].cpu())


def _with_remarks(entries: pa.RecordBatch, remarks: Sequence[tuple[str, str, float]]) -> pa.RecordBatch:
    """Returns entries with a row of kind 'teacher' for each remark, at the first entry's step."""
    stages, names, values = (list(part) for part in zip(*remarks, strict=True))
    count = len(remarks)
    columns = [
        pa.array([entries.column("step")[0].as_py()] * count, pa.int64()),
        pa.array(["teacher"] * count),
        pa.array(stages),
        pa.array(names),
        pa.array(values, pa.float64()),
        pa.nulls(count, pa.float64()),
    ]
    more = pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)
    return pa.Table.from_batches([entries, more]).combine_chunks().to_batches()[0]
