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
from raysearch.methods.weighting.signal import SignalTracker
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
        self.tracker = SignalTracker(len(weighting.objectives))

    def record(
        self, step: int, learned: tuple[list[int], GradientSimilarities] | None, *, in_round: bool = False
    ) -> None:
        """Records the weights after `step`, at most every so many steps.

        `learned` are the sampled objectives and the similarities observed at this step, or None. A step that neither
        learned nor changed the weights, and was no round, is not recorded.
        """
        if learned is not None:
            self.tracker.add(learned[0], learned[1].objectives)
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
        """Returns the entries since the last call as rows of the weights table, without trial and attempt.

        After them come rows of kind 'signal' at the last entry's step: what is known of each objective by then.
        """
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
        parts = [entries, self._signal_rows(self.steps[-1])]
        if self.is_first and self.remarks:
            parts.append(_remark_rows(self.steps[0], self.remarks))
        self.is_first, self.steps, self.weights, self.scores = False, [], [], []
        return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]

    def _signal_rows(self, step: int) -> pa.RecordBatch:
        """Returns a row of kind 'signal' for each objective of which a standard error is known."""
        known = self.weighting.signal()
        mean, error = self.tracker.summary() if known is None else known
        numbers = torch.nonzero(error > 0)[:, 0]
        names = [self.weighting.objectives[number].name for number in numbers.tolist()]
        ratios = (mean[numbers] / error[numbers]).numpy()
        return _rows(step, "signal", [""] * len(names), names, ratios, pa.array(mean[numbers].numpy()))

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume from here."""
        empty = torch.empty(0, len(self.names), dtype=torch.float64)
        weights, scores = (torch.stack(rows) if rows else empty for rows in (self.weights, self.scores))
        state = {"last": self.last, "steps": self.steps, "weights": weights, "scores": scores}
        state |= {"signal": self.tracker.state()}
        return state | ({"is_first": self.is_first} if self.remarks else {})

    def load(self, state: dict[str, Any]) -> None:
        """Resumes from what `state` returned; the weighting has been loaded before."""
        self.current_weights = self.weighting.weights()
        self.is_first = state.get("is_first", self.is_first)
        self.last, self.steps = state["last"], list(state["steps"])
        self.weights, self.scores = list(state["weights"].cpu()), list(state["scores"].cpu())
        if "signal" in state:  # checkpoints of 0.4 have none
            self.tracker.load(state["signal"])


def _remark_rows(step: int, remarks: Sequence[tuple[str, str, float]]) -> pa.RecordBatch:
    """Returns a row of kind 'teacher' for each remark."""
    stages, names, values = (list(part) for part in zip(*remarks, strict=True))
    return _rows(step, "teacher", stages, names, values, pa.nulls(len(remarks), pa.float64()))


def _rows(
    step: int, kind: str, stages: Sequence[str], names: Sequence[str], weights: Any, scores: pa.Array
) -> pa.RecordBatch:
    """Returns rows of one kind and step; `weights` are numbers."""
    count = len(names)
    texts = [pa.array(part, pa.string()) for part in ([kind] * count, stages, names)]
    columns = [pa.array([step] * count, pa.int64()), *texts, pa.array(weights, pa.float64()), scores]
    return pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)
