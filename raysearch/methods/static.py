"""Weightings that learn nothing: the end task alone, equal weights, ATTITTUD's sum.

A weighting answers, each step: which objectives take part, and with what coefficients

    update = end_task * g_E  +  aux * D( sum_k objectives_k g_k ),      sum_k objectives_k = 1

and, when it asks for them, learns from the similarities of the gradients to the dev gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch import settings as s
from raysearch.plan import Objective


@dataclass(frozen=True)
class Coefficients:
    """The factors of a step's gradients."""

    end_task: float
    aux: float
    objectives: Tensor  # (n,) float64, sum 1; empty without objectives

    @property
    def lambda_e(self) -> float:
        """The end task's share of the whole, in [0, 1]."""
        whole = self.end_task + self.aux
        return self.end_task / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class Scores:
    """Similarities to the dev gradient: positive means that a step along the gradient helps on meta-dev."""

    objectives: Tensor  # (n,) of the sampled objectives
    end_task: float
    aux: float  # of sum_k w_k g_k
    sets: tuple[tuple[int, ...], ...] = ()  # the sets that were sampled, if several: one for each micro-batch


Name = tuple[str, str, str]  # kind, stage and name in the weights table


class Weighting(ABC):
    """What all weightings share: sampling, and nothing to learn."""

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        self.objectives, self.settings = objectives, settings

    def wants_scores(self, step: int) -> bool:
        """Whether the weighting learns from the gradients of this step (from 1)."""
        del step
        return False

    def sample(self, generator: Generator) -> list[int]:
        """The objectives of a step, in the plan's order: `objectives_per_step` of them, or all."""
        total = len(self.objectives)
        wanted = getattr(self.settings, "objectives_per_step", 0) or total
        if wanted >= total:
            return list(range(total))
        return sorted(torch.randperm(total, generator=generator)[:wanted].tolist())

    @abstractmethod
    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The factors of the step's gradients."""

    def learn(self, sampled: list[int], scores: Scores) -> None:  # noqa: B027, one that learns nothing does nothing
        """Move the weights by what the gradients of a step were worth."""

    def rows(self, sampled: list[int], total: float) -> list[int]:
        """How many of a step's `total` auxiliary rows each sampled objective gets: by weight, and at least one."""
        return [max(1, round(weight * total)) for weight in self.coefficients(sampled).objectives.tolist()]

    @property
    def lambda_e(self) -> float:
        """The end task's weight as it stands, in [0, 1]."""
        return self.coefficients(list(range(len(self.objectives)))).lambda_e

    def names(self) -> list[Name]:
        """What `weights` are of, for the weights table."""
        tasks = [("task", "", "end_task"), ("task", "", "auxiliary")]
        return tasks + [("objective", "", objective.name) for objective in self.objectives]

    def weights(self) -> Tensor:
        """The weights as they stand, over all objectives, float64; those of one kind and stage sum to 1."""
        whole = self.coefficients(list(range(len(self.objectives))))
        return torch.cat([torch.tensor([self.lambda_e, 1 - self.lambda_e], dtype=torch.float64), whole.objectives])

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on from here."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027, likewise
        """Go on from where `state` was taken."""


def equal(count: int) -> Tensor:
    """Equal weights (n,) that sum to 1."""
    return torch.full((count,), 1 / count if count else 0.0, dtype=torch.float64)


class EndTaskOnly(Weighting):
    """Fine-tuning: no objective takes part."""

    def sample(self, generator: Generator) -> list[int]:
        """None."""
        del generator
        return []

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The end task's gradient as it is."""
        return Coefficients(1.0, 0.0, equal(len(sampled)))


class Static(Weighting):
    """Multitask learning: lambda_e for the end task, the rest in equal parts (AANG's Static Multitask)."""

    settings: s.Static

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Fixed; without objectives the end task has it all."""
        if not sampled:
            return Coefficients(1.0, 0.0, equal(0))
        lambda_e = self.settings.lambda_e
        return Coefficients(lambda_e, 1 - lambda_e, equal(len(sampled)))


class EtaPrimSum(Weighting):
    """ATTITTUD's update g~_aux + eta_prim g_prim, auxiliaries in equal parts (section 3, after equation 2)."""

    settings: s.EtaPrim

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The auxiliary gradient in full, the end task's times eta_prim; or both as shares of a batch of both."""
        whole = 1.0 + self.settings.eta_prim if self.settings.eta_prim_form == "count_ratio" else 1.0
        return Coefficients(self.settings.eta_prim / whole, (1.0 if sampled else 0.0) / whole, equal(len(sampled)))
