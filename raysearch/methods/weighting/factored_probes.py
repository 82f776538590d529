"""Factored probes: short trainings on a few objectives say which of hundreds to train on. raysearch's own.

    e_0, e_k (n,)  squared leave-one-out errors before and after a training on objective k alone, as in `probes`
    y_k            log(mean e_0 / mean e_k), the effect of objective k; its variance follows by linearisation of the
                   logarithm. Errors of different probes count as independent: their covariance, estimated from the n
                   examples that they share, made the model worse on planted data
    z_k            mean over standard deviation of objective k's effect, by the factored model of `effects`
    s_k            z_k - `probe_margin`, clipped to [0, 1]

Probes are made in rounds, each of the objectives that may yet be the best: those with the largest mean plus
`probe_reach` standard deviations. The first round spreads over the primitives. So objectives race without being tried
one by one, and the price does not grow with their number. The `probe_keep` objectives with the largest effects of all
with s_k > 0 then take part, in proportion to s_k; weights are as in `probes`. If no objective has s_k > 0, the end task
is trained alone.

With `probe_every` the body is probed again during the training, as in Aioli (Chen et al., ICLR 2025,
https://arxiv.org/abs/2411.05735), which measures by short trainings on mixtures what each group of data does to the
loss, and follows the measurements. Then a probe continues the training with its objective and is compared with one that
continues with the end task alone, on meta-dev's examples only: those of train are known to the body by then. Where
Aioli fits a matrix of all groups' effects and steps along it, here the effects are measured again each time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting.base import END_TASK
from raysearch.methods.weighting.branch_merging import Branch, BranchWeighting, MetaDev
from raysearch.methods.weighting.effects import EffectModel, Effects
from raysearch.methods.weighting.settings import FactoredProbesSettings
from raysearch.objectives.objective import Objective


class FactoredProbes(BranchWeighting):
    """Rounds of probes, then fixed weights until the next rounds, if there are any."""

    settings: FactoredProbesSettings
    logged_quantity = "gain"
    rests_idle_heads = True

    def __init__(self, objectives: tuple[Objective, ...], settings: FactoredProbesSettings) -> None:
        super().__init__(objectives, settings)
        self.model = EffectModel(objectives)
        self.rounds = 0  # of the current or last measurement
        self.is_measuring = True
        self.has_measured = False  # at least once
        self.steps_since = 0  # ordinary steps since the last measurement
        self.measured: list[int] = []  # of the current or last measurement
        self.effects_by_example: list[Tensor] = []  # (n,) of each probe; their means are y
        self.effects: Effects | None = None
        self._set_weights(torch.ones(len(objectives), dtype=torch.float64))

    @property
    def is_finished(self) -> bool:
        """Whether ordinary steps come next."""
        return not self.is_measuring

    @property
    def may_skip_rounds(self) -> bool:
        """Whether the training goes on by ordinary steps where there is no room for a round: after the first ones."""
        return self.has_measured

    def count_step(self) -> None:
        """Counts an ordinary step; after `probe_every` of them the next measurement begins."""
        self.steps_since += 1
        if self.settings.probe_every and self.steps_since >= self.settings.probe_every:
            self.is_measuring, self.rounds, self.measured, self.effects_by_example = True, 0, [], []

    @property
    def logged_branches(self) -> list[str]:
        """The objectives."""
        return self.task_names[1:]

    def branches(self) -> list[Branch]:
        """Returns the probes of the next round; in later measurements the end task alone comes first."""
        settings = self.settings
        effects = self.effects if self.measured else None
        chosen = self.model.next_objectives(settings.probes_per_round, effects, self.measured, settings.probe_reach)
        if not self.has_measured:
            rate = settings.probe_rate
            return [Branch(self.task_names[1 + k], {k: 1.0}, rate=rate, has_own_schedule=True) for k in chosen]
        shares = {END_TASK: settings.lambda_e}
        probes = [Branch(self.task_names[1 + k], shares | {k: 1 - settings.lambda_e}) for k in chosen]
        return [Branch("end_task", {END_TASK: 1.0}), *probes]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Returns 0 for all branches; estimates the effects, and after the last round sets the weights by them."""
        alphas, one_branch_each = torch.zeros(len(branches), dtype=torch.float64), torch.eye(len(branches))
        errors = [dev.leave_one_out_errors(alone.double(), held_out=self.has_measured) for alone in one_branch_each]
        reference = errors.pop(0) if self.has_measured else dev.leave_one_out_errors(alphas)
        probes = branches[1:] if self.has_measured else branches
        for branch, after in zip(probes, errors, strict=True):
            self.measured.append(max(branch.factors))
            self.effects_by_example.append(log_decreases(reference, after))
        by_example = torch.stack(self.effects_by_example)
        S = torch.diag(by_example.var(dim=1) / by_example.shape[1])
        self.effects = self.model.estimate(self.measured, by_example.mean(dim=1), S)
        self._log_values(probes, self.effects.z[[max(branch.factors) for branch in probes]])
        self.rounds += 1
        if self.rounds >= self.settings.probe_rounds or len(set(self.measured)) == len(self.objectives):
            self._set_weights(self._shares(self.effects))
            self.is_measuring, self.has_measured, self.steps_since = False, True, 0
        return alphas

    def _shares(self, effects: Effects) -> Tensor:
        """Returns s (N,), 0 for all but the `probe_keep` largest effects of those above the margin."""
        shares = (effects.z - self.settings.probe_margin).clamp(0, 1)
        if (keep := self.settings.probe_keep) and keep < len(shares):
            ranked = torch.where(shares > 0, effects.mean, -torch.inf).argsort(descending=True, stable=True)
            shares[ranked[keep:]] = 0.0
        return shares

    def _set_weights(self, shares: Tensor) -> None:
        lambda_e = self.settings.lambda_e
        self.w[0] = lambda_e if shares.any() else 1.0
        self.w[1:] = (1 - lambda_e) * shares / max(1.0, float(shares.sum()))

    def sample(self, generator: torch.Generator) -> list[int]:
        """Returns the objectives with a positive weight."""
        del generator
        return [k for k, w in enumerate(self.w[1:].tolist()) if w > 0]

    def signal(self) -> tuple[Tensor, Tensor] | None:
        """Returns the effects of all objectives and their standard deviations."""
        return (self.effects.mean, self.effects.std) if self.effects is not None else None

    def state(self) -> dict[str, Any]:
        """Returns the weights, the measurements so far, and where in them the training is."""
        effects = None if self.effects is None else [self.effects.mean, self.effects.std]
        return super().state() | {
            "rounds": self.rounds,
            "measuring": self.is_measuring,
            "has_measured": self.has_measured,
            "steps_since": self.steps_since,
            "measured": self.measured,
            "by_example": self.effects_by_example,
            "effects": effects,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        super().load(state)
        self.rounds, self.is_measuring, self.has_measured = state["rounds"], state["measuring"], state["has_measured"]
        self.steps_since, self.measured = state["steps_since"], list(state["measured"])
        self.effects_by_example = [each.cpu() for each in state["by_example"]]
        effects = state["effects"]
        self.effects = None if effects is None else Effects(effects[0].cpu(), effects[1].cpu())


def log_decreases(before: Tensor, after: Tensor) -> Tensor:
    """Returns numbers (n,) whose mean is log(mean `before` / mean `after`), and whose variance is n times its variance.

    By linearisation: example i has log(b / a) + (before_i / b - 1) - (after_i / a - 1), with the means b and a.
    """
    tiny = torch.finfo(before.dtype).tiny
    b, a = before.mean().clamp_min(tiny), after.mean().clamp_min(tiny)
    return (b / a).log() + (before / b - 1) - (after / a - 1)
