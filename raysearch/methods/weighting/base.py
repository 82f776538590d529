"""The base of weightings: which objectives take part in a step, and with what coefficients.

    update = c_E g_E  +  c_aux D( sum_k w_k g_k ),      sum_k w_k = 1

    c_E, c_aux    coefficients of the end task and of the auxiliaries;  w (n,) of the objectives;  D is the surgery
A weighting learns from the observations of each step: the losses of its tasks, which cost nothing, and the gradient
information that it has requested.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from raysearch.methods.weighting.settings import SamplingSettings
from raysearch.objectives.objective import Objective

END_TASK = -1  # the number of the end task; objectives are numbered from 0


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of a step's gradients."""

    end_task: float
    aux: float
    objectives: Tensor  # w (n,) float64, sum 1; empty without objectives

    @property
    def lambda_e(self) -> float:
        """The end task's share c_E / (c_E + c_aux), in [0, 1]."""
        total = self.end_task + self.aux
        return self.end_task / total if total > 0 else 0.0


@dataclass(frozen=True)
class GradientQuery:
    """The gradient information that a weighting requests at a step, in addition to the losses; no more is computed.

    compare     each task's gradient is compared with a gradient of meta-dev's loss: through a dev head, through heads
                in closed form on one `fold` of meta-dev, through the end task's own head, or of leave-one-out examples
                (`dev_gradients`); or with the end task's gradient of the step itself
    gradients   norms: |g_k|; products: g_j g_k of all pairs
    """

    compare: Literal["", "dev_head", "cross_fitted", "own_head", "left_out", "end_task"] = ""
    gradients: Literal["", "norms", "products"] = ""
    normalise: bool = False  # similarities are cosines, or else inner products
    clip: float = 0.0  # the norm to which each task's gradient is clipped, also in the update; 0: no clipping
    fold: int = 0  # with `cross_fitted`, the fold whose examples are scored

    @property
    def is_of_dev_head(self) -> bool:
        """Whether the gradient is through a head that is fitted to the fixed body, so that forwards are enough."""
        return self.compare in ("dev_head", "cross_fitted")

    def __bool__(self) -> bool:
        return bool(self.compare or self.gradients)

    @property
    def needs_gramian(self) -> bool:
        """Whether inner products of all pairs of tasks are used."""
        return self.gradients == "products" or self.compare == "end_task"

    @property
    def needs_norms(self) -> bool:
        """Whether each task's norm is used."""
        return bool(self.gradients or self.normalise or self.clip)


@dataclass(frozen=True)
class GradientSimilarities:
    """Similarities to the gradient of `GradientQuery.compare`; positive if a step along the one helps the other."""

    objectives: Tensor  # (n,) of the sampled objectives
    end_task: float
    aux: float  # of sum_k w_k g_k
    sets: tuple[tuple[int, ...], ...] = ()  # the sampled sets, if each micro-batch has its own

    @classmethod
    def from_products(
        cls, products: Tensor, squares: Tensor, v: Tensor | None, *, end_task: bool, sets: tuple[tuple[int, ...], ...]
    ) -> GradientSimilarities:
        """Takes inner products with v and squared norms of sum_k w_k g_k, g_E (if `end_task`) and every g_k.

        The similarities are cosines if v (D,) is given, or else the products.
        """
        if v is not None:
            norms = squares.sqrt() * v.double().norm()
            products = torch.where(norms > 0, products / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
        values = products.cpu()
        return cls(values[2 if end_task else 1 :], float(values[1]) if end_task else 0.0, float(values[0]), sets)


@dataclass(frozen=True)
class StepObservation:
    """What was observed at a step over all ranks: of the end task, then of each sampled objective; float64, CPU."""

    losses: Tensor  # (n + 1,) nat, before the update
    similarities: GradientSimilarities | None = None
    gramian: Tensor | None = None  # (n + 1, n + 1) of the body's gradients; the diagonal alone if norms were requested


Name = tuple[str, str, str]  # kind, stage and name in the weights table


class Weighting(ABC):
    """The base of all weightings: it samples objectives, and learns nothing.

    A weighting with `weights_from_current_step` has its coefficients of a step only after `learn` has been called with
    that step's own losses and gradients; unless it requests gradients at every step, its entry in the registry has the
    constraint `needs_whole_batch`. One with `needs_losses_after_update` is also given the losses of the same
    batch after the update.
    """

    weights_from_current_step = False
    needs_losses_after_update = False
    rests_idle_heads = False  # heads of objectives that are not in a step keep their parameters, without decay

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        self.objectives, self.settings = objectives, settings

    def required_gradients(self, step: int) -> GradientQuery:
        """Returns the request of a step (from 1); only steps with objectives have one."""
        del step
        return GradientQuery()

    @property
    def sampling(self) -> SamplingSettings | None:
        """The settings of sampling; None if all objectives take part in every step."""
        return self.settings if isinstance(self.settings, SamplingSettings) else None

    @property
    def samples_every_micro_batch(self) -> bool:
        """Whether every micro-batch has a sampled set of its own."""
        return self.sampling is not None and self.sampling.sample_every == "micro_step"

    def sample(self, generator: Generator) -> list[int]:
        """Returns the objectives of a step, in the plan's order: `objectives_per_step` of them, or all."""
        total = len(self.objectives)
        count = (self.sampling.objectives_per_step if self.sampling else 0) or total
        if count >= total:
            return list(range(total))
        return sorted(torch.randperm(total, generator=generator)[:count].tolist())

    @abstractmethod
    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns the coefficients of a step with these objectives."""

    def learn(self, sampled: list[int], observation: StepObservation) -> None:  # noqa: B027, a static one does nothing
        """Updates the weights from the observation of a step."""

    def observe_after_update(self, sampled: list[int], losses: Tensor) -> None:  # noqa: B027, likewise
        """Updates the weights from the losses (n + 1,) of the step's batch after its update."""

    def split_batch(self, sampled: list[int], total: float) -> list[int]:
        """Returns how many of `total` auxiliary examples each sampled objective gets: by weight, and at least one."""
        return [max(1, round(weight * total)) for weight in self.coefficients(sampled).objectives.tolist()]

    @property
    def lambda_e(self) -> float:
        """The end task's current weight, in [0, 1]."""
        return self.coefficients(list(range(len(self.objectives)))).lambda_e

    def names(self) -> list[Name]:
        """Returns the names of `weights` for the weights table."""
        tasks = [("task", "", "end_task"), ("task", "", "auxiliary")]
        return tasks + [("objective", "", objective.name) for objective in self.objectives]

    def weights(self) -> Tensor:
        """Returns the current weights over all objectives, float64; those of one kind and stage sum to 1."""
        coefficients = self.coefficients(list(range(len(self.objectives))))
        sides = torch.tensor([self.lambda_e, 1 - self.lambda_e], dtype=torch.float64)
        return torch.cat([sides, coefficients.objectives])

    def signal(self) -> tuple[Tensor, Tensor] | None:
        """Returns what is known of the objectives' effects, and its standard errors, (N,) each.

        None if it is known from the similarities of the steps alone, whose means and errors are recorded anyway.
        """
        return None

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume from here."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027, likewise
        """Resumes from what `state` returned."""


def coefficients_of(end_task: float, objectives: Tensor) -> Coefficients:
    """Returns the coefficients in proportion to `end_task` and `objectives` (n,), scaled to sum to 1.

    If all of them are 0, every task gets the same coefficient.
    """
    aux = float(objectives.sum())
    total = end_task + aux
    if not total > 0:
        return coefficients_of(1.0, torch.ones_like(objectives))
    return Coefficients(end_task / total, aux / total, objectives / aux if aux > 0 else equal(len(objectives)))


def equal(count: int) -> Tensor:
    """Returns equal weights (n,) that sum to 1."""
    return torch.full((count,), 1 / count if count else 0.0, dtype=torch.float64)
