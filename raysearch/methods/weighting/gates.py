"""Gates: each objective has a gate that opens or closes by the evidence for it. raysearch's own.

    v      the gradient of the loss of leave-one-out examples: each is scored by the least-squares head of the others
    m_k    cosine of g_k with v
    e_k    evidence, initially a little below 0:  e_k <- clip(e_k + rate (m_k - margin), -limit, limit)
    s_k    sigmoid(e_k) in (0, 1), the gate

The end task has weight lambda_e, the auxiliaries (1 - lambda_e) min(1, sum_k s_k), normalised to sum 1, and objectives
share the auxiliaries' part in proportion to s_k.

META-TARTAN and AANG normalise their weights by a softmax, so if all objectives harm, some still gain weight. Here each
gate is independent, and if all are closed the end task is trained alone. An objective that neither helps nor harms
closes slowly, because of the margin: with few labelled examples a similarity is mostly noise. The limit keeps a gate
able to change.

Two further differences reduce noise: the dev head is the exact least-squares solution, not a few steps of gradient
descent from a random start; and the loss is over examples of meta-dev and of train, each scored by a head that was not
fitted on it (`dev_head.leave_one_out_errors`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting
from raysearch.methods.weighting.settings import GatesSettings
from raysearch.objectives.objective import Objective


class Gates(Weighting):
    """A gate for each objective; one that is closed still has an example in the steps that sample it."""

    settings: GatesSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: GatesSettings) -> None:
        super().__init__(objectives, settings)
        self.evidence = torch.full((len(objectives),), settings.gate_start, dtype=torch.float64)

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests similarities to the leave-one-out gradient at every step, unless the rate is 0."""
        del step
        if not self.settings.lr_gates > 0:
            return GradientQuery()
        return GradientQuery(compare="left_out", normalise=self.settings.similarity == "cosine")

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) min(1, sum_k s_k), normalised; objectives share by s_k."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        gates: Tensor = torch.sigmoid(self.evidence[sampled])
        lambda_e, gate_sum = self.settings.lambda_e, float(gates.sum())
        aux = (1 - lambda_e) * min(1.0, gate_sum)
        total = lambda_e + aux
        return Coefficients(lambda_e / total, aux / total, gates / gate_sum)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Adds rate (m_k - margin) to the evidence of each sampled objective."""
        if observation.similarities is None:
            return
        limit = self.settings.gate_limit
        excess = observation.similarities.objectives.to(self.evidence) - self.settings.gate_margin
        self.evidence[sampled] = (self.evidence[sampled] + self.settings.lr_gates * excess).clamp(-limit, limit)

    def state(self) -> dict[str, Any]:
        """Returns the evidence."""
        return {"evidence": self.evidence}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the evidence."""
        self.evidence = state["evidence"].cpu().clone()
