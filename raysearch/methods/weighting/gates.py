"""Gates: an objective takes part as far as the evidence lets it. raysearch's own, found on planted transfer.

    m_k    cosine of g_k with the dev gradient: of the loss of rows that the least-squares head of the other rows gives
    e_k    evidence, a little against at first:  e_k <- clip(e_k + rate (m_k - margin), -limit, limit)
    w_k    sigmoid(e_k), between 0 and 1: a gate

META-TARTAN and AANG bring weights to sum 1 by a softmax, so that of objectives that all harm some must win. Here each
gate opens and closes by itself, and where all are closed the end task is alone: beside lambda_e the auxiliaries weigh
(1 - lambda_e) min(1, sum_k w_k), both then brought to sum 1. An objective that neither helps nor harms closes slowly,
by the margin: of few labelled rows every similarity is mostly chance. The limit keeps a belief open to doubt.

Two further differences, both against chance: the dev head is exact, not a few steps of descent from a new start, and
the loss is of rows of meta-dev and of train, each scored by a head fitted without it (`leave_one_out_errors`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting
from raysearch.objectives.objective import Objective


class Gates(Weighting):
    """A gate for each objective; a closed one still has a row in the steps that sample it."""

    settings: s.GatesSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.GatesSettings) -> None:
        super().__init__(objectives, settings)
        self.evidence = torch.full((len(objectives),), settings.gate_start, dtype=torch.float64)

    def required_gradients(self, step: int) -> GradientQuery:
        """Similarities to the gradient of left-out rows at every step, unless nothing could move."""
        del step
        if not self.settings.lr_gates > 0:
            return GradientQuery()
        return GradientQuery(compare="left_out", normalise=self.settings.similarity == "cosine")

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Shares of the open gates, and of the end task beside them."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        gates: Tensor = torch.sigmoid(self.evidence[sampled])
        lambda_e, opened = self.settings.lambda_e, float(gates.sum())
        aux = (1 - lambda_e) * min(1.0, opened)
        whole = lambda_e + aux
        return Coefficients(lambda_e / whole, aux / whole, gates / opened)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """More evidence for what is more similar than the margin, and less for what is not."""
        if observation.similarities is None:
            return
        limit = self.settings.gate_limit
        gained = observation.similarities.objectives.to(self.evidence) - self.settings.gate_margin
        self.evidence[sampled] = (self.evidence[sampled] + self.settings.lr_gates * gained).clamp(-limit, limit)

    def state(self) -> dict[str, Any]:
        """The evidence."""
        return {"evidence": self.evidence}

    def load(self, state: dict[str, Any]) -> None:
        """Take the evidence back."""
        self.evidence = state["evidence"].cpu().clone()
