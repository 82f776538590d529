"""The signal and the noise of what a weighting learns from: means over steps, with standard errors.

    x_k   an observation of objective k at a step, for instance the similarity of its gradient to the dev gradient
    B     batches of consecutive steps, at most MAX_BATCHES; where there are more, neighbours are joined

Observations of one training resemble those of the steps before, so their spread says too little about the error of
their mean. The means of B long batches are nearly independent, and their spread does (batch means; Alexopoulos & Seila,
Handbook of Simulation, 1998, ch. 7). A drift during the training counts as noise. What all steps have in common, such
as the same few meta-dev rows, is not seen: the error of another choice of rows comes on top.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_BATCHES = 32
MIN_BATCHES = 4  # in which an objective must have been observed, for a standard error


class SignalTracker:
    """Sums and counts of the observations of N objectives, by batch of steps."""

    def __init__(self, objectives: int) -> None:
        self.sums = torch.zeros(MAX_BATCHES, objectives, dtype=torch.float64)
        self.counts = torch.zeros(MAX_BATCHES, objectives, dtype=torch.float64)
        self.length = 1  # steps in a batch
        self.steps = 0

    def add(self, sampled: list[int], values: Tensor) -> None:
        """Adds the observations (n,) of the `sampled` objectives at one step."""
        batch = self.steps // self.length
        if batch == MAX_BATCHES:
            for table in (self.sums, self.counts):
                table[: MAX_BATCHES // 2] = table[0::2] + table[1::2]
                table[MAX_BATCHES // 2 :] = 0
            self.length, batch = self.length * 2, MAX_BATCHES // 2
        self.sums[batch, sampled] += values.double().cpu()
        self.counts[batch, sampled] += 1
        self.steps += 1

    def summary(self) -> tuple[Tensor, Tensor]:
        """Returns the mean of each objective and its standard error, (N,) each; NaN where there are too few batches."""
        total = self.counts.sum(dim=0)
        mean = self.sums.sum(dim=0) / total
        used = self.counts > 0
        B = used.sum(dim=0)
        deviations = torch.where(used, self.sums - self.counts * mean, 0.0) / total  # (B, N)
        error = (deviations.square().sum(dim=0) * B / (B - 1).clamp_min(1)).sqrt()
        return mean, torch.where(B >= MIN_BATCHES, error, torch.nan)

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume from here."""
        return {"sums": self.sums, "counts": self.counts, "length": self.length, "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self.sums, self.counts = state["sums"].cpu().clone(), state["counts"].cpu().clone()
        self.length, self.steps = state["length"], state["steps"]
