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
from raysearch.methods.weighting.merge_search import black_box, descent, greedy, line, newton
from raysearch.objectives.objective import Objective


@dataclass(frozen=True)
class Branch:
    """One training from the common parameters."""

    name: str
    factors: dict[int, float]  # of the losses of the tasks that it trains
    rate: float = 1.0  # of the learning rate
    whole: bool = False  # the learning rate rises and falls within the branch, not over the phase

    @property
    def rests(self) -> bool:
        """Would it go nowhere?"""
        return self.rate == 0 or not any(self.factors.values())


class Dev(Protocol):
    """What meta-dev says of mixed deltas; `alphas` (B,) float64, one for each branch of the round."""

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        """L(alpha) and its gradient (B,), on batch `number` of this round, of `count` rows (0: all of meta-dev)."""

    def score(self, alphas: Tensor) -> tuple[float, float]:
        """The end task's metric, higher is better, and -L(alpha), on all of meta-dev."""

    def left_out(self, alphas: Tensor) -> Tensor:
        """Squared error (n,) of each labelled row by the least-squares head of the others (`dev_head`)."""


class Branching(Weighting):
    """A weighting by branches; the weights w are of the end task, then of every objective."""

    told = "alpha"  # of each branch, after a merge

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        super().__init__(objectives, settings)
        self.called = ["end_task", *(objective.name for objective in objectives)]
        self.tasks = [END_TASK, *range(len(objectives))]
        self.w = torch.ones(len(self.tasks), dtype=torch.float64)
        self.said: dict[str, float] = {}  # what the last merge came to, by branch

    @property
    def levels(self) -> bool:
        """Are the deltas to be of one length?"""
        return False

    @property
    def over(self) -> bool:
        """Are there no more rounds? What is left of the phase then takes ordinary steps by the weights."""
        return False

    @abstractmethod
    def branches(self) -> list[Branch]:
        """The branches of the next round, that with the end task alone first where there is one."""

    @abstractmethod
    def merge(self, branches: list[Branch], dev: Dev) -> Tensor:
        """The alphas (B,) float64 of a round's branches; moves the weights."""

    def normalised(self) -> Tensor:
        """The weights, scaled to a mean of 1. Raises ArithmeticError when all are 0."""
        total = float(self.w.sum())
        if total <= 0:
            raise ArithmeticError("every task's weight has fallen to 0: give a weight_floor, or a smaller alpha_lr")
        return self.w * (len(self.w) / total)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The weights as shares of their sum."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        return _shared(float(self.w[0]), self.w[1:][sampled])

    @property
    def branched(self) -> list[str]:
        """The branches that merges tell of."""
        return self.called

    def names(self) -> list[Name]:
        """Tasks and objectives; the tasks' weights as they are; and of each branch its alpha, or gain."""
        own = [("branch", "weight", name) for name in self.called]
        return super().names() + own + [("branch", self.told, name) for name in self.branched]

    def weights(self) -> Tensor:
        """As `names` has them; 0 of a branch that the last merge did not have (alphaVIL's Figure 3)."""
        said = torch.tensor([self.said.get(name, 0.0) for name in self.branched], dtype=torch.float64)
        return torch.cat([super().weights(), self.w, said])

    def state(self) -> dict[str, Any]:
        """The weights."""
        return {"w": self.w, "said": self.said}

    def load(self, state: dict[str, Any]) -> None:
        """Take the weights back."""
        self.w, self.said = state["w"].cpu(), state["said"]

    def _tell(self, branches: list[Branch], values: Tensor) -> None:
        self.said = {branch.name: value for branch, value in zip(branches, values.tolist(), strict=True)}


def coefficients_of(branch: Branch) -> Coefficients:
    """The factors of a branch's gradients; its objectives in their order."""
    objectives = torch.tensor([f for task, f in branch.factors.items() if task != END_TASK], dtype=torch.float64)
    total = float(objectives.sum())
    return Coefficients(branch.factors.get(END_TASK, 0.0), total, objectives / total if total else objectives)


def _shared(end_task: float, objectives: Tensor) -> Coefficients:
    """Weights as shares of their sum; objectives that all weigh 0 share their nothing equally."""
    aux = float(objectives.sum())
    parts = objectives / aux if aux > 0 else torch.full_like(objectives, 1 / len(objectives))
    whole = end_task + aux
    return Coefficients(end_task / whole, aux / whole, parts) if whole > 0 else Coefficients(1.0, 0.0, parts)


class AlphaVIL(Branching):
    """A branch for each task; alphas by steps down L(alpha) from 1; then w_t += alpha_t - 1."""

    settings: s.AlphaVILSettings

    @property
    def levels(self) -> bool:
        """As the setting says."""
        return self.settings.normalise_deltas

    def branches(self) -> list[Branch]:
        """Every task alone, by its weight in a mean of 1."""
        said = zip(self.called, self.tasks, self.normalised().tolist(), strict=True)
        if self.settings.weight_scales == "loss":
            return [Branch(name, {task: w}) for name, task, w in said]
        return [Branch(name, {task: 1.0}, rate=w) for name, task, w in said]

    def merge(self, branches: list[Branch], dev: Dev) -> Tensor:
        """The alphas that the optimizer finds, or 1 where they have to be better and are not."""
        ones = torch.ones(len(branches), dtype=torch.float64)
        rest = torch.tensor([branch.rests for branch in branches])
        alphas = torch.where(rest, ones, self._found(len(branches), dev))
        if self.settings.alpha_accept == "better" and dev.score(alphas)[1] < dev.score(ones)[1]:
            alphas = ones
        self.w = (self.w + alphas - 1).clamp_min(self.settings.weight_floor)
        if self.settings.renormalise:
            self.w = self.normalised()
        self._tell(branches, alphas)
        return alphas

    def _found(self, count: int, dev: Dev) -> Tensor:
        settings = self.settings
        rows, steps, reach = settings.alpha_batch_size, settings.alpha_steps, settings.alpha_reach
        if settings.alpha_optimizer == "newton":
            return newton(lambda alphas: dev.gradient(alphas, 0, rows), count, reach)
        if settings.alpha_optimizer == "black_box":
            return black_box(lambda alphas: -dev.score(alphas)[1], count, steps, reach)
        return descent(lambda alphas, step: dev.gradient(alphas, step, rows)[1], count, steps, settings.alpha_lr, reach)


class DIW(Branching):
    """Rounds in turn: one that trains all tasks by their weights, and one that only looks.

    In a round that looks, a copy is trained on each objective alone; what the end task gains on meta-dev moves the
    objective's weight, w_i <- max(0, w_i + eta gain_i / max |gain|), and the copies are dropped.
    """

    settings: s.DIWSettings
    told = "gain"

    def __init__(self, objectives: tuple[Objective, ...], settings: s.DIWSettings) -> None:
        super().__init__(objectives, settings)
        self.looks = False

    @property
    def branched(self) -> list[str]:
        """The objectives."""
        return self.called[1:]

    def branches(self) -> list[Branch]:
        """All tasks together; or each objective."""
        if self.looks:
            return [Branch(name, {task: 1.0}) for name, task in zip(self.called[1:], self.tasks[1:], strict=True)]
        shares = self.w / self.w.sum()
        return [Branch("together", dict(zip(self.tasks, shares.tolist(), strict=True)))]

    def merge(self, branches: list[Branch], dev: Dev) -> Tensor:
        """The one branch as it is; or none of them."""
        looked, self.looks = self.looks, not self.looks and bool(self.objectives)
        alphas = torch.full((len(branches),), 0.0 if looked else 1.0, dtype=torch.float64)
        if looked:
            by = 0 if self.settings.diw_gain == "score" else 1
            alone = torch.eye(len(branches), dtype=torch.float64)
            gains = torch.tensor([dev.score(a)[by] for a in alone], dtype=torch.float64) - dev.score(alphas)[by]
            if (most := float(gains.abs().max())) > 0:
                self.w[1:] = (self.w[1:] + self.settings.diw_rate * gains / most).clamp_min(0)
            self._tell(branches, gains)
        return alphas

    def state(self) -> dict[str, Any]:
        """The weights, and whose turn it is."""
        return super().state() | {"looks": self.looks}

    def load(self, state: dict[str, Any]) -> None:
        """Take both back."""
        super().load(state)
        self.looks = state["looks"]


class ForkMerge(Branching):
    """A branch with the end task alone, and one for each objective beside it; merged as scores best on meta-dev.

    The alphas are the paper's Lambda, which sum to 1, and an objective's weight is its branch's: equation 11.
    """

    settings: s.ForkMergeSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: s.ForkMergeSettings) -> None:
        super().__init__(objectives, settings)
        self.merges = 0
        self.left = list(range(len(self._all())))  # branches that are not pruned

    def _all(self) -> list[Branch]:
        alone = Branch("end_task", {END_TASK: 1.0})
        if self.settings.fork_branches == "together" and self.objectives:
            share = 1 / len(self.objectives)
            return [alone, Branch("together", {END_TASK: 1.0} | dict.fromkeys(self.tasks[1:], share))]
        pairs = zip(self.called[1:], self.tasks[1:], strict=True)
        return [alone, *(Branch(name, {END_TASK: 1.0, task: 1.0}) for name, task in pairs)]

    @property
    def branched(self) -> list[str]:
        """All that there were at first."""
        return [branch.name for branch in self._all()]

    def branches(self) -> list[Branch]:
        """Those that are left."""
        every = self._all()
        return [every[b] for b in self.left]

    def merge(self, branches: list[Branch], dev: Dev) -> Tensor:
        """Two branches by a grid on the line between them (Algorithm 1), more by the greedy search (Algorithm 3)."""
        search = line if len(branches) == 2 else greedy
        alphas = search(dev.score, len(branches), self.settings.merge_points)
        self.w[1:] = 0
        for branch, alpha in zip(branches, alphas.tolist(), strict=True):
            for task, factor in branch.factors.items():
                if task != END_TASK:
                    self.w[1 + task] = alpha * factor
        self._tell(branches, alphas)
        self.merges += 1
        if self.merges == self.settings.prune_after:
            self._prune(alphas)
        return alphas

    def _prune(self, alphas: Tensor) -> None:
        """Keep the end task's branch, and of those that had a part the `keep_branches` with the largest (0: all)."""
        ranked = sorted(range(1, len(alphas)), key=lambda b: -float(alphas[b]))
        useful = [b for b in ranked if alphas[b] > 0][: self.settings.keep_branches or None]
        self.left = [self.left[b] for b in sorted([0, *useful])]

    def state(self) -> dict[str, Any]:
        """The weights, and which branches are left."""
        return super().state() | {"merges": self.merges, "left": self.left}

    def load(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load(state)
        self.merges, self.left = state["merges"], list(state["left"])
