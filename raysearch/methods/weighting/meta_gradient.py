"""Weights learned from meta-gradients: META-TARTAN and AANG.

META-TARTAN  Dery, Michel, Talwalkar & Neubig (ICLR 2022), https://arxiv.org/abs/2109.07437
AANG         Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), Algorithm 1, https://arxiv.org/abs/2205.14082

    m_k    similarity of g_k to the dev gradient through a separate dev head; m_E of the end task, m_A of the
           auxiliaries' weighted sum. With `dev_head: closed_form` the heads are those of `training.step.closed_form`,
           and looks take the folds of meta-dev in turn
    s_k    logit of an objective; for AANG W^All_k + W^D_d + W^T_t + W^R_r + W^O_o
    w_k    softmax of s over the sampled objectives

An objective whose gradient is similar to the dev gradient gains weight. The logits ascend, by plain SGD, on
sum_k s_k m_k, as in the authors' code, where a logit's gradient is its similarity; or, with `through_softmax`, on
sum_k w_k m_k, as the papers write it, where it is w_k (m_k - sum_j w_j m_j).

`profile: paper` and `profile: official` are bundles of the settings in which text and code differ. Three properties of
the code are left out: padding is attended to; micro-batches of one epoch leak into the first step of the next; and m_A
is of a direction weighted by token counts (here it is sum_k w_k g_k, the direction of the step).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting import aang_hierarchy
from raysearch.methods.weighting.base import (
    Coefficients,
    GradientQuery,
    GradientSimilarities,
    Name,
    StepObservation,
    Weighting,
)
from raysearch.methods.weighting.settings import AangSettings, MetaGradientSettings, MetaTartanSettings
from raysearch.objectives.objective import Objective

STAGES = ("data", "transform", "representation", "output")
Logits = Mapping[str, Tensor]


class MetaGradient(Weighting):
    """The base of both: logits that ascend on a meta-objective of the step's similarities, by plain SGD."""

    settings: MetaGradientSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: MetaGradientSettings) -> None:
        super().__init__(objectives, settings)
        self.logits: dict[str, Tensor] = {}
        self.rates: dict[str, float] = {}  # learning rate of each group of logits
        self.steps_per_move = 1  # the logits are updated by the mean gradient of so many steps
        self.pending: dict[str, Tensor] = {}  # sum of the gradients since the last update
        self.observed_steps = 0  # since the last update

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests similarities to the dev gradient at every step, unless all rates are 0."""
        settings = self.settings
        if not any(rate > 0 for rate in self.rates.values()):
            return GradientQuery()
        normalise, clip = settings.similarity == "cosine", settings.task_clip
        if settings.dev_head == "closed_form":
            fold = self.look_number(step) % settings.dev_folds
            return GradientQuery("cross_fitted", normalise=normalise, clip=clip, fold=fold)
        return GradientQuery("dev_head", normalise=normalise, clip=clip)

    def look_number(self, step: int) -> int:
        """Returns how many looks at the dev gradient there have been before a step that has one, or one more."""
        return step

    @abstractmethod
    def meta_objective(
        self, logits: Logits, sampled: list[int], m: Tensor, similarities: GradientSimilarities
    ) -> Tensor:
        """Returns the meta-objective of one sampled set; `m` (N,) has the similarities of all sampled objectives."""

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Adds the gradient of the sets' mean meta-objective, and updates the logits when enough steps were seen."""
        if (similarities := observation.similarities) is None:
            return
        m = torch.zeros(len(self.objectives), dtype=torch.float64)
        m[sampled] = similarities.objectives.to(m)
        leaves = {name: value.clone().requires_grad_() for name, value in self.logits.items()}
        sets = [list(sampled_set) for sampled_set in similarities.sets] or [sampled]
        values = [self.meta_objective(leaves, sampled_set, m, similarities) for sampled_set in sets]
        gradients = torch.autograd.grad(torch.stack(values).mean(), list(leaves.values()), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            self.pending[name] = self.pending.get(name, torch.zeros_like(leaf).detach())
            if gradient is not None:
                self.pending[name] += gradient
        self.observed_steps += 1
        if self.observed_steps == self.steps_per_move:
            for name, gradient in self.pending.items():
                self.logits[name] = self.logits[name] + self.rates[name] * gradient / self.observed_steps
            self.pending, self.observed_steps = {}, 0

    def split_batch(self, sampled: list[int], total: float) -> list[int]:
        """Returns how many examples each objective gets: by weight, or with `batch_split: equal` equally many."""
        if self.settings.batch_split == "equal":
            return [max(1, round(total / len(sampled)))] * len(sampled)
        return super().split_batch(sampled, total)

    def state(self) -> dict[str, Any]:
        """Returns the logits, and the gradients since their last update."""
        return {"logits": self.logits, "pending": self.pending, "seen": self.observed_steps}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the logits, and the gradients since their last update."""
        for name in ("logits", "pending"):
            setattr(self, name, {key: value.detach().cpu().clone() for key, value in state[name].items()})
        self.observed_steps = state["seen"]


class MetaTartan(MetaGradient):
    """META-TARTAN: one softmax over the end task and every objective; all take part in every step."""

    settings: MetaTartanSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: MetaTartanSettings) -> None:
        super().__init__(objectives, settings)
        count = len(objectives) + 1
        self.logits = {"tasks": torch.full((count,), 1 / count, dtype=torch.float64)}  # the end task's first
        self.rates = {"tasks": settings.lr_tasks}
        self.steps_per_move = settings.tasks_every

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns the softmax of the logits; the objectives' part is normalised to sum 1."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        weights = torch.softmax(self.logits["tasks"], dim=0)
        end_task = float(weights[0])
        return Coefficients(end_task, 1 - end_task, weights[1:] / weights[1:].sum())

    def meta_objective(
        self, logits: Logits, sampled: list[int], m: Tensor, similarities: GradientSimilarities
    ) -> Tensor:
        """Returns the sum over the end task and all objectives, of s_k m_k or w_k m_k."""
        del sampled
        s, m_all = logits["tasks"], torch.cat([m.new_tensor([similarities.end_task]), m])
        return (torch.softmax(s, dim=0) if self.settings.through_softmax else s) @ m_all


class Aang(MetaGradient):
    """AANG: factored objective weights, and lambda_e for the end task against all objectives.

    An objective that is not sampled still moves through the primitives that it shares with sampled ones, which is the
    point of factoring. lambda_e is the first of a softmax over two logits, or a number whose derivative is m_E - m_A.
    """

    settings: AangSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: AangSettings) -> None:
        super().__init__(objectives, settings)
        self.primitives = {stage: sorted({getattr(o, stage) for o in objectives}) for stage in STAGES}
        self.index = {  # the number of each objective's primitive, (N,) by stage
            stage: torch.tensor([names.index(getattr(o, stage)) for o in objectives], dtype=torch.long)
            for stage, names in self.primitives.items()
        }
        sizes = {"all": len(objectives), **{stage: len(names) for stage, names in self.primitives.items()}}
        self.logits = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}
        initial = settings.lambda_e
        if settings.lambda_form == "softmax":
            initial = min(max(initial, 1e-6), 1 - 1e-6)
            self.logits["lambda_e"] = torch.tensor([math.log(initial / (1 - initial)), 0.0], dtype=torch.float64)
        else:
            self.logits["lambda_e"] = torch.tensor([initial], dtype=torch.float64)
        rate = settings.lr_weights
        stage_rates = dict.fromkeys(STAGES, rate if settings.factored else 0.0)
        self.rates = {"all": rate, **stage_rates, "lambda_e": settings.lr_lambda}
        self.steps_per_move = settings.meta_every if settings.meta_mean else 1

    def objective_logits(self, logits: Logits | None = None) -> Tensor:
        """Returns s (N,), the logit of every objective."""
        logits = logits or self.logits
        total = logits["all"]
        for stage in STAGES if self.settings.factored else ():
            total = total + logits[stage][self.index[stage]]
        return total

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests similarities every `meta_every` steps, at every step if their mean is used, never if rates are 0."""
        is_due = self.settings.meta_mean or step % self.settings.meta_every == 0
        return super().required_gradients(step) if is_due else GradientQuery()

    def look_number(self, step: int) -> int:
        """Returns how many looks there have been, one for every `meta_every` steps unless their mean is used."""
        return step if self.settings.meta_mean else step // self.settings.meta_every

    @property
    def lambda_e(self) -> float:
        """The end task's weight, independent of the auxiliaries' sum."""
        logits = self.logits["lambda_e"]
        return float(torch.softmax(logits, dim=0)[0] if len(logits) == 2 else logits[0])

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) w_k; hierarchical weights sum to less than 1, and so do both."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        weights, lambda_e = self._objective_weights(sampled, self.logits), self.lambda_e
        total = float(weights.sum()) if self.settings.weight_form == "hierarchical" else 1.0
        return Coefficients(lambda_e, (1 - lambda_e) * total, weights / total)

    def meta_objective(
        self, logits: Logits, sampled: list[int], m: Tensor, similarities: GradientSimilarities
    ) -> Tensor:
        """Returns the sum over the sampled objectives plus that over the two sides, end task and auxiliaries."""
        m_sides = m.new_tensor([similarities.end_task, similarities.aux])
        side_logits, m_sampled = logits["lambda_e"], m[sampled]
        if len(side_logits) == 1:
            sides = side_logits[0] * (m_sides[0] - m_sides[1])
        else:
            sides = (torch.softmax(side_logits, dim=0) if self.settings.through_softmax else side_logits) @ m_sides
        if self.settings.through_softmax:
            return self._objective_weights(sampled, logits) @ m_sampled + sides
        return self.objective_logits(logits)[sampled] @ m_sampled + sides

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Updates the logits; with `lambda_form: scalar`, lambda_e is clipped to [0, 1]."""
        super().learn(sampled, observation)
        if self.settings.lambda_form == "scalar":
            self.logits["lambda_e"] = self.logits["lambda_e"].clamp(0.0, 1.0)

    def split_batch(self, sampled: list[int], total: float) -> list[int]:
        """Returns how many examples each objective gets: by weight, equally many, or by its primitives' shares."""
        if self.settings.batch_split == "hierarchical":
            return aang_hierarchy.split_batch(self._conditional_shares(sampled, self.logits), total)
        return super().split_batch(sampled, total)

    def names(self) -> list[Name]:
        """Returns the names of tasks, objectives, and each stage's primitives (the paper's Figure 4)."""
        stages = STAGES if self.settings.factored else ()
        return super().names() + [("primitive", stage, name) for stage in stages for name in self.primitives[stage]]

    def weights(self) -> Tensor:
        """Returns the values of `names`; those of a stage's primitives are the softmax of their logits."""
        stages = STAGES if self.settings.factored else ()
        return torch.cat([super().weights(), *(torch.softmax(self.logits[stage], dim=0) for stage in stages)])

    def _objective_weights(self, sampled: list[int], logits: Logits) -> Tensor:
        """Returns w_k of the sampled objectives, (n,)."""
        if self.settings.weight_form == "joint":
            return torch.softmax(self.objective_logits(logits)[sampled], dim=0)
        last = logits["all"] + (logits["output"][self.index["output"]] if self.settings.factored else 0.0)
        shares = self._conditional_shares(sampled, logits)
        return shares[0] * shares[1] * shares[2] * torch.softmax(last[sampled], dim=0)

    def _conditional_shares(self, sampled: list[int], logits: Logits) -> list[Tensor]:
        primitives = {stage: self.index[stage][sampled] for stage in aang_hierarchy.STAGE_ORDER}
        return aang_hierarchy.conditional_shares(primitives, logits)
