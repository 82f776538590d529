"""Weightings by the agreement of auxiliary gradients with the end task's: OL-AUX, DGA, AuxiNash.

    g_E, g_k    the step's training gradients in the body, of the end task and of objective k, (D,)
    v           the gradient of meta-dev's loss through the end task's own head, (D,)
    K           tasks, the end task first
OL-AUX    Lin et al. (NeurIPS 2019), https://papers.nips.cc/paper/2019/hash/0e900ad84f63618452210ab8baae0218-Abstract.html
DGA       Fan, Grangier & Ablin (2024), https://arxiv.org/abs/2410.02498
DoGE      Fan, Pagliardini & Jaggi (ICML 2024), https://arxiv.org/abs/2310.15393
AuxiNash  Shamsian et al. (ICML 2023), https://arxiv.org/abs/2301.13501
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting, coefficients_of
from raysearch.methods.weighting.loss_balancing import TaskWeighting
from raysearch.methods.weighting.settings import AuxiNashSettings, DGASettings, OlAuxSettings
from raysearch.objectives.objective import Objective

MOMENTUM = 0.9  # of AuxiNash's preferences, as in the authors' code
MIN_PREFERENCE = 1e-3  # of AuxiNash: a task with preference 0 would have no part in the bargain
RIDGE = 1e-9  # added to G's diagonal, so that a bargain is finite where gradients cancel


class OlAux(Weighting):
    """OL-AUX: every N steps u_k <- max(0, u_k + beta sum of sim(g_k, g_E) over these steps).

    The update is lambda_e g_E + (1 - lambda_e) sum_k (u_k / n) g_k for n objectives, normalised to weights of sum 1. At
    first u_k = 1, as in `static`; that u_k stays >= 0 is ours. Similarities are cosines, or inner products as printed.
    """

    settings: OlAuxSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: OlAuxSettings) -> None:
        super().__init__(objectives, settings)
        self.u = torch.ones(len(objectives), dtype=torch.float64)
        self.similarity_sum = torch.zeros_like(self.u)  # since u was last updated
        self.steps = 0  # since then

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests similarities to the end task's training gradient at every step."""
        del step
        return GradientQuery(compare="end_task", normalise=self.settings.similarity == "cosine")

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) u_k / n, normalised to sum 1."""
        lambda_e = self.settings.lambda_e
        return coefficients_of(lambda_e, (1 - lambda_e) * self.u[sampled] / max(1, len(self.u)))

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Adds the step's similarities, and updates u after N steps."""
        assert observation.similarities is not None
        self.similarity_sum[sampled] += observation.similarities.objectives
        self.steps += 1
        if self.steps == self.settings.ol_aux_steps:
            self.u = (self.u + self.settings.lr_ol_aux * self.similarity_sum).clamp_min(0.0)
            self.similarity_sum, self.steps = torch.zeros_like(self.u), 0

    def state(self) -> dict[str, Any]:
        """Returns u, and the similarities since its last update."""
        return {"u": self.u, "gained": self.similarity_sum.clone(), "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Restores u, and the similarities since its last update."""
        self.u, self.similarity_sum, self.steps = state["u"], state["gained"].clone(), state["steps"]


class DGA(Weighting):
    """Dynamic gradient alignment: alpha_k <- alpha_k exp(eta sim(g_k, v)); w is the moving average of alpha.

    The end task has weight lambda_e; in the paper it is not trained on. With a moving average of 1, w = alpha: then
    the update is that of DoGE with the end task as its target.
    """

    settings: DGASettings

    def __init__(self, objectives: tuple[Objective, ...], settings: DGASettings) -> None:
        super().__init__(objectives, settings)
        self.log_alpha = torch.zeros(len(objectives), dtype=torch.float64)  # up to a constant
        self.average = torch.softmax(self.log_alpha, dim=0)

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests similarities to the dev gradient through the end task's head, every `dga_every` steps."""
        if step % self.settings.dga_every:
            return GradientQuery()
        return GradientQuery(compare="own_head", normalise=self.settings.similarity == "cosine")

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) times the moving average, normalised to sum 1."""
        lambda_e = self.settings.lambda_e
        return coefficients_of(lambda_e, (1 - lambda_e) * self.average[sampled])

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Takes a step of exponentiated gradient, then updates the moving average."""
        if observation.similarities is None:
            return
        self.log_alpha[sampled] += self.settings.lr_dga * observation.similarities.objectives
        decay = 1 - self.settings.dga_ema
        self.average = decay * self.average + self.settings.dga_ema * torch.softmax(self.log_alpha, dim=0)

    def state(self) -> dict[str, Any]:
        """Returns the logarithms of alpha and the moving average."""
        return {"log_alpha": self.log_alpha.clone(), "average": self.average}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the logarithms of alpha and the moving average."""
        self.log_alpha, self.average = state["log_alpha"].clone(), state["average"]


class AuxiNash(TaskWeighting):
    """AuxiNash: the Nash bargain of all tasks' gradients, with preferences p learned from meta-dev's loss L.

    A step's weights alpha solve G alpha = p / alpha, with G (K, K) the Gramian of its own gradients. Every
    `preference_every` steps p descends on L. The hypergradient is (dL/dalpha)(dalpha/dp), with
    dalpha/dp = (G + A)^-1 B, A = diag(p / alpha^2) and B = diag(1 / alpha), as in the authors' code.
    dL/dalpha_k = -v g_k is that of one step; three further terms of a Neumann series need second derivatives and are
    left out. The products with v are scaled to a unit vector, the hypergradient is clipped to norm 1, and p is
    normalised to sum 1.
    """

    settings: AuxiNashSettings
    weights_from_current_step = True

    def __init__(self, objectives: tuple[Objective, ...], settings: AuxiNashSettings) -> None:
        super().__init__(objectives, settings)
        self.p = torch.full((self.task_count,), 1 / self.task_count, dtype=torch.float64)
        self.momentum = torch.zeros_like(self.p)
        self.alpha = self.p.clone()

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests the Gramian at every step, and similarities to v every `preference_every` steps."""
        due = step % self.settings.preference_every == 0
        return GradientQuery(compare="own_head" if due else "", gradients="products")

    def task_weights(self) -> Tensor:
        """Returns the last alpha, (K,)."""
        return self.alpha

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Updates p if products with v were observed, and solves the step's bargain."""
        del sampled
        assert observation.gramian is not None
        norms = observation.gramian.diagonal().sqrt()
        is_active = norms > 0  # a zero gradient has no part in the bargain
        cosines = (observation.gramian / norms / norms[:, None])[is_active][:, is_active]
        if observation.similarities is not None:
            end_task = norms.new_tensor([observation.similarities.end_task])
            products = torch.cat([end_task, observation.similarities.objectives])
            self._update_preferences(cosines, products[is_active] / norms[is_active], is_active)
        self.alpha = torch.zeros_like(self.p)
        self.alpha[is_active] = bargain(cosines, self.p[is_active]) / norms[is_active]

    def _update_preferences(self, cosines: Tensor, products: Tensor, is_active: Tensor) -> None:
        """Takes a step of SGD on p; both tensors are of the active tasks' normalised gradients."""
        gradient = torch.zeros_like(self.p)
        unit_products = products / products.norm().clamp_min(1e-30)
        gradient[is_active] = hypergradient(cosines, self.p[is_active], unit_products)
        gradient /= max(1.0, float(gradient.norm()))
        self.momentum = MOMENTUM * self.momentum + gradient
        p = (self.p - self.settings.lr_preference * self.momentum).clamp_min(MIN_PREFERENCE)
        self.p = p / p.sum()

    def state(self) -> dict[str, Any]:
        """Returns the preferences, their momentum and the last alpha."""
        return {"p": self.p, "momentum": self.momentum, "alpha": self.alpha.clone()}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the preferences, their momentum and the last alpha."""
        self.p, self.momentum, self.alpha = state["p"], state["momentum"], state["alpha"].clone()


def bargain(G: Tensor, p: Tensor) -> Tensor:
    """Returns the alpha > 0 (K,) with G alpha = p / alpha.

    It is the minimum of alpha G alpha / 2 - p log alpha, found by Newton's method with backtracking.
    """
    G = G + RIDGE * torch.eye(len(p), dtype=G.dtype)

    def value(alpha: Tensor) -> Tensor:
        return alpha @ G @ alpha / 2 - p @ torch.log(alpha)

    alpha = p.sqrt()  # the solution for orthonormal gradients
    for _ in range(200):
        slope = G @ alpha - p / alpha
        if (slope * alpha).abs().max() < 1e-12:
            break
        step = torch.linalg.solve(G + torch.diag(p / alpha**2), -slope)
        size = 1.0
        while size > 1e-12 and ((alpha + size * step).min() <= 0 or value(alpha + size * step) > value(alpha)):
            size /= 2
        if size <= 1e-12:
            break
        alpha = alpha + size * step
    return alpha


def hypergradient(G: Tensor, p: Tensor, products: Tensor) -> Tensor:
    """Returns dL/dp (K,) of a loss L with dL/dalpha = -`products` (K,)."""
    alpha = bargain(G, p)
    dalpha_dp = torch.linalg.solve(G + torch.diag(p / alpha**2), torch.diag(1 / alpha))
    gradient: Tensor = -products @ dalpha_dp
    return gradient
