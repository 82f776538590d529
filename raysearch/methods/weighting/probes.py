"""Probes, raysearch's own: an objective takes part if a short training on it alone made the body better.

    e_0 (n,)   squared error of each labelled row, of meta-dev and train, by the least-squares head of the other rows on
               the body as the trial begins (`dev_head.leave_one_out_errors`)
    e_k (n,)   the same after the objective alone has trained the body for `pass_steps`, at `probe_rate` x the rates
    gain_k     mean(e_0 - e_k) over its standard error
    part_k     gain_k - `probe_margin`, held in [0, 1]: what chance may have given counts little

The probes are the first steps of the trial and are dropped; the body then begins again, with the end task at lambda_e
and the objectives at (1 - lambda_e) min(1, sum_k part_k), shared by their parts, or alone if all are 0. A gradient of
few rows says little of what an objective teaches, and less the longer the training has gone; what it has taught from
the same beginning, each row scored by a head that has not seen it, says more, for the price of those steps. A probe
is not kept, so its rate may be higher than any training's, and its steps fewer. One probe an objective: for spaces of
tens of objectives, not of hundreds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.branch_merging import Branch, BranchWeighting, MetaDev
from raysearch.objectives.objective import Objective


class Probes(BranchWeighting):
    """One round that looks; then weights that stay."""

    settings: s.ProbesSettings
    logged_quantity = "gain"

    def __init__(self, objectives: tuple[Objective, ...], settings: s.ProbesSettings) -> None:
        super().__init__(objectives, settings)
        self.has_probed = False
        self._share(torch.ones(len(objectives), dtype=torch.float64))

    @property
    def is_finished(self) -> bool:
        """After the one round."""
        return self.has_probed

    @property
    def logged_branches(self) -> list[str]:
        """The objectives."""
        return self.task_names[1:]

    def branches(self) -> list[Branch]:
        """Every objective alone."""
        pairs = zip(self.task_names[1:], self.tasks[1:], strict=True)
        return [Branch(name, {task: 1.0}, rate=self.settings.probe_rate, has_own_schedule=True) for name, task in pairs]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """None of them; the weights are settled."""
        alphas = torch.zeros(len(branches), dtype=torch.float64)
        before = dev.leave_one_out_errors(alphas)
        gained = torch.stack(
            [before - dev.leave_one_out_errors(alone) for alone in torch.eye(len(branches), dtype=torch.float64)]
        )
        error = gained.std(dim=1, correction=0) / max(gained.shape[1] - 1, 1) ** 0.5
        gains = gained.mean(dim=1) / error.clamp_min(1e-12)
        self._share((gains - self.settings.probe_margin).clamp(0, 1))
        self._log_values(branches, gains)
        self.has_probed = True
        return alphas

    def _share(self, parts: Tensor) -> None:
        lambda_e = self.settings.lambda_e
        self.w[0] = lambda_e if parts.any() else 1.0
        self.w[1:] = (1 - lambda_e) * parts / max(1.0, float(parts.sum()))

    def sample(self, generator: torch.Generator) -> list[int]:
        """Those that take part."""
        del generator
        return [k for k, w in enumerate(self.w[1:].tolist()) if w > 0]

    def state(self) -> dict[str, Any]:
        """The weights, and whether the round has been."""
        return super().state() | {"looked": self.has_probed}

    def load(self, state: dict[str, Any]) -> None:
        """Take both back."""
        super().load(state)
        self.has_probed = state["looked"]
