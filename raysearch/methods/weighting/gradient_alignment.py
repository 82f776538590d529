"""Weightings that follow which auxiliary gradients agree with the end task's: OL-AUX, DGA, AuxiNash.

    g_E, g_k    the step's training gradients in the body, (D,)
    v           the gradient of meta-dev's loss through the end task's own head, (D,)
OL-AUX    Lin et al. (NeurIPS 2019), https://papers.nips.cc/paper/2019/hash/0e900ad84f63618452210ab8baae0218-Abstract.html
DGA       Fan, Grangier & Ablin (2024), https://arxiv.org/abs/2410.02498
DoGE      Fan, Pagliardini & Jaggi (ICML 2024), https://arxiv.org/abs/2310.15393
AuxiNash  Shamsian et al. (ICML 2023), https://arxiv.org/abs/2301.13501
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting, coefficients_of
from raysearch.methods.weighting.loss_balancing import TaskWeighting
from raysearch.objectives.objective import Objective

MOMENTUM = 0.9  # of AuxiNash's preferences, as in the authors' code
LEAST = 1e-3  # of AuxiNash's preferences: a task of none would take no part in the bargain
RIDGE = 1e-9  # keeps a bargain finite where gradients cancel


class OlAux(Weighting):
    """OL-AUX: the end task's weight is fixed; every N steps w_k += beta (g_k g_E summed over these N steps).

    Weights begin as `static` has them, u_k = 1, and stay >= 0 (ours). Similarities are cosines, or products as printed.
    """

    settings: s.OlAuxSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.OlAuxSettings) -> None:
        super().__init__(objectives, settings)
        self.u = torch.ones(len(objectives), dtype=torch.float64)
        self.gained = torch.zeros_like(self.u)
        self.steps = 0

    def required_gradients(self, step: int) -> GradientQuery:
        """Similarities to the end task's training gradient, at every step."""
        del step
        return GradientQuery(compare="end_task", normalise=self.settings.similarity == "cosine")

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """lambda_e against (1 - lambda_e) u_k / n."""
        lambda_e = self.settings.lambda_e
        return coefficients_of(lambda_e, (1 - lambda_e) * self.u[sampled] / max(1, len(self.u)))

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Add to the N steps, and move where they end."""
        assert observation.similarities is not None
        self.gained[sampled] += observation.similarities.objectives
        self.steps += 1
        if self.steps == self.settings.ol_aux_steps:
            self.u = (self.u + self.settings.lr_ol_aux * self.gained).clamp_min(0.0)
            self.gained, self.steps = torch.zeros_like(self.u), 0

    def state(self) -> dict[str, Any]:
        """Weights, and what has been gained since they moved."""
        return {"u": self.u, "gained": self.gained.clone(), "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.u, self.gained, self.steps = state["u"], state["gained"].clone(), state["steps"]


class DGA(Weighting):
    """Dynamic gradient alignment: alpha_k grows by exp(eta v g_k); the step's weights are its moving average.

    The end task keeps lambda_e (in the paper it is not trained on). A moving average of 1 keeps nothing: then the
    update is that of DoGE with the end task as its target.
    """

    settings: s.DGASettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.DGASettings) -> None:
        super().__init__(objectives, settings)
        self.log_alpha = torch.zeros(len(objectives), dtype=torch.float64)
        self.average = torch.softmax(self.log_alpha, dim=0)

    def required_gradients(self, step: int) -> GradientQuery:
        """Similarities to the dev gradient through the own head, every `dga_every` steps."""
        if step % self.settings.dga_every:
            return GradientQuery()
        return GradientQuery(compare="own_head", normalise=self.settings.similarity == "cosine")

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """lambda_e against the moving average."""
        lambda_e = self.settings.lambda_e
        return coefficients_of(lambda_e, (1 - lambda_e) * self.average[sampled])

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """The exponentiated gradient, then the moving average."""
        if observation.similarities is None:
            return
        self.log_alpha[sampled] += self.settings.lr_dga * observation.similarities.objectives
        keep = 1 - self.settings.dga_ema
        self.average = keep * self.average + self.settings.dga_ema * torch.softmax(self.log_alpha, dim=0)

    def state(self) -> dict[str, Any]:
        """The logarithms of alpha and the moving average."""
        return {"log_alpha": self.log_alpha.clone(), "average": self.average}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.log_alpha, self.average = state["log_alpha"].clone(), state["average"]


class AuxiNash(TaskWeighting):
    """AuxiNash: the bargain of all tasks' gradients under preferences p that meta-dev's loss teaches.

    A step's weights alpha solve G alpha = p / alpha, G (K, K) the Gramian of its own gradients. Every so many steps p
    descends on meta-dev's loss: its hypergradient is (dL/dalpha)(dalpha/dp), where dalpha/dp = (G + A)^-1 B with
    A = diag(p / alpha^2) and B = diag(1 / alpha), as in the authors' code. dL/dalpha_k is that of one step, -v g_k;
    the authors add three terms of a Neumann series, which want second derivatives and are left out. The products with
    v enter as a unit vector, the hypergradient is clipped to norm 1, and p is brought back to the simplex.
    """

    settings: s.AuxiNashSettings
    weights_from_current_step = True

    def __init__(self, objectives: tuple[Objective, ...], settings: s.AuxiNashSettings) -> None:
        super().__init__(objectives, settings)
        self.p = torch.full((self.task_count,), 1 / self.task_count, dtype=torch.float64)
        self.momentum = torch.zeros_like(self.p)
        self.alpha = self.p.clone()

    def required_gradients(self, step: int) -> GradientQuery:
        """The Gramian at every step; products with v every `preference_every`."""
        due = step % self.settings.preference_every == 0
        return GradientQuery(compare="own_head" if due else "", gradients="products")

    def task_weights(self) -> Tensor:
        """The last bargain."""
        return self.alpha

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Move p, where there is something to move it by, and settle the step's bargain."""
        del sampled
        assert observation.gramian is not None
        norms = observation.gramian.diagonal().sqrt()
        there = norms > 0  # a gradient of zero has no part in a bargain
        C = (observation.gramian / norms / norms[:, None])[there][:, there]
        if observation.similarities is not None:
            along = torch.cat(
                [norms.new_tensor([observation.similarities.end_task]), observation.similarities.objectives]
            )
            along = along[there] / norms[there]
            gradient = torch.zeros_like(self.p)
            gradient[there] = hypergradient(C, self.p[there], along / along.norm().clamp_min(1e-30))
            gradient /= max(1.0, float(gradient.norm()))
            self.momentum = MOMENTUM * self.momentum + gradient
            moved = (self.p - self.settings.lr_preference * self.momentum).clamp_min(LEAST)
            self.p = moved / moved.sum()
        self.alpha = torch.zeros_like(self.p)
        self.alpha[there] = bargain(C, self.p[there]) / norms[there]

    def state(self) -> dict[str, Any]:
        """Preferences, their momentum and the last bargain."""
        return {"p": self.p, "momentum": self.momentum, "alpha": self.alpha.clone()}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.p, self.momentum, self.alpha = state["p"], state["momentum"], state["alpha"].clone()


def bargain(G: Tensor, p: Tensor) -> Tensor:
    """The alpha > 0 (K,) with G alpha = p / alpha: the least of alpha G alpha / 2 - p log alpha, by Newton's method."""
    G = G + RIDGE * torch.eye(len(p), dtype=G.dtype)

    def value(alpha: Tensor) -> Tensor:
        return alpha @ G @ alpha / 2 - p @ torch.log(alpha)

    alpha = p.sqrt()  # the solution where gradients are orthonormal
    for _ in range(200):
        slope = G @ alpha - p / alpha
        if (slope * alpha).abs().max() < 1e-12:
            break
        step = torch.linalg.solve(G + torch.diag(p / alpha**2), -slope)
        size = 1.0
        while size > 1e-12 and ((alpha + size * step).min() <= 0 or value(alpha + size * step) > value(alpha)):
            size /= 2
        alpha = alpha + size * step if size > 1e-12 else alpha
        if size <= 1e-12:
            break
    return alpha


def hypergradient(G: Tensor, p: Tensor, along: Tensor) -> Tensor:
    """d/dp (K,) of the loss that falls by `along` (K,) for each unit of alpha."""
    alpha = bargain(G, p)
    dalpha_dp = torch.linalg.solve(G + torch.diag(p / alpha**2), torch.diag(1 / alpha))
    gradient: Tensor = -along @ dalpha_dp
    return gradient
