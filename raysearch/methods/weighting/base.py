"""What a weighting answers at each step: which objectives take part, and with what coefficients.

    update = end_task * g_E  +  aux * D( sum_k objectives_k g_k ),      sum_k objectives_k = 1

It learns from what the step has shown: the losses of its tasks, which cost nothing, and what it has asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from raysearch.objectives.objective import Objective

END_TASK = -1  # beside the objectives' numbers


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
class GradientQuery:
    """What a weighting wants to see of a step beside its losses; a step computes no more than this.

    compare     each task's gradient with the dev gradient through a dev head, through the end task's own head or of
                rows that are left out (`dev_gradients`), or with the end task's training gradient of the step
    gradients   norms: |g_k|; products: g_j g_k of all pairs
    """

    compare: Literal["", "dev_head", "own_head", "left_out", "end_task"] = ""
    gradients: Literal["", "norms", "products"] = ""

    def __bool__(self) -> bool:
        return bool(self.compare or self.gradients)


@dataclass(frozen=True)
class GradientSimilarities:
    """Similarities to the gradient that was asked about: positive means that a step along the one helps the other."""

    objectives: Tensor  # (n,) of the sampled objectives
    end_task: float
    aux: float  # of sum_k w_k g_k
    sets: tuple[tuple[int, ...], ...] = ()  # the sets that were sampled, if several: one for each micro-batch

    @classmethod
    def of(
        cls, along: Tensor, squares: Tensor, v: Tensor | None, *, end_task: bool, sets: tuple[tuple[int, ...], ...]
    ) -> GradientSimilarities:
        """From products and squared norms of sum_k w_k g_k, g_E (if `end_task`) and g_k; cosines if v is given."""
        if v is not None:
            norms = squares.sqrt() * v.double().norm()
            along = torch.where(norms > 0, along / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
        values = along.cpu()
        return cls(values[2 if end_task else 1 :], float(values[1]) if end_task else 0.0, float(values[0]), sets)


@dataclass(frozen=True)
class StepObservation:
    """What a step has shown, over all ranks; the end task first, then the sampled objectives, (n + 1), float64, CPU."""

    losses: Tensor  # (n + 1,) nat, of the parameters before the update
    similarities: GradientSimilarities | None = None
    gramian: Tensor | None = None  # (n + 1, n + 1) of the body's gradients; its diagonal alone if norms were asked for


Name = tuple[str, str, str]  # kind, stage and name in the weights table


class Weighting(ABC):
    """The base of all weightings: it samples objectives, and learns nothing.

    A weighting with `weights_from_current_step` has its coefficients of a step only after `learn` has been called with
    that step's own losses and gradients. One with `needs_losses_after_update` is also given the losses of the same
    batch after the update.
    """

    weights_from_current_step = False
    needs_losses_after_update = False

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        self.objectives, self.settings = objectives, settings

    def required_gradients(self, step: int) -> GradientQuery:
        """What the weighting wants to see of this step (from 1); not asked of steps without objectives."""
        del step
        return GradientQuery()

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

    def learn(self, sampled: list[int], observation: StepObservation) -> None:  # noqa: B027, one that learns nothing does nothing
        """Move the weights by what a step has shown."""

    def observe_after_update(self, sampled: list[int], losses: Tensor) -> None:  # noqa: B027, likewise
        """Move the weights by the losses (n + 1,) of the step's rows after its update."""

    def split_batch(self, sampled: list[int], total: float) -> list[int]:
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


def coefficients_of(end_task: float, objectives: Tensor) -> Coefficients:
    """The factors whose products with the gradients are `end_task` and `objectives` (n,), scaled to sum to 1."""
    aux = float(objectives.sum())
    whole = end_task + aux
    if not whole > 0:
        return coefficients_of(1.0, torch.ones_like(objectives))
    return Coefficients(end_task / whole, aux / whole, objectives / aux if aux > 0 else equal(len(objectives)))


def equal(count: int) -> Tensor:
    """Equal weights (n,) that sum to 1."""
    return torch.full((count,), 1 / count if count else 0.0, dtype=torch.float64)
