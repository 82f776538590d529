"""Weights learned from meta-gradients: META-TARTAN and AANG.

Dery, Michel, Talwalkar & Neubig (ICLR 2022), https://arxiv.org/abs/2109.07437
Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), Algorithm 1, https://arxiv.org/abs/2205.14082

An objective whose gradient is similar to the dev gradient, seen through a separate dev head, gains weight. As in the
authors' code the similarity goes straight to the logits by plain SGD, without the softmax's Jacobian.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from raysearch import settings as s
from raysearch.methods.static import Coefficients, Scores, Share, Weighting
from raysearch.plan import Objective

STAGES = ("data", "transform", "representation", "output")


class MetaTartan(Weighting):
    """One softmax over the end task and every objective; all take part in every step."""

    settings: s.MetaTartan

    def __init__(self, objectives: tuple[Objective, ...], settings: s.MetaTartan) -> None:
        super().__init__(objectives, settings)
        count = len(objectives) + 1
        self.logits = torch.full((count,), 1 / count, dtype=torch.float64)  # the end task's first

    def wants_scores(self, step: int) -> bool:
        """Always, as long as there is something to weigh."""
        del step
        return bool(self.objectives)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Softmax of the logits; the objectives' part is brought to sum 1."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        weights = torch.softmax(self.logits, dim=0)
        end_task = float(weights[0])
        return Coefficients(end_task, 1 - end_task, weights[1:] / weights[1:].sum())

    def learn(self, sampled: list[int], scores: Scores) -> None:
        """z_i += lr * similarity_i."""
        del sampled
        rate = self.settings.lr_tasks
        self.logits[0] += rate * scores.end_task
        self.logits[1:] += rate * scores.objectives.to(self.logits)

    def state(self) -> dict[str, Any]:
        """The logits."""
        return {"logits": self.logits}

    def load(self, state: dict[str, Any]) -> None:
        """Take the logits back."""
        self.logits = state["logits"].clone()


class Aang(Weighting):
    """Factored weights: the score of an objective is W^All_k + W^D_d + W^T_t + W^R_r + W^O_o.

    lambda_e is the first of a softmax over two logits, so that it stays in (0, 1). The weights of a step's sampled
    objectives are the softmax of their scores; an objective that is not sampled still moves through the factors
    that it shares, which is the point of factoring.
    """

    settings: s.Aang

    def __init__(self, objectives: tuple[Objective, ...], settings: s.Aang) -> None:
        super().__init__(objectives, settings)
        self.primitives = {st: sorted({getattr(o, st) for o in objectives}) for st in STAGES}
        self.w_all = torch.zeros(len(objectives), dtype=torch.float64)
        self.factors = {st: torch.zeros(len(names), dtype=torch.float64) for st, names in self.primitives.items()}
        self.index = {
            st: torch.tensor([names.index(getattr(o, st)) for o in objectives], dtype=torch.long)
            for st, names in self.primitives.items()
        }
        lambda_e = min(max(settings.lambda_e, 1e-6), 1 - 1e-6)
        self.pair = torch.tensor([math.log(lambda_e / (1 - lambda_e)), 0.0], dtype=torch.float64)

    def scores(self) -> Tensor:
        """s_k of every objective, (N,)."""
        total = self.w_all.clone()
        if self.settings.factored:
            for stage in STAGES:
                total += self.factors[stage][self.index[stage]]
        return total

    def wants_scores(self, step: int) -> bool:
        """Every `meta_every` steps, unless nothing could move."""
        moves = self.settings.lr_weights > 0 or self.settings.lr_lambda > 0
        return moves and bool(self.objectives) and step % self.settings.meta_every == 0

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Joint softmax over the sampled objectives (the paper's form)."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        lambda_e = float(torch.softmax(self.pair, dim=0)[0])
        return Coefficients(lambda_e, 1 - lambda_e, torch.softmax(self.scores()[sampled], dim=0))

    def learn(self, sampled: list[int], scores: Scores) -> None:
        """Each factor gets the sum over the sampled objectives that use it (PAPERS: AANG's code, `auxlr`, `soptlr`)."""
        rate, gained = self.settings.lr_weights, scores.objectives.to(self.w_all)
        at = torch.tensor(sampled, dtype=torch.long)
        self.w_all.index_add_(0, at, rate * gained)
        if self.settings.factored:
            for stage in STAGES:
                self.factors[stage].index_add_(0, self.index[stage][at], rate * gained)
        self.pair += self.settings.lr_lambda * torch.tensor([scores.end_task, scores.aux], dtype=torch.float64)

    def shares(self) -> list[Share]:
        """Objectives and tasks, and each stage's own softmax over its primitives (the paper's Figure 4)."""
        rows = super().shares()
        for stage in STAGES if self.settings.factored else ():
            weights = torch.softmax(self.factors[stage], dim=0).tolist()
            rows += [Share("primitive", stage, n, w) for n, w in zip(self.primitives[stage], weights, strict=True)]
        return rows

    def state(self) -> dict[str, Any]:
        """All factors and the pair behind lambda_e."""
        return {"w_all": self.w_all, "factors": self.factors, "pair": self.pair}

    def load(self, state: dict[str, Any]) -> None:
        """Take the factors back."""
        self.w_all, self.pair = state["w_all"].clone(), state["pair"].clone()
        self.factors = {stage: value.clone() for stage, value in state["factors"].items()}
