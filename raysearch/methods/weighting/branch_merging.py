"""Branch and merge: weights learned from how each task's own training changes the parameters.

From common parameters theta every branch trains separately for a while; its delta is the change of the parameters. A
weighting of this family declares the branches of each round, merges their deltas and updates the tasks' weights:

    theta <- theta + sum_b alpha_b delta_b

    w_t       weight of task t, initially 1; of the end task and of every objective
    L(alpha)  the end task's loss on meta-dev at theta + sum_b alpha_b delta_b;  dL/dalpha_b = <grad L, delta_b>

`training.branch_trainer` trains the branches and holds the deltas. This module has one number per branch only.

alphaVIL   Kourdis, Gordon-Hall & Gorinski 2024, https://arxiv.org/abs/2405.07769; docs/guide/branches.md says which
           parts are known to be the paper's and which are ours
DIW        our interpretation of what alphaVIL's paper compares itself with under this name, after the discriminative
           importance weights of Sivasankaran, Vincent & Illina (ICASSP 2017)
ForkMerge  Jiang et al. (NeurIPS 2023), Algorithms 1 to 3, https://arxiv.org/abs/2301.12618
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from raysearch.methods.weighting.base import END_TASK, Coefficients, Name, Weighting
from raysearch.methods.weighting.merge_search import (
    gradient_descent,
    greedy_search,
    line_search,
    nelder_mead,
    newton_step,
)
from raysearch.methods.weighting.settings import AlphaVILSettings, DIWSettings, ForkMergeSettings
from raysearch.objectives.objective import Objective


@dataclass(frozen=True)
class Branch:
    """One training that starts from the common parameters."""

    name: str
    factors: dict[int, float]  # factor of each trained task's loss
    rate: float = 1.0  # factor of the learning rate
    has_own_schedule: bool = False  # the learning rate rises and falls within the branch, not over the phase

    @property
    def is_idle(self) -> bool:
        """Whether training the branch would change nothing."""
        return self.rate == 0 or not any(self.factors.values())

    def coefficients(self) -> Coefficients:
        """Returns the coefficients of the branch's gradients; its objectives are in the order of `factors`."""
        objectives = torch.tensor([f for task, f in self.factors.items() if task != END_TASK], dtype=torch.float64)
        total = float(objectives.sum())
        return Coefficients(self.factors.get(END_TASK, 0.0), total, objectives / total if total else objectives)


class MetaDev(Protocol):
    """Evaluates merged deltas on meta-dev; `alphas` (B,) float64 has one coefficient per branch of the round."""

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        """Returns L(alpha) and its gradient (B,), on batch `number` of this round, of `count` examples (0: all)."""

    def score(self, alphas: Tensor) -> tuple[float, float]:
        """Returns the end task's metric, higher is better, and -L(alpha), on all of meta-dev."""

    def leave_one_out_errors(self, alphas: Tensor, *, held_out: bool = False) -> Tensor:
        """Returns the squared error (n,) of each labelled example by the least-squares head of the others.

        With `held_out` the examples are meta-dev's only, not also those of train.
        """


class BranchWeighting(Weighting):
    """A weighting that learns from rounds of branches; its weights w are those of the end task and every objective."""

    logged_quantity = "alpha"  # the number that is logged for each branch after a merge

    def __init__(self, objectives: tuple[Objective, ...], settings: Any) -> None:
        super().__init__(objectives, settings)
        self.task_names = ["end_task", *(objective.name for objective in objectives)]
        self.tasks = [END_TASK, *range(len(objectives))]
        self.w = torch.ones(len(self.tasks), dtype=torch.float64)
        self.last_values: dict[str, float] = {}  # the logged quantity of each branch in the last merge

    @property
    def normalises_deltas(self) -> bool:
        """Whether the deltas of a round are scaled to one length."""
        return False

    @property
    def is_finished(self) -> bool:
        """Whether there are no more rounds; the rest of the phase is then trained by ordinary steps."""
        return False

    @property
    def may_skip_rounds(self) -> bool:
        """Whether a phase with too few steps left for a round goes on by ordinary steps, and does not end."""
        return False

    def count_step(self) -> None:
        """Counts an ordinary step of a phase with objectives."""

    @abstractmethod
    def branches(self) -> list[Branch]:
        """Returns the branches of the next round; a branch with the end task alone comes first."""

    @abstractmethod
    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Returns the alphas (B,) float64 of a round's branches, and updates the weights."""

    def normalised_weights(self) -> Tensor:
        """Returns the weights, scaled to a mean of 1. Raises ArithmeticError if all are 0."""
        total = float(self.w.sum())
        if total <= 0:
            raise ArithmeticError("every task's weight has fallen to 0: give a weight_floor, or a smaller alpha_lr")
        return self.w * (len(self.w) / total)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns the weights, normalised to sum to 1."""
        if not sampled:
            return Coefficients(1.0, 0.0, torch.empty(0, dtype=torch.float64))
        return _normalised_coefficients(float(self.w[0]), self.w[1:][sampled])

    @property
    def logged_branches(self) -> list[str]:
        """The branches whose logged quantity is in the weights table."""
        return self.task_names

    def names(self) -> list[Name]:
        """Returns the names of tasks and objectives, of the raw weights, and of each branch's logged quantity."""
        raw_weights = [("branch", "weight", name) for name in self.task_names]
        logged = [("branch", self.logged_quantity, name) for name in self.logged_branches]
        return super().names() + raw_weights + logged

    def weights(self) -> Tensor:
        """Returns the values of `names`; 0 for a branch that was not in the last merge (alphaVIL's Figure 3)."""
        logged = [self.last_values.get(name, 0.0) for name in self.logged_branches]
        return torch.cat([super().weights(), self.w, torch.tensor(logged, dtype=torch.float64)])

    def state(self) -> dict[str, Any]:
        """Returns the weights and the last logged values."""
        return {"w": self.w, "said": self.last_values}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the weights and the last logged values."""
        self.w, self.last_values = state["w"].cpu(), state["said"]

    def _log_values(self, branches: list[Branch], values: Tensor) -> None:
        self.last_values = {branch.name: value for branch, value in zip(branches, values.tolist(), strict=True)}


def _normalised_coefficients(end_task: float, objectives: Tensor) -> Coefficients:
    """Normalises the weights to sum to 1. If every objective has weight 0, objectives get equal shares of 0."""
    aux = float(objectives.sum())
    shares = objectives / aux if aux > 0 else torch.full_like(objectives, 1 / len(objectives))
    total = end_task + aux
    return Coefficients(end_task / total, aux / total, shares) if total > 0 else Coefficients(1.0, 0.0, shares)


class AlphaVIL(BranchWeighting):
    """alphaVIL: one branch per task; the alphas are those that lower L(alpha), and w_t <- w_t + alpha_t - 1."""

    settings: AlphaVILSettings

    @property
    def normalises_deltas(self) -> bool:
        """Whether the deltas of a round are scaled to one length, by `normalise_deltas`."""
        return self.settings.normalise_deltas

    def branches(self) -> list[Branch]:
        """Returns a branch for each task; the task's weight, of mean 1, scales its learning rate or its loss."""
        tasks = zip(self.task_names, self.tasks, self.normalised_weights().tolist(), strict=True)
        if self.settings.weight_scales == "loss":
            return [Branch(name, {task: w}) for name, task, w in tasks]
        return [Branch(name, {task: 1.0}, rate=w) for name, task, w in tasks]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Returns the alphas that the optimizer finds; 1 if `alpha_accept` requires a lower loss and theirs is not."""
        ones = torch.ones(len(branches), dtype=torch.float64)
        is_idle = torch.tensor([branch.is_idle for branch in branches])
        alphas = torch.where(is_idle, ones, self._optimise_alphas(len(branches), dev))
        if self.settings.alpha_accept == "better" and dev.score(alphas)[1] < dev.score(ones)[1]:
            alphas = ones
        self.w = (self.w + alphas - 1).clamp_min(self.settings.weight_floor)
        if self.settings.renormalise:
            self.w = self.normalised_weights()
        self._log_values(branches, alphas)
        return alphas

    def _optimise_alphas(self, count: int, dev: MetaDev) -> Tensor:
        settings = self.settings
        batch_size, steps, reach = settings.alpha_batch_size, settings.alpha_steps, settings.alpha_reach
        if settings.alpha_optimizer == "newton":
            return newton_step(lambda alphas: dev.gradient(alphas, 0, batch_size), count, reach)
        if settings.alpha_optimizer == "black_box":
            return nelder_mead(lambda alphas: -dev.score(alphas)[1], count, steps, reach)

        def gradient(alphas: Tensor, step: int) -> Tensor:
            return dev.gradient(alphas, step, batch_size)[1]

        return gradient_descent(gradient, count, steps, settings.alpha_lr, reach)


class DIW(BranchWeighting):
    """DIW: alternates between training all tasks jointly and evaluating each objective on its own.

    In an evaluation round, a copy of the network is trained on each objective alone. The improvement of the end task
    on meta-dev updates the objective's weight, w_i <- max(0, w_i + eta gain_i / max |gain|); the copies are dropped.
    """

    settings: DIWSettings
    logged_quantity = "gain"

    def __init__(self, objectives: tuple[Objective, ...], settings: DIWSettings) -> None:
        super().__init__(objectives, settings)
        self.is_evaluation_round = False

    @property
    def logged_branches(self) -> list[str]:
        """The objectives."""
        return self.task_names[1:]

    def branches(self) -> list[Branch]:
        """Returns one branch with all tasks, or in an evaluation round one branch per objective."""
        if self.is_evaluation_round:
            return [Branch(name, {task: 1.0}) for name, task in zip(self.task_names[1:], self.tasks[1:], strict=True)]
        shares = self.w / self.w.sum()
        return [Branch("together", dict(zip(self.tasks, shares.tolist(), strict=True)))]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Returns 1 for the joint branch; in an evaluation round, returns 0 for all and updates the weights."""
        if not self.is_evaluation_round:
            self.is_evaluation_round = bool(self.objectives)
            return torch.ones(len(branches), dtype=torch.float64)
        self.is_evaluation_round = False
        alphas = torch.zeros(len(branches), dtype=torch.float64)
        quantity = 0 if self.settings.diw_gain == "score" else 1
        one_branch_each = torch.eye(len(branches), dtype=torch.float64)
        after = torch.tensor([dev.score(alone)[quantity] for alone in one_branch_each], dtype=torch.float64)
        gains = after - dev.score(alphas)[quantity]
        largest = float(gains.abs().max())
        if largest > 0:
            self.w[1:] = (self.w[1:] + self.settings.diw_rate * gains / largest).clamp_min(0)
        self._log_values(branches, gains)
        return alphas

    def state(self) -> dict[str, Any]:
        """Returns the weights, and whether the next round is an evaluation."""
        return super().state() | {"looks": self.is_evaluation_round}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the weights, and whether the next round is an evaluation."""
        super().load(state)
        self.is_evaluation_round = state["looks"]


class ForkMerge(BranchWeighting):
    """ForkMerge: a branch with the end task alone and one for each objective together with the end task.

    The alphas are the paper's Lambda: they sum to 1 and are those that score best on meta-dev. An objective's weight
    is the alpha of its branch (equation 11).
    """

    settings: ForkMergeSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: ForkMergeSettings) -> None:
        super().__init__(objectives, settings)
        self.merges = 0
        self.remaining = list(range(len(self._all_branches())))  # numbers of the branches that are not pruned

    def _all_branches(self) -> list[Branch]:
        end_task_only = Branch("end_task", {END_TASK: 1.0})
        if self.settings.fork_branches == "together" and self.objectives:
            share = 1 / len(self.objectives)
            return [end_task_only, Branch("together", {END_TASK: 1.0} | dict.fromkeys(self.tasks[1:], share))]
        objectives = zip(self.task_names[1:], self.tasks[1:], strict=True)
        return [end_task_only, *(Branch(name, {END_TASK: 1.0, task: 1.0}) for name, task in objectives)]

    @property
    def logged_branches(self) -> list[str]:
        """All branches, including pruned ones."""
        return [branch.name for branch in self._all_branches()]

    def branches(self) -> list[Branch]:
        """Returns the branches that are not pruned."""
        all_branches = self._all_branches()
        return [all_branches[b] for b in self.remaining]

    def merge(self, branches: list[Branch], dev: MetaDev) -> Tensor:
        """Returns alphas by a line search for two branches (Algorithm 1), by a greedy one for more (Algorithm 3)."""
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
        """Keeps the end task's branch, and the `keep_branches` others with the largest positive alphas (0: all)."""
        ranked = sorted(range(1, len(alphas)), key=lambda b: -float(alphas[b]))
        useful = [b for b in ranked if alphas[b] > 0][: self.settings.keep_branches or None]
        self.remaining = [self.remaining[b] for b in sorted([0, *useful])]

    def state(self) -> dict[str, Any]:
        """Returns the weights, the number of merges and the remaining branches."""
        return super().state() | {"merges": self.merges, "left": self.remaining}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the weights, the number of merges and the remaining branches."""
        super().load(state)
        self.merges, self.remaining = state["merges"], list(state["left"])
