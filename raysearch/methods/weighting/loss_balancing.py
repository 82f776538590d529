"""Weightings that balance all tasks of a step by their losses, by the norms of their gradients, or by chance.

    L_k       loss of task k, nat; task 0 is the end task, K tasks in all
    w_k       weight of task k; what a step is given sums to 1 (papers that have it sum to K differ by a constant)
Uncertainty weighting  Kendall, Gal & Cipolla (CVPR 2018), https://arxiv.org/abs/1705.07115
DWA                    Liu, Johns & Davison (CVPR 2019), https://arxiv.org/abs/1803.10704
GradNorm               Chen et al. (ICML 2018), https://arxiv.org/abs/1711.02257
FAMO                   Liu et al. (NeurIPS 2023), https://arxiv.org/abs/2306.03792
RLW                    Lin et al. (TMLR 2022), https://arxiv.org/abs/2111.10603

None of them prefers the end task. TorchJD has uncertainty weighting, DWA, FAMO and RLW as modules that keep their past
where no checkpoint finds it; they are written out here, and held against TorchJD's in the tests.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting, coefficients_of
from raysearch.objectives.objective import Objective

TINY = 1e-8  # FAMO's, under logarithms
LEAST = 1e-3  # of GradNorm's weights, which sum to K: its steps may lead below zero


class TaskWeighting(Weighting):
    """One weight for every task, the end task's first."""

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        super().__init__(objectives, settings)
        self.task_count = len(objectives) + 1

    @abstractmethod
    def task_weights(self) -> Tensor:
        """Weights (K,) in any scale, not negative."""

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The weights of the end task and the sampled objectives, brought to sum 1."""
        weights = self.task_weights()
        return coefficients_of(float(weights[0]), weights[task_indices(sampled)[1:]])


def task_indices(sampled: list[int]) -> Tensor:
    """Numbers of the tasks of a step: the end task, then the sampled objectives."""
    return torch.tensor([0, *(number + 1 for number in sampled)])


class Uncertainty(TaskWeighting):
    """Uncertainty weighting: L = sum_k exp(-s_k) L_k + s_k, its form for cross-entropy, with s_k = log sigma_k^2.

    The gradient in s_k is 1 - exp(-s_k) L_k, so s_k seeks log L_k; s_k moves by SGD at a rate of its own. (The paper
    has exp(-s_k) L_k + s_k / 2 for cross-entropy: half of this, with s_k less log 2.)
    """

    settings: s.UncertaintySettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.UncertaintySettings) -> None:
        super().__init__(objectives, settings)
        self.log_variances = torch.zeros(self.task_count, dtype=torch.float64)

    def task_weights(self) -> Tensor:
        """exp(-s)."""
        return torch.exp(-self.log_variances)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """s_k -= rate (1 - exp(-s_k) L_k)."""
        rows = task_indices(sampled)
        step = 1 - torch.exp(-self.log_variances[rows]) * observation.losses
        self.log_variances[rows] -= self.settings.lr_uncertainty * step

    def state(self) -> dict[str, Any]:
        """The log-variances."""
        return {"log_variances": self.log_variances}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.log_variances = state["log_variances"].clone()


class DWA(TaskWeighting):
    """Dynamic weight average: w = softmax(r / T) with r_k the ratio of task k's mean losses in the last two windows.

    The paper's windows are epochs; here so many steps that learned. Until two are over, weights are equal.
    """

    settings: s.DWASettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.DWASettings) -> None:
        super().__init__(objectives, settings)
        self.total = torch.zeros(self.task_count, dtype=torch.float64)  # of the losses in the window so far
        self.steps = 0  # in the window so far
        self.means: list[Tensor] = []  # of the last two windows, the older first

    def task_weights(self) -> Tensor:
        """The softmax of the ratios."""
        if len(self.means) < 2:
            return torch.ones(self.task_count, dtype=torch.float64)
        older, newer = self.means
        return torch.softmax(newer / older.clamp_min(TINY) / self.settings.dwa_temperature, dim=0)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Add to the window, and begin another where it ends."""
        del sampled
        self.total, self.steps = self.total + observation.losses, self.steps + 1
        if self.steps == self.settings.dwa_window:
            self.means = [*self.means, self.total / self.steps][-2:]
            self.total, self.steps = torch.zeros_like(self.total), 0

    def state(self) -> dict[str, Any]:
        """The window so far and the last two."""
        return {"total": self.total, "steps": self.steps, "means": list(self.means)}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.total, self.steps, self.means = state["total"], state["steps"], list(state["means"])


class GradNorm(TaskWeighting):
    """GradNorm: weights that lead to norms |w_k g_k| in proportion to (relative inverse training rate)^alpha.

    With G_k = |w_k g_k|, G their mean and r_k = (L_k / L_k(0)) over its mean, the weights descend on
    sum_k |G_k - G r_k^alpha|, G r_k^alpha held constant, and are brought back to sum K. L_k(0) is the first step's
    loss. g_k is the gradient of the whole body (the paper's, of the last shared layer).
    """

    settings: s.GradNormSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.GradNormSettings) -> None:
        super().__init__(objectives, settings)
        self.w = torch.ones(self.task_count, dtype=torch.float64)
        self.first: Tensor | None = None  # L_k(0)

    def required_gradients(self, step: int) -> GradientQuery:
        """Norms, at every step."""
        del step
        return GradientQuery(gradients="norms")

    def task_weights(self) -> Tensor:
        """They are the state."""
        return self.w

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """One step of descent, then sum K again."""
        del sampled
        assert observation.gramian is not None
        if self.first is None:
            self.first = observation.losses.clone()
        norms = observation.gramian.diagonal().sqrt()
        ratios = observation.losses / self.first.clamp_min(TINY)
        target = (self.w * norms).mean() * (ratios / ratios.mean()) ** self.settings.gradnorm_alpha
        w = self.w - self.settings.lr_gradnorm * torch.sign(self.w * norms - target) * norms
        w = w.clamp_min(LEAST)
        self.w = w * (self.task_count / w.sum())

    def state(self) -> dict[str, Any]:
        """Weights and first losses."""
        return {"w": self.w, "first": self.first}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.w, self.first = state["w"], state["first"]


class FAMO(TaskWeighting):
    """FAMO: weights under which the logarithms of all losses fall alike, from the losses alone.

    A step descends on c sum_k z_k log L_k with z = softmax(xi): w_k is z_k / L_k of the step's own losses, and c brings
    the weights to sum 1. After the update the losses of the same rows are looked at again, and Adam moves xi by
    the gradient of sum_k z_k (log L_k(before) - log L_k(after)), with weight decay (Algorithm 2).
    """

    settings: s.FAMOSettings
    weights_from_current_step = True
    needs_losses_after_update = True

    def __init__(self, objectives: tuple[Objective, ...], settings: s.FAMOSettings) -> None:
        super().__init__(objectives, settings)
        self.xi = torch.zeros(self.task_count, dtype=torch.float64)
        self.before = torch.ones(self.task_count, dtype=torch.float64)  # losses, of the last step
        self.adam = self._adam()

    def _adam(self) -> torch.optim.Adam:
        return torch.optim.Adam([self.xi], lr=self.settings.lr_famo, weight_decay=self.settings.famo_decay)

    def task_weights(self) -> Tensor:
        """The softmax over the losses."""
        return torch.softmax(self.xi, dim=0) / (self.before + TINY)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """What the step's own losses make of its weights."""
        del sampled
        self.before = observation.losses.clone()

    def observe_after_update(self, sampled: list[int], losses: Tensor) -> None:
        """One step of Adam; the softmax's Jacobian times delta is z (delta - z delta)."""
        del sampled
        z = torch.softmax(self.xi, dim=0)
        delta = torch.log(self.before + TINY) - torch.log(losses + TINY)
        self.xi.grad = z * (delta - z @ delta)
        self.adam.step()

    def state(self) -> dict[str, Any]:
        """The logits, their optimizer and the last losses."""
        return {"xi": self.xi.clone(), "adam": self.adam.state_dict(), "before": self.before}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.xi, self.before = state["xi"].clone(), state["before"]
        self.adam = self._adam()
        self.adam.load_state_dict(state["adam"])


class RLW(TaskWeighting):
    """Random loss weighting: a softmax of Gaussians, drawn anew at each step."""

    settings: s.RLWSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.RLWSettings) -> None:
        super().__init__(objectives, settings)
        self.drawn = torch.zeros(self.task_count, dtype=torch.float64)

    def sample(self, generator: Generator) -> list[int]:
        """The objectives, and weights for all."""
        self.drawn = torch.randn(self.task_count, generator=generator, dtype=torch.float64)
        return super().sample(generator)

    def task_weights(self) -> Tensor:
        """The softmax of what was drawn."""
        return torch.softmax(self.drawn, dim=0)

    def state(self) -> dict[str, Any]:
        """What was drawn last."""
        return {"drawn": self.drawn}

    def load(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.drawn = state["drawn"]
