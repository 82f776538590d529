"""Rounds: every branch trains from the same parameters, and what it changed is mixed into them.

    theta      parameters of body and heads as one vector (D,);  delta_b = theta_b - theta
    step       an optimizer step of any one branch: a round of B branches of S steps each takes B S of them

A branch sees whole batches on one rank; branch b trains on rank b % world, and its delta then goes to all ranks, which
mix alike. So several ranks come to what one comes to that trains the branches one after another. Statistics that
layers keep (BatchNorm's) are mixed with |alpha_b| / sum |alpha|, whole numbers among them taken of the first branch.
A branch moves the body and the heads of its own tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.gradients.flat import flat_gradient
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.base import END_TASK
from raysearch.methods.weighting.branch_merging import Branch, BranchWeighting
from raysearch.methods.weighting.settings import BranchSettings
from raysearch.modalities.losses import example_losses
from raysearch.models.network import Network
from raysearch.plan import TrialPlan
from raysearch.rng import number_of, stream
from raysearch.training.dev_head import some_of
from raysearch.training.step import Losses, Step
from raysearch.training.update import Update

ROWS = 64  # of meta-dev, a forward


class Take(Protocol):
    """Lets an optimizer take a step along the gradients that are set."""

    def __call__(self, optimizer: torch.optim.Optimizer, phase: Phase, at: int, scale: float) -> None:
        """The step at place `at` (from 1) of a phase, its learning rates times `scale`."""


class BranchTrainer:
    """Trains a trial's branches and mixes them, round by round."""

    def __init__(
        self,
        update: Update,
        process_group: ProcessGroup,
        new_optimizer: Callable[[], torch.optim.Optimizer],
        take: Take,
        score: Callable[[], tuple[float, float]],
    ) -> None:
        """`score` gives the metric and the loss of the network as it stands on meta-dev, on every rank the same."""
        assert isinstance(update.weighting, BranchWeighting)
        self.weighting: BranchWeighting = update.weighting
        self.settings: BranchSettings = update.plan.method_settings("weighting")
        self.update, self.process_group = update.single_rank(), process_group
        self.plan: TrialPlan = update.plan
        self.new_optimizer, self.take, self.score = new_optimizer, take, score
        self.round = 0  # rounds so far
        self.taken: dict[str, int] = {}  # steps so far, by branch
        self.optimizers: dict[str, Any] = {}  # states that are kept, of the branches of this rank

    # ---- how long ----

    def steps(self, phase: Phase, done: int) -> int:
        """The steps of the next round; 0 if it has no room in what is left of the phase after `done`.

        Raises ValueError where not even the first has.
        """
        each = [self._length(branch) for branch in self.weighting.branches()]
        if not done and sum(each) > phase.steps:
            raise ValueError(
                f"a round takes {sum(each)} steps ({' + '.join(map(str, each))}, a branch each), and there are "
                f"{phase.steps}: more steps, or less rho or pass_steps"
            )
        return sum(each) if done + sum(each) <= phase.steps else 0

    def _length(self, branch: Branch) -> int:
        """Steps of a branch: rho x a pass over the end task's data where it takes part, else over its objective's."""
        if branch.is_idle:
            return 0
        training, task = self.plan.training, min(branch.factors)
        if self.settings.pass_steps:
            whole = self.settings.pass_steps
        elif task == END_TASK:
            whole = -(-len(self.update.splits("train")) // training.batch_size)
        else:
            size = self.update.batches.size(self.plan.objectives[task])
            whole = -(-size // training.aux_batch_size)
        return max(1, round(self.settings.rho * whole))

    # ---- a round ----

    def __call__(self, phase: Phase, done: int) -> Losses:
        """Train every branch, mix them into the network, and let the weighting learn; `done` steps of the phase before.

        Raises ArithmeticError, on all ranks alike, if a loss is not finite.
        """
        network, branches = self.update.network, self.weighting.branches()
        lengths = [self._length(branch) for branch in branches]
        before = Snapshot(network, self.update.parameters)
        changes = BranchDeltas(before, self.settings, self.process_group)
        said = torch.zeros(len(branches), 2, dtype=torch.float64, device=self.process_group.device)
        problem = ""
        for b, (branch, length) in enumerate(zip(branches, lengths, strict=True)):
            if b % self.process_group.world != self.process_group.rank or not length or problem:
                continue
            try:
                said[b] = self._train(branch, length, sum(lengths), phase, done)
            except ArithmeticError as error:
                problem = f"branch {branch.name}, {error}"
            changes.keep(b)
            before.restore()
        if problems := [p for p in self.process_group.gather(problem) if p]:
            raise ArithmeticError(problems[0])
        changes.share(lengths)
        said = self.process_group.sum(said)
        self.taken |= {br.name: self._taken(br) + n for br, n in zip(branches, lengths, strict=True)}
        if self.weighting.normalises_deltas:
            changes.level()
        dev = MetaDevEvaluator(self, before, changes)
        alphas = self.weighting.merge(branches, dev)
        network.train()
        before.load_merged(alphas, changes)
        self.round += 1
        return _losses(branches, said.tolist())

    def _taken(self, branch: Branch) -> int:
        return self.taken.get(branch.name, 0)

    def _train(self, branch: Branch, length: int, whole: int, phase: Phase, done: int) -> Tensor:
        """Take a branch's steps; the mean losses (2,) of the end task and of the objectives, by their factors."""
        optimizer = self.new_optimizer()
        if branch.name in self.optimizers:
            optimizer.load_state_dict(self.optimizers[branch.name])
        factors, seed = branch.coefficients(), self.plan.seed
        tasks = list(branch.factors)
        sampled = [task for task in tasks if task != END_TASK]
        parts = zip(sampled, factors.objectives.tolist(), strict=True)
        rows = {task: max(1, round(part * self.plan.training.aux_batch_size)) for task, part in parts}
        losses = torch.zeros(2, dtype=torch.float64, device=self.process_group.device)
        for i in range(1, length + 1):
            number = self._taken(branch) + i
            self.process_group.seed(number_of(seed, f"dropout of {branch.name}", number))
            optimizer.zero_grad(set_to_none=True)
            step = Step(number, tasks, sampled, factors, rows)
            own = self.update.compute_step(step, stream(seed, f"branch {branch.name}", number))
            losses += torch.tensor([own.end_task, own.aux], dtype=torch.float64, device=losses.device) / length
            self._leave_heads(tasks)
            if branch.has_own_schedule:
                self.take(optimizer, replace(phase, steps=length), i, branch.rate)
            else:
                self.take(optimizer, phase, done + max(1, round(i * whole / length)), branch.rate)
        if self.settings.branch_optimizer == "kept":
            self.optimizers[branch.name] = optimizer.state_dict()
        return losses

    def _leave_heads(self, tasks: list[int]) -> None:
        """Let no decay move the heads of tasks that a branch does not train."""
        for head, task in zip(self.update.heads, self.update.head_tasks, strict=True):
            if task not in tasks:
                head.grad = None

    # ---- stopping and going on ----

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on, of all ranks; every rank has to ask."""
        optimizers: dict[str, Any] = {}
        for own in self.process_group.gather(self.optimizers):
            optimizers |= own
        return {"round": self.round, "taken": self.taken, "optimizers": optimizers}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.round, self.taken, self.optimizers = state["round"], state["taken"], state["optimizers"]


def _losses(branches: list[Branch], said: list[list[float]]) -> Losses:
    """Mean losses of a round: of the end task over its branches, of the others by what each branch told."""
    with_end_task = [own[0] for branch, own in zip(branches, said, strict=True) if END_TASK in branch.factors]
    others = [own[1] for branch, own in zip(branches, said, strict=True) if set(branch.factors) != {END_TASK}]
    return Losses(*(sum(losses) / max(len(losses), 1) for losses in (with_end_task, others)))


class Snapshot:
    """The common parameters of a round, and the way back to them."""

    def __init__(self, network: Network, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        kept = network.state_dict().keys()
        self.buffers = {name: buffer for name, buffer in network.named_buffers() if name in kept}
        self.theta, self.statistics = self.flat(), self.copied_from(self.buffers)

    def flat(self) -> Tensor:
        """The parameters as they stand, (D,)."""
        return torch.cat([p.detach().flatten() for p in self.parameters])

    def copied_from(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same values, in tensors of their own."""
        return {name: value.clone() for name, value in values.items()}

    def restore(self) -> None:
        """Back to the common parameters."""
        self._put(self.theta, self.statistics)

    def load_merged(self, alphas: Tensor, changes: BranchDeltas) -> None:
        """The network at theta + sum_b alpha_b delta_b, and the statistics that go with it."""
        theta = self.theta.clone()
        for alpha, delta in zip(alphas.tolist(), changes.deltas, strict=True):
            if alpha and delta is not None:
                theta += alpha * delta.to(theta)
        statistics, size = self.copied_from(self.statistics), alphas.abs()
        for name, value in statistics.items() if float(size.sum()) > 0 else ():
            if not value.is_floating_point():
                value += changes.moved[0][name]
                continue
            for share, moved in zip((size / size.sum()).tolist(), changes.moved, strict=True):
                value += share * moved[name]
        self._put(theta, statistics)

    def _put(self, theta: Tensor, statistics: dict[str, Tensor]) -> None:
        start = 0
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(theta[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()
            for name, buffer in self.buffers.items():
                buffer.copy_(statistics[name])


class BranchDeltas:
    """What the branches of a round changed: of every branch its delta (D,), None if it rested, and statistics."""

    def __init__(self, before: Snapshot, settings: BranchSettings, process_group: ProcessGroup) -> None:
        self.before, self.process_group = before, process_group
        self.precision = torch.bfloat16 if settings.delta_precision == "bfloat16" else torch.float32
        self.place = torch.device("cpu") if settings.delta_place == "cpu" else process_group.device
        self.deltas: list[Tensor | None] = []
        self.moved: list[dict[str, Tensor]] = []
        self._own: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}

    def keep(self, b: int) -> None:
        """Take down what branch `b` of this rank changed; the network stands at its end."""
        delta = (self.before.flat() - self.before.theta).to(self.precision).to(self.place)
        self._own[b] = delta, {n: own - self.before.statistics[n] for n, own in self.before.buffers.items()}

    def share(self, lengths: list[int]) -> None:
        """Let every rank have the changes of all branches, which took so many steps each."""
        for b, length in enumerate(lengths):
            nothing = {name: torch.zeros_like(value) for name, value in self.before.statistics.items()}
            if not length:
                self.deltas.append(None)
                self.moved.append(nothing)
                continue
            like = torch.empty_like(self.before.theta, dtype=self.precision, device=self.place)
            delta, moved = self._own.pop(b, (like, nothing))
            owner = b % self.process_group.world
            self.deltas.append(self.process_group.share(delta, owner))
            self.moved.append({name: self.process_group.share(value, owner) for name, value in moved.items()})

    def level(self) -> None:
        """Scale all deltas to their mean norm."""
        norms = [float(delta.float().norm()) for delta in self.deltas if delta is not None]
        for delta in self.deltas:
            if delta is not None and (norm := float(delta.float().norm())) > 0:
                delta *= sum(norms) / len(norms) / norm

    def directional_derivatives(self, gradient: Tensor) -> Tensor:
        """<gradient, delta_b> of every branch, (B,) float64."""
        dots = [0.0 if delta is None else float(delta.to(gradient) @ gradient) for delta in self.deltas]
        return torch.tensor(dots, dtype=torch.float64)


class MetaDevEvaluator:
    """What meta-dev says of mixed deltas: `branches.Dev`. All ranks ask the same and get the same."""

    def __init__(self, rounds: BranchTrainer, before: Snapshot, changes: BranchDeltas) -> None:
        self.rounds, self.before, self.changes = rounds, before, changes
        self.known: dict[tuple[float, ...], tuple[float, float]] = {}

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        """L(alpha) and its gradient (B,): one backward, and a product with each delta."""
        update, round_ = self.rounds.update, self.rounds.round
        split = update.splits("meta_dev")
        generator = stream(update.plan.seed, f"alphas {number}", round_)
        rows = some_of(torch.arange(len(split)), count or len(split), generator)
        self.before.load_merged(alphas, self.changes)
        update.network.eval()
        value, slope = 0.0, torch.zeros_like(self.before.theta)
        for some in rows.split(ROWS):
            group = update.batches.end_task_batch(split, some).to(slope.device)
            with update.arithmetic():
                logits = update.network.end_task(update.network.hidden(*group.inputs))
            loss = example_losses(logits, group.targets.labels).sum() / len(rows)
            slope += flat_gradient(loss, update.parameters)
            value += float(loss.detach())
        if not abs(value) < float("inf"):
            raise ArithmeticError(f"round {round_ + 1}: the loss on meta-dev is not finite; a smaller alpha_lr, or lr")
        return value, self.changes.directional_derivatives(slope)

    def score(self, alphas: Tensor) -> tuple[float, float]:
        """The metric and -L(alpha) on all of meta-dev; the least there is where L is not finite."""
        key = tuple(alphas.tolist())
        if key not in self.known:
            self.before.load_merged(alphas, self.changes)
            metric, loss = self.rounds.score()
            least = float("-inf")
            self.known[key] = (metric, -loss) if abs(loss) < float("inf") else (least, least)
        return self.known[key]

    def leave_one_out_errors(self, alphas: Tensor) -> Tensor:
        """The errors of the round's rows, the same for all alphas."""
        self.before.load_merged(alphas, self.changes)
        return self.rounds.update.dev_gradients.left_out(self.rounds.round).cpu()
