"""Probes: an objective takes part if a short training on it alone improves the body. raysearch's own.

    e_0 (n,)   squared error of each labelled example, of meta-dev and train, by the least-squares head of the others on
               the initial body (`dev_head.leave_one_out_errors`)
    e_k (n,)   the same after the body was trained on objective k alone for `pass_steps`, at `probe_rate` x the rates
    gain_k     mean(e_0 - e_k) over its standard error
    s_k        gain_k - `probe_margin`, clipped to [0, 1]: a gain that may be due to chance counts little

The probes are the first steps of the trial, and their changes are dropped. Training then starts from the initial
parameters with weight lambda_e for the end task and (1 - lambda_e) min(1, sum_k s_k) for the objectives, in proportion
to s_k and normalised to sum 1; or with the end task alone if all s_k are 0.

A gradient on few examples says little about what an objective teaches, and less the longer the training has run. A
training on the objective itself, evaluated by heads that were not fitted on the examples that they score, says more;
its price is the probes' steps. As a probe is dropped, it may use a higher rate and fewer steps than a training. There
is one probe per objective: this is for spaces of tens of objectives, not of hundreds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting.branch_merging import Branch, BranchWeighting, MetaDev
from raysearch.methods.weighting.settings import ProbesSettings
from raysearch.objectives.objective import Objective


class Probes(BranchWeighting):
    """One round of probes, then fixed weights."""

    settings: ProbesSettings
    logged_quantity = "gain"

    def __init__(self, objectives: tuple[Objective, ...], settings: ProbesSettings) -> None:
        super().__init__(objectives, settings)
        self.has_probed = False
        self._set_weights(torch.ones(len(objectives), dtype=torch.float64))

    @property
    def is_finished(self) -> bool:
        """Whether the one round is over."""
        return self.has_probed

    @property
    def logged_branches(self) -> list[str]:
        """The objectives."""
        return self.task_names[1:]

    def branches(self) -> list[Branch]:
        """Returns one branch for each objective alone."""
        objectives = zip(self.task_names[1:], self.tasks[1:], strict=True)
        rate = self.settings.probe_rate
        return [Branch(name, {task: 1.0}, rate=rate, has_own_schedule=True) for name, task in objectives]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Returns 0 for all branches, and sets the weights from their gains."""
        alphas = torch.zeros(len(branches), dtype=torch.float64)
        before = dev.leave_one_out_errors(alphas)
        one_branch_each = torch.eye(len(branches), dtype=torch.float64)
        decreases = torch.stack([before - dev.leave_one_out_errors(alone) for alone in one_branch_each])
        standard_error = decreases.std(dim=1, correction=0) / max(decreases.shape[1] - 1, 1) ** 0.5
        gains = decreases.mean(dim=1) / standard_error.clamp_min(1e-12)
        self._set_weights((gains - self.settings.probe_margin).clamp(0, 1))
        self._log_values(branches, gains)
        self.has_probed = True
        return alphas

    def _set_weights(self, shares: Tensor) -> None:
        """Sets the weights from s (n,)."""
        lambda_e = self.settings.lambda_e
        self.w[0] = lambda_e if shares.any() else 1.0
        self.w[1:] = (1 - lambda_e) * shares / max(1.0, float(shares.sum()))

    def sample(self, generator: torch.Generator) -> list[int]:
        """Returns the objectives with a positive weight."""
        del generator
        return [k for k, w in enumerate(self.w[1:].tolist()) if w > 0]

    def state(self) -> dict[str, Any]:
        """Returns the weights, and whether the round is over."""
        return super().state() | {"looked": self.has_probed}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the weights, and whether the round is over."""
        super().load(state)
        self.has_probed = state["looked"]
