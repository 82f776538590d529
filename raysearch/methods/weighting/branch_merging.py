"""Branch and merge: weights learned from what each task's own training does to the parameters.

From common parameters theta every branch trains by itself for a while; its delta is where it went. A weighting of this
kind says which branches there are, mixes their deltas, and moves the tasks' weights:

    theta <- theta + sum_b alpha_b delta_b

    w_t       weight of task t, 1 at first; the end task's and every objective's
    L(alpha)  the end task's loss on meta-dev at theta + sum_b alpha_b delta_b;  dL/dalpha_b = <grad L, delta_b>

`rounds` trains the branches and knows deltas; here are numbers alone, one for each branch.

alphaVIL   Kourdis, Gordon-Hall & Gorinski 2024, https://arxiv.org/abs/2405.07769; which parts of this are known to be
           the paper's, and which are ours, stands in docs/guide/branches.md
DIW        a re-interpretation of what alphaVIL compares itself with under this name, after the discriminative
           importance weights of Sivasankaran, Vincent & Illina (ICASSP 2017)
ForkMerge  Jiang et al. (NeurIPS 2023), Algorithms 1 to 3, https://arxiv.org/abs/2301.12618
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.base import END_TASK, Coefficients, Name, Weighting
from raysearch.methods.weighting.merge_search import (
    gradient_descent,
    greedy_search,
    line_search,
    nelder_mead,
    newton_step,
)
from raysearch.objectives.objective import Objective


@dataclass(frozen=True)
class Branch:
    """One training from the common parameters."""

    name: str
    factors: dict[int, float]  # of the losses of the tasks that it trains
    rate: float = 1.0  # of the learning rate
    has_own_schedule: bool = False  # the learning rate rises and falls within the branch, not over the phase

    @property
    def is_idle(self) -> bool:
        """Would it go nowhere?"""
        return self.rate == 0 or not any(self.factors.values())

    def coefficients(self) -> Coefficients:
        """Returns the factors of the branch's gradients; its objectives are in the order of `factors`."""
        objectives = torch.tensor([f for task, f in self.factors.items() if task != END_TASK], dtype=torch.float64)
        total = float(objectives.sum())
        return Coefficients(self.factors.get(END_TASK, 0.0), total, objectives / total if total else objectives)


class MetaDev(Protocol):
    """What meta-dev says of mixed deltas; `alphas` (B,) float64, one for each branch of the round."""

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        """L(alpha) and its gradient (B,), on batch `number` of this round, of `count` rows (0: all of meta-dev)."""

    def score(self, alphas: Tensor) -> tuple[float, float]:
        """The end task's metric, higher is better, and -L(alpha), on all of meta-dev."""

    def leave_one_out_errors(self, alphas: Tensor) -> Tensor:
        """Squared error (n,) of each labelled row by the least-squares head of the others (`dev_head`)."""


class BranchWeighting(Weighting):
    """A weighting by branches; the weights w are of the end task, then of every objective."""

    logged_quantity = "alpha"  # of each branch, after a merge

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        super().__init__(objectives, settings)
        self.task_names = ["end_task", *(objective.name for objective in objectives)]
        self.tasks = [END_TASK, *range(len(objectives))]
        self.w = torch.ones(len(self.tasks), dtype=torch.float64)
        self.last_values: dict[str, float] = {}  # what the last merge came to, by branch

    @property
    def normalises_deltas(self) -> bool:
        """Are the deltas to be of one length?"""
        return False

    @property
    def is_finished(self) -> bool:
        """Are there no more rounds? What is left of the phase then takes ordinary steps by the weights."""
        return False

    @abstractmethod
    def branches(self) -> list[Branch]:
        """The branches of the next round, that with the end task alone first where there is one."""

    @abstractmethod
    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """The alphas (B,) float64 of a round's branches; moves the weights."""

    def normalised_weights(self) -> Tensor:
        """The weights, scaled to a mean of 1. Raises ArithmeticError when all are 0."""
        total = float(self.w.sum())
        if total <= 0:
            raise ArithmeticError("every task's weight has fallen to 0: give a weight_floor, or a smaller alpha_lr")
        return self.w * (len(self.w) / total)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The weights as shares of their sum."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        return _normalised_coefficients(float(self.w[0]), self.w[1:][sampled])

    @property
    def logged_branches(self) -> list[str]:
        """The branches that merges tell of."""
        return self.task_names

    def names(self) -> list[Name]:
        """Tasks and objectives; the tasks' weights as they are; and of each branch its alpha, or gain."""
        own = [("branch", "weight", name) for name in self.task_names]
        return super().names() + own + [("branch", self.logged_quantity, name) for name in self.logged_branches]

    def weights(self) -> Tensor:
        """As `names` has them; 0 of a branch that the last merge did not have (alphaVIL's Figure 3)."""
        said = torch.tensor([self.last_values.get(name, 0.0) for name in self.logged_branches], dtype=torch.float64)
        return torch.cat([super().weights(), self.w, said])

    def state(self) -> dict[str, Any]:
        """The weights."""
        return {"w": self.w, "said": self.last_values}

    def load(self, state: dict[str, Any]) -> None:
        """Take the weights back."""
        self.w, self.last_values = state["w"].cpu(), state["said"]

    def _log_values(self, branches: list[Branch], values: Tensor) -> None:
        self.last_values = {branch.name: value for branch, value in zip(branches, values.tolist(), strict=True)}


def _normalised_coefficients(end_task: float, objectives: Tensor) -> Coefficients:
    """Weights as shares of their sum; objectives that all weigh 0 share their nothing equally."""
    aux = float(objectives.sum())
    parts = objectives / aux if aux > 0 else torch.full_like(objectives, 1 / len(objectives))
    whole = end_task + aux
    return Coefficients(end_task / whole, aux / whole, parts) if whole > 0 else Coefficients(1.0, 0.0, parts)


class AlphaVIL(BranchWeighting):
    """A branch for each task; alphas by steps down L(alpha) from 1; then w_t += alpha_t - 1."""

    settings: s.AlphaVILSettings

    @property
    def normalises_deltas(self) -> bool:
        """As the setting says."""
        return self.settings.normalise_deltas

    def branches(self) -> list[Branch]:
        """Every task alone, by its weight in a mean of 1."""
        said = zip(self.task_names, self.tasks, self.normalised_weights().tolist(), strict=True)
        if self.settings.weight_scales == "loss":
            return [Branch(name, {task: w}) for name, task, w in said]
        return [Branch(name, {task: 1.0}, rate=w) for name, task, w in said]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """The alphas that the optimizer finds, or 1 where they have to be better and are not."""
        ones = torch.ones(len(branches), dtype=torch.float64)
        rest = torch.tensor([branch.is_idle for branch in branches])
        alphas = torch.where(rest, ones, self._best_alphas(len(branches), dev))
        if self.settings.alpha_accept == "better" and dev.score(alphas)[1] < dev.score(ones)[1]:
            alphas = ones
        self.w = (self.w + alphas - 1).clamp_min(self.settings.weight_floor)
        if self.settings.renormalise:
            self.w = self.normalised_weights()
        self._log_values(branches, alphas)
        return alphas

    def _best_alphas(self, count: int, dev: MetaDev) -> Tensor:
        settings = self.settings
        rows, steps, reach = settings.alpha_batch_size, settings.alpha_steps, settings.alpha_reach
        if settings.alpha_optimizer == "newton":
            return newton_step(lambda alphas: dev.gradient(alphas, 0, rows), count, reach)
        if settings.alpha_optimizer == "black_box":
            return nelder_mead(lambda alphas: -dev.score(alphas)[1], count, steps, reach)
        return gradient_descent(
            lambda alphas, step: dev.gradient(alphas, step, rows)[1], count, steps, settings.alpha_lr, reach
        )


class DIW(BranchWeighting):
    """Rounds in turn: one that trains all tasks by their weights, and one that only looks.

    In a round that looks, a copy is trained on each objective alone; what the end task gains on meta-dev moves the
    objective's weight, w_i <- max(0, w_i + eta gain_i / max |gain|), and the copies are dropped.
    """

    settings: s.DIWSettings
    logged_quantity = "gain"

    def __init__(self, objectives: tuple[Objective, ...], settings: s.DIWSettings) -> None:
        super().__init__(objectives, settings)
        self.is_evaluation_round = False

    @property
    def logged_branches(self) -> list[str]:
        """The objectives."""
        return self.task_names[1:]

    def branches(self) -> list[Branch]:
        """All tasks together; or each objective."""
        if self.is_evaluation_round:
            return [Branch(name, {task: 1.0}) for name, task in zip(self.task_names[1:], self.tasks[1:], strict=True)]
        shares = self.w / self.w.sum()
        return [Branch("together", dict(zip(self.tasks, shares.tolist(), strict=True)))]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """The one branch as it is; or none of them."""
        looked, self.is_evaluation_round = (
            self.is_evaluation_round,
            not self.is_evaluation_round and bool(self.objectives),
        )
        alphas = torch.full((len(branches),), 0.0 if looked else 1.0, dtype=torch.float64)
        if looked:
            by = 0 if self.settings.diw_gain == "score" else 1
            alone = torch.eye(len(branches), dtype=torch.float64)
            gains = torch.tensor([dev.score(a)[by] for a in alone], dtype=torch.float64) - dev.score(alphas)[by]
            if (most := float(gains.abs().max())) > 0:
                self.w[1:] = (self.w[1:] + self.settings.diw_rate * gains / most).clamp_min(0)
            self._log_values(branches, gains)
        return alphas

    def state(self) -> dict[str, Any]:
        """The weights, and whose turn it is."""
        return super().state() | {"looks": self.is_evaluation_round}

    def load(self, state: dict[str, Any]) -> None:
        """Take both back."""
        super().load(state)
        self.is_evaluation_round = state["looks"]


class ForkMerge(BranchWeighting):
    """A branch with the end task alone, and one for each objective beside it; merged as scores best on meta-dev.

    The alphas are the paper's Lambda, which sum to 1, and an objective's weight is its branch's: equation 11.
    """

    settings: s.ForkMergeSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.ForkMergeSettings) -> None:
        super().__init__(objectives, settings)
        self.merges = 0
        self.remaining = list(range(len(self._all())))  # branches that are not pruned

    def _all(self) -> list[Branch]:
        alone = Branch("end_task", {END_TASK: 1.0})
        if self.settings.fork_branches == "together" and self.objectives:
            share = 1 / len(self.objectives)
            return [alone, Branch("together", {END_TASK: 1.0} | dict.fromkeys(self.tasks[1:], share))]
        pairs = zip(self.task_names[1:], self.tasks[1:], strict=True)
        return [alone, *(Branch(name, {END_TASK: 1.0, task: 1.0}) for name, task in pairs)]

    @property
    def logged_branches(self) -> list[str]:
        """All that there were at first."""
        return [branch.name for branch in self._all()]

    def branches(self) -> list[Branch]:
        """Those that are left."""
        every = self._all()
        return [every[b] for b in self.remaining]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Two branches by a grid on the line between them (Algorithm 1), more by the greedy search (Algorithm 3)."""
        search = line_search if len(branches) == 2 else greedy_search
        alphas = search(dev.score, len(branches), self.settings.merge_points)
        self.w[1:] = 0
        for branch, alpha in zip(branches, alphas.tolist(), strict=True):
            for task, factor in branch.factors.items():
                if task != END_TASK:
                    self.w[1 + task] = alpha * factor
        self._log_values(branches, alphas)
        self.merges += 1
        if self.merges == self.settings.prune_after:
            self._prune(alphas)
        return alphas

    def _prune(self, alphas: Tensor) -> None:
        """Keep the end task's branch, and of those that had a part the `keep_branches` with the largest (0: all)."""
        ranked = sorted(range(1, len(alphas)), key=lambda b: -float(alphas[b]))
        useful = [b for b in ranked if alphas[b] > 0][: self.settings.keep_branches or None]
        self.remaining = [self.remaining[b] for b in sorted([0, *useful])]

    def state(self) -> dict[str, Any]:
        """The weights, and which branches are left."""
        return super().state() | {"merges": self.merges, "left": self.remaining}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load(state)
        self.merges, self.remaining = state["merges"], list(state["left"])
