"""Weights learned from meta-gradients: META-TARTAN and AANG.

Dery, Michel, Talwalkar & Neubig (ICLR 2022), https://arxiv.org/abs/2109.07437
Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), Algorithm 1, https://arxiv.org/abs/2205.14082

    m_k    similarity of g_k to the dev gradient, seen through a separate dev head; m_E of the end task, m_A of the
           auxiliaries' weighted sum
    s_k    the score of an objective, W^All_k + W^D_d + W^T_t + W^R_r + W^O_o
    w_k    softmax of s over the sampled objectives

An objective whose gradient is similar gains weight. What ascends is sum_k s_k m_k, as in the authors' code, where the
similarity goes straight to the logits by plain SGD; or, `through_softmax`, sum_k w_k m_k, as the papers write it, whose
derivative in s_k is w_k (m_k - sum_j w_j m_j).

`profile: paper` and `profile: official` are bundles of the settings in which text and code differ. Of the code's ways
these are left out: padding that is attended to, micro-batches of one epoch that leak into the next one's first step,
and m_A of a direction weighted by token counts (here it is sum_k w_k g_k, the one that is stepped along).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting import aang_hierarchy
from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.base import (
    Coefficients,
    GradientQuery,
    GradientSimilarities,
    Name,
    StepObservation,
    Weighting,
)
from raysearch.objectives.objective import Objective

STAGES = ("data", "transform", "representation", "output")
Logits = Mapping[str, Tensor]


class MetaGradient(Weighting):
    """What both share: logits that climb, by plain SGD, what the step's gradients were worth."""

    settings: s.MetaGradientSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.MetaGradientSettings) -> None:
        super().__init__(objectives, settings)
        self.logits: dict[str, Tensor] = {}
        self.rates: dict[str, float] = {}
        self.steps_per_move = 1  # steps whose mean is one move
        self.pending: dict[str, Tensor] = {}  # the sum of those that have been seen
        self.observed_steps = 0

    @property
    def _query(self) -> GradientQuery:
        """The request of a step that the logits learn from."""
        settings = self.settings
        return GradientQuery("dev_head", normalise=settings.similarity == "cosine", clip=settings.task_clip)

    @abstractmethod
    def meta_objective(
        self, logits: Logits, sampled: list[int], similar: Tensor, similarities: GradientSimilarities
    ) -> Tensor:
        """What one set of objectives is worth under `logits`; `similar` (N,) has m_k of those that were sampled."""

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Add to the logits their rate times the derivative of what the sets are worth, on the mean."""
        if (similarities := observation.similarities) is None:
            return
        similar = torch.zeros(len(self.objectives), dtype=torch.float64)
        similar[sampled] = similarities.objectives.to(similar)
        leaves = {name: value.clone().requires_grad_() for name, value in self.logits.items()}
        sets = [list(some) for some in similarities.sets] or [sampled]
        worth = torch.stack([self.meta_objective(leaves, some, similar, similarities) for some in sets]).mean()
        found = torch.autograd.grad(worth, list(leaves.values()), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
            self.pending[name] = self.pending.get(name, torch.zeros_like(leaf).detach())
            if gradient is not None:
                self.pending[name] += gradient
        self.observed_steps += 1
        if self.observed_steps == self.steps_per_move:
            for name, gradient in self.pending.items():
                self.logits[name] = self.logits[name] + self.rates[name] * gradient / self.observed_steps
            self.pending, self.observed_steps = {}, 0

    def split_batch(self, sampled: list[int], total: float) -> list[int]:
        """By weight, or equally many."""
        if self.settings.batch_split == "equal":
            return [max(1, round(total / len(sampled)))] * len(sampled)
        return super().split_batch(sampled, total)

    def state(self) -> dict[str, Any]:
        """The logits, and what has been seen since they last moved."""
        return {"logits": self.logits, "pending": self.pending, "seen": self.observed_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Take all that back."""
        for name in ("logits", "pending"):
            setattr(self, name, {key: value.detach().cpu().clone() for key, value in state[name].items()})
        self.observed_steps = state["seen"]


class MetaTartan(MetaGradient):
    """One softmax over the end task and every objective; all take part in every step."""

    settings: s.MetaTartanSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.MetaTartanSettings) -> None:
        super().__init__(objectives, settings)
        count = len(objectives) + 1
        self.logits = {"tasks": torch.full((count,), 1 / count, dtype=torch.float64)}  # the end task's first
        self.rates = {"tasks": settings.lr_tasks}

    def required_gradients(self, step: int) -> GradientQuery:
        """Similarities to the dev gradient at every step, unless nothing could move."""
        del step
        return self._query if self.settings.lr_tasks > 0 else GradientQuery()

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Softmax of the logits; the objectives' part is brought to sum 1."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        weights = torch.softmax(self.logits["tasks"], dim=0)
        end_task = float(weights[0])
        return Coefficients(end_task, 1 - end_task, weights[1:] / weights[1:].sum())

    def meta_objective(
        self, logits: Logits, sampled: list[int], similar: Tensor, similarities: GradientSimilarities
    ) -> Tensor:
        """Of end task and all objectives in one."""
        del sampled
        z, m = logits["tasks"], torch.cat([similar.new_tensor([similarities.end_task]), similar])
        return (torch.softmax(z, dim=0) if self.settings.through_softmax else z) @ m


class Aang(MetaGradient):
    """Factored weights, and lambda_e for the end task against all of them.

    An objective that is not sampled still moves through the factors that it shares, which is the point of factoring.
    lambda_e is the first of a softmax over two logits, or a number of its own whose derivative is m_E - m_A.
    """

    settings: s.AangSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.AangSettings) -> None:
        super().__init__(objectives, settings)
        self.primitives = {st: sorted({getattr(o, st) for o in objectives}) for st in STAGES}
        self.index = {
            st: torch.tensor([names.index(getattr(o, st)) for o in objectives], dtype=torch.long)
            for st, names in self.primitives.items()
        }
        sizes = {"all": len(objectives), **{st: len(names) for st, names in self.primitives.items()}}
        self.logits = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}
        first = settings.lambda_e
        if settings.lambda_form == "softmax":
            first = min(max(first, 1e-6), 1 - 1e-6)
            self.logits["lambda_e"] = torch.tensor([math.log(first / (1 - first)), 0.0], dtype=torch.float64)
        else:
            self.logits["lambda_e"] = torch.tensor([first], dtype=torch.float64)
        rate = settings.lr_weights
        stages = dict.fromkeys(STAGES, rate if settings.factored else 0.0)
        self.rates = {"all": rate, **stages, "lambda_e": settings.lr_lambda}
        self.steps_per_move = settings.meta_every if settings.meta_mean else 1

    def objective_logits(self, logits: Logits | None = None) -> Tensor:
        """s_k of every objective, (N,)."""
        logits = logits or self.logits
        total = logits["all"]
        for stage in STAGES if self.settings.factored else ():
            total = total + logits[stage][self.index[stage]]
        return total

    def required_gradients(self, step: int) -> GradientQuery:
        """Similarities every `meta_every` steps, or at all if their mean is taken, unless nothing could move."""
        moves = self.settings.lr_weights > 0 or self.settings.lr_lambda > 0
        due = self.settings.meta_mean or step % self.settings.meta_every == 0
        return self._query if moves and due else GradientQuery()

    @property
    def lambda_e(self) -> float:
        """The end task's weight, whatever the auxiliaries' sum to."""
        own = self.logits["lambda_e"]
        return float(torch.softmax(own, dim=0)[0] if len(own) == 2 else own[0])

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """lambda_e and (1 - lambda_e) w_k; what hierarchical weights lack of 1, the auxiliaries' factor lacks."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        weights, lambda_e = self._weights(sampled, self.logits), self.lambda_e
        whole = float(weights.sum()) if self.settings.weight_form == "hierarchical" else 1.0
        return Coefficients(lambda_e, (1 - lambda_e) * whole, weights / whole)

    def meta_objective(
        self, logits: Logits, sampled: list[int], similar: Tensor, similarities: GradientSimilarities
    ) -> Tensor:
        """Of the objectives among themselves, and of both sides."""
        sides = similar.new_tensor([similarities.end_task, similarities.aux])
        own, m = logits["lambda_e"], similar[sampled]
        if len(own) == 1:
            between = own[0] * (sides[0] - sides[1])
        else:
            between = (torch.softmax(own, dim=0) if self.settings.through_softmax else own) @ sides
        if self.settings.through_softmax:
            return self._weights(sampled, logits) @ m + between
        return self.objective_logits(logits)[sampled] @ m + between

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """As all; lambda_e stays in [0, 1] where it is a number of its own."""
        super().learn(sampled, observation)
        if self.settings.lambda_form == "scalar":
            self.logits["lambda_e"] = self.logits["lambda_e"].clamp(0.0, 1.0)

    def split_batch(self, sampled: list[int], total: float) -> list[int]:
        """By weight, equally many, or by the shares of an objective's primitives."""
        if self.settings.batch_split == "hierarchical":
            return aang_hierarchy.split_batch(self._shares(sampled, self.logits), total)
        return super().split_batch(sampled, total)

    def names(self) -> list[Name]:
        """Tasks and objectives, and each stage's own primitives (the paper's Figure 4)."""
        stages = STAGES if self.settings.factored else ()
        return super().names() + [("primitive", st, name) for st in stages for name in self.primitives[st]]

    def weights(self) -> Tensor:
        """With a softmax over the primitives of each stage."""
        stages = STAGES if self.settings.factored else ()
        return torch.cat([super().weights(), *(torch.softmax(self.logits[stage], dim=0) for stage in stages)])

    def _weights(self, sampled: list[int], logits: Logits) -> Tensor:
        """w_k of the sampled objectives, (n,)."""
        if self.settings.weight_form == "joint":
            return torch.softmax(self.objective_logits(logits)[sampled], dim=0)
        own = logits["all"] + (logits["output"][self.index["output"]] if self.settings.factored else 0.0)
        shares = self._shares(sampled, logits)
        return shares[0] * shares[1] * shares[2] * torch.softmax(own[sampled], dim=0)

    def _shares(self, sampled: list[int], logits: Logits) -> list[Tensor]:
        return aang_hierarchy.conditional_shares(
            {st: self.index[st][sampled] for st in aang_hierarchy.STAGE_ORDER}, logits
        )
