"""Weightings that balance all tasks of a step by their losses, by the norms of their gradients, or at random.

    L_k       loss of task k, nat; task 0 is the end task, K tasks in all
    g_k       gradient of L_k in the body, (D,)
    w_k       weight of task k; the weights of a step sum to 1 (where a paper has sum K, a constant factor differs)
Uncertainty weighting  Kendall, Gal & Cipolla (CVPR 2018), https://arxiv.org/abs/1705.07115
DWA                    Liu, Johns & Davison (CVPR 2019), https://arxiv.org/abs/1803.10704
GradNorm               Chen et al. (ICML 2018), https://arxiv.org/abs/1711.02257
FAMO                   Liu et al. (NeurIPS 2023), https://arxiv.org/abs/2306.03792
RLW                    Lin et al. (TMLR 2022), https://arxiv.org/abs/2111.10603

None of them prefers the end task. TorchJD has uncertainty weighting, DWA, FAMO and RLW as modules whose state is not in
a state dict, so a checkpoint would lose it. They are implemented here, and tests compare them with TorchJD's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting, coefficients_of
from raysearch.methods.weighting.settings import (
    DWASettings,
    FAMOSettings,
    GradNormSettings,
    RLWSettings,
    UncertaintySettings,
)
from raysearch.objectives.objective import Objective

EPSILON = 1e-8  # FAMO's, added to losses under a logarithm; also the smallest loss that is divided by
MIN_WEIGHT = 1e-3  # of a task in GradNorm, where weights sum to K: its steps may lead below zero


class TaskWeighting(Weighting):
    """A weighting with one weight per task, the end task first."""

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        super().__init__(objectives, settings)
        self.task_count = len(objectives) + 1  # K

    @abstractmethod
    def task_weights(self) -> Tensor:
        """Returns the weights (K,) in any scale, not negative."""

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns the weights of the end task and the sampled objectives, normalised to sum to 1."""
        weights = self.task_weights()
        return coefficients_of(float(weights[0]), weights[task_indices(sampled)[1:]])


def task_indices(sampled: list[int]) -> Tensor:
    """Returns the numbers of a step's tasks: 0 for the end task, then k + 1 for each sampled objective k."""
    return torch.tensor([0, *(number + 1 for number in sampled)])


class Uncertainty(TaskWeighting):
    """Uncertainty weighting: w_k = exp(-s_k), where s_k = log sigma_k^2 descends on sum_k exp(-s_k) L_k + s_k.

    This is the paper's form for cross-entropy. The gradient in s_k is 1 - exp(-s_k) L_k, so s_k approaches log L_k; it
    is updated by SGD with a rate of its own. (The paper writes exp(-s_k) L_k + s_k / 2 for cross-entropy, which is half
    of this with s_k shifted by log 2.)
    """

    settings: UncertaintySettings

    def __init__(self, objectives: tuple[Objective, ...], settings: UncertaintySettings) -> None:
        super().__init__(objectives, settings)
        self.log_variances = torch.zeros(self.task_count, dtype=torch.float64)  # s

    def task_weights(self) -> Tensor:
        """Returns exp(-s), (K,)."""
        return torch.exp(-self.log_variances)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Updates s_k <- s_k - rate (1 - exp(-s_k) L_k) for the tasks of the step."""
        tasks = task_indices(sampled)
        gradient = 1 - torch.exp(-self.log_variances[tasks]) * observation.losses
        self.log_variances[tasks] -= self.settings.lr_uncertainty * gradient

    def state(self) -> dict[str, Any]:
        """Returns the log-variances."""
        return {"log_variances": self.log_variances}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the log-variances."""
        self.log_variances = state["log_variances"].clone()


class DWA(TaskWeighting):
    """Dynamic weight average: w = softmax(r / T), with r_k the ratio of task k's mean losses in the last two windows.

    A window is a number of steps with auxiliaries; the paper's is an epoch. The weights are equal until two windows
    are complete.
    """

    settings: DWASettings

    def __init__(self, objectives: tuple[Objective, ...], settings: DWASettings) -> None:
        super().__init__(objectives, settings)
        self.total = torch.zeros(self.task_count, dtype=torch.float64)  # of the losses in the current window
        self.steps = 0  # in the current window
        self.means: list[Tensor] = []  # of the last two windows, the older first

    def task_weights(self) -> Tensor:
        """Returns softmax(r / T), (K,)."""
        if len(self.means) < 2:
            return torch.ones(self.task_count, dtype=torch.float64)
        older, newer = self.means
        return torch.softmax(newer / older.clamp_min(EPSILON) / self.settings.dwa_temperature, dim=0)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Adds the losses to the current window, and starts a new window when it is complete."""
        del sampled
        self.total, self.steps = self.total + observation.losses, self.steps + 1
        if self.steps == self.settings.dwa_window:
            self.means = [*self.means, self.total / self.steps][-2:]
            self.total, self.steps = torch.zeros_like(self.total), 0

    def state(self) -> dict[str, Any]:
        """Returns the current window and the means of the last two."""
        return {"total": self.total, "steps": self.steps, "means": list(self.means)}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the current window and the means of the last two."""
        self.total, self.steps, self.means = state["total"], state["steps"], list(state["means"])


class GradNorm(TaskWeighting):
    """GradNorm: gradient norms |w_k g_k| in proportion to (relative inverse training rate)^alpha.

    With G_k = |w_k g_k|, G their mean and r_k = (L_k / L_k(0)) over its mean, the weights descend on
    sum_k |G_k - G r_k^alpha|, where G r_k^alpha is constant, and are then normalised to sum K. L_k(0) is the loss of
    the first step. g_k is the gradient in the whole body; the paper's is in the last shared layer.
    """

    settings: GradNormSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: GradNormSettings) -> None:
        super().__init__(objectives, settings)
        self.w = torch.ones(self.task_count, dtype=torch.float64)
        self.initial_losses: Tensor | None = None  # L(0)

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests the gradient norms at every step."""
        del step
        return GradientQuery(gradients="norms")

    def task_weights(self) -> Tensor:
        """Returns w, (K,)."""
        return self.w

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Takes one step of gradient descent and normalises the weights to sum K."""
        del sampled
        assert observation.gramian is not None
        if self.initial_losses is None:
            self.initial_losses = observation.losses.clone()
        norms = observation.gramian.diagonal().sqrt()
        ratios = observation.losses / self.initial_losses.clamp_min(EPSILON)
        target = (self.w * norms).mean() * (ratios / ratios.mean()) ** self.settings.gradnorm_alpha
        w = self.w - self.settings.lr_gradnorm * torch.sign(self.w * norms - target) * norms
        w = w.clamp_min(MIN_WEIGHT)
        self.w = w * (self.task_count / w.sum())

    def state(self) -> dict[str, Any]:
        """Returns the weights and the initial losses."""
        return {"w": self.w, "first": self.initial_losses}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the weights and the initial losses."""
        self.w, self.initial_losses = state["w"], state["first"]


class FAMO(TaskWeighting):
    """FAMO: weights under which the logarithms of all losses decrease at one rate, computed from losses alone.

    A step descends on c sum_k z_k log L_k with z = softmax(xi): w_k is z_k / L_k with the current step's own losses,
    and c normalises the weights to sum 1. After the update the losses on the same batch are computed again, and Adam
    updates xi by the gradient of sum_k z_k (log L_k(before) - log L_k(after)), with weight decay (Algorithm 2).
    """

    settings: FAMOSettings
    weights_from_current_step = True
    needs_losses_after_update = True

    def __init__(self, objectives: tuple[Objective, ...], settings: FAMOSettings) -> None:
        super().__init__(objectives, settings)
        self.xi = torch.zeros(self.task_count, dtype=torch.float64)
        self.losses_before = torch.ones(self.task_count, dtype=torch.float64)  # of the last step, before its update
        self.adam = self._make_adam()

    def _make_adam(self) -> torch.optim.Adam:
        return torch.optim.Adam([self.xi], lr=self.settings.lr_famo, weight_decay=self.settings.famo_decay)

    def task_weights(self) -> Tensor:
        """Returns z / L, (K,)."""
        return torch.softmax(self.xi, dim=0) / (self.losses_before + EPSILON)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Stores the step's losses, which its weights are computed from."""
        del sampled
        self.losses_before = observation.losses.clone()

    def observe_after_update(self, sampled: list[int], losses: Tensor) -> None:
        """Takes one step of Adam on xi; the softmax's Jacobian times delta is z (delta - z delta)."""
        del sampled
        z = torch.softmax(self.xi, dim=0)
        delta = torch.log(self.losses_before + EPSILON) - torch.log(losses + EPSILON)
        self.xi.grad = z * (delta - z @ delta)
        self.adam.step()

    def state(self) -> dict[str, Any]:
        """Returns xi, its optimizer's state and the last losses."""
        return {"xi": self.xi.clone(), "adam": self.adam.state_dict(), "before": self.losses_before}

    def load(self, state: dict[str, Any]) -> None:
        """Restores xi, its optimizer and the last losses."""
        self.xi, self.losses_before = state["xi"].clone(), state["before"]
        self.adam = self._make_adam()
        self.adam.load_state_dict(state["adam"])


class RLW(TaskWeighting):
    """Random loss weighting: w = softmax of Gaussian numbers, drawn at each step."""

    settings: RLWSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: RLWSettings) -> None:
        super().__init__(objectives, settings)
        self.logits = torch.zeros(self.task_count, dtype=torch.float64)

    def sample(self, generator: Generator) -> list[int]:
        """Draws the logits of all tasks, then the objectives of the step."""
        self.logits = torch.randn(self.task_count, generator=generator, dtype=torch.float64)
        return super().sample(generator)

    def task_weights(self) -> Tensor:
        """Returns the softmax of the logits, (K,)."""
        return torch.softmax(self.logits, dim=0)

    def state(self) -> dict[str, Any]:
        """Returns the last logits."""
        return {"drawn": self.logits}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the last logits."""
        self.logits = state["drawn"]
