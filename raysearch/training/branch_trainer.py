"""Rounds of branches: every branch trains from the same parameters, and the changes are merged into them.

    theta      parameters of body and heads as one vector (D,);  delta_b = theta_b - theta
    step       an optimizer step of any one branch: a round of B branches of S steps each takes B S steps

A branch trains on whole batches on one rank: branch b on rank b % world. Its delta is then sent to all ranks, which
merge alike, so several ranks get the same result as one rank that trains the branches one after another. A branch
changes the body and the heads of its own tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from raysearch.gradients.flat import assign_gradient
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.base import END_TASK
from raysearch.methods.weighting.branch_merging import Branch, BranchWeighting
from raysearch.methods.weighting.settings import BranchSettings
from raysearch.rng import number_of, stream
from raysearch.training.branch_deltas import BranchDeltas, MetaDevEvaluator, Snapshot
from raysearch.training.context import TrainingContext
from raysearch.training.optimizer import make_optimizer, optimizer_step
from raysearch.training.step.description import Losses, Step
from raysearch.training.step.dev_gradients import DevGradients
from raysearch.training.step.head_scaling import HeadScaling
from raysearch.training.step.observations import reduce_losses
from raysearch.training.step.task_batches import StepBatches
from raysearch.training.step.task_forward import TaskForward


class BranchTrainer:
    """Trains a trial's branches and merges them, round by round."""

    def __init__(self, context: TrainingContext, weighting: BranchWeighting) -> None:
        self.weighting = weighting
        self.settings: BranchSettings = context.plan.method_settings("weighting")
        self.process_group = context.process_group
        self.context = context.on_one_rank()
        self.heads = HeadScaling(context.network, context.device)
        self.batches = StepBatches(self.context)
        self.forward = TaskForward(self.context)
        self.dev_gradients = DevGradients(self.context)
        self.round = 0  # rounds so far
        self.steps_taken: dict[str, int] = {}  # by branch
        self.optimizer_states: dict[str, Any] = {}  # of the branches of this rank, if they are kept

    # ---- the length of a round ----

    def steps(self, phase: Phase, done: int) -> int:
        """Returns the steps of the next round; 0 if fewer are left of the phase after `done`.

        Raises ValueError if the phase is too short for one round.
        """
        lengths = [self._length(branch) for branch in self.weighting.branches()]
        if not done and sum(lengths) > phase.steps:
            raise ValueError(
                f"a round takes {sum(lengths)} steps ({' + '.join(map(str, lengths))}, a branch each), and there are "
                f"{phase.steps}: more steps, or less rho or pass_steps"
            )
        return sum(lengths) if done + sum(lengths) <= phase.steps else 0

    def _length(self, branch: Branch) -> int:
        """Returns the steps of a branch: rho passes over the end task's data, or over its objective's without it."""
        if branch.is_idle:
            return 0
        training, task = self.context.training, min(branch.factors)
        if self.settings.pass_steps:
            steps = self.settings.pass_steps
        elif task == END_TASK:
            steps = -(-len(self.context.splits("train")) // training.batch_size)
        else:
            size = self.context.batches.size(self.context.plan.objectives[task])
            steps = -(-size // training.aux_batch_size)
        return max(1, round(self.settings.rho * steps))

    # ---- a round ----

    def __call__(self, phase: Phase, done: int) -> Losses:
        """Trains every branch, merges them into the network, and lets the weighting learn.

        `done` steps of the phase have been taken. Raises ArithmeticError, on all ranks, if a loss is not finite.
        """
        network, branches = self.context.network, self.weighting.branches()
        lengths = [self._length(branch) for branch in branches]
        before = Snapshot(network, self.context.parameters)
        deltas = BranchDeltas(before, self.settings, self.process_group)
        losses = self._train_branches(branches, lengths, deltas, phase, done)
        deltas.exchange(lengths)
        losses = self.process_group.sum(losses)
        self.steps_taken |= {b.name: self._steps_taken(b) + n for b, n in zip(branches, lengths, strict=True)}
        if self.weighting.normalises_deltas:
            deltas.equalise_norms()
        dev = MetaDevEvaluator(self.context, self.dev_gradients, before, deltas, self.round)
        alphas = self.weighting.merge(branches, dev)
        network.train()
        before.load_merged(alphas, deltas)
        self.round += 1
        return _mean_losses(branches, losses.tolist())

    def _train_branches(
        self, branches: list[Branch], lengths: list[int], deltas: BranchDeltas, phase: Phase, done: int
    ) -> Tensor:
        """Trains this rank's branches and records their deltas; returns their losses (B, 2), 0 of other ranks'."""
        group = self.process_group
        losses = torch.zeros(len(branches), 2, dtype=torch.float64, device=group.device)
        problem = ""
        for b, (branch, length) in enumerate(zip(branches, lengths, strict=True)):
            if b % group.world != group.rank or not length or problem:
                continue
            try:
                losses[b] = self._train(branch, length, sum(lengths), phase, done)
            except ArithmeticError as error:
                problem = f"branch {branch.name}, {error}"
            deltas.record(b)
            deltas.before.restore()
        if problems := [p for p in group.gather(problem) if p]:
            raise ArithmeticError(problems[0])
        return losses

    def _steps_taken(self, branch: Branch) -> int:
        return self.steps_taken.get(branch.name, 0)

    def _train(self, branch: Branch, length: int, round_length: int, phase: Phase, done: int) -> Tensor:
        """Takes a branch's steps; returns the mean losses (2,) of the end task and of its objectives."""
        context = self.context
        optimizer = make_optimizer(context.network, context.training)
        if branch.name in self.optimizer_states:
            optimizer.load_state_dict(self.optimizer_states[branch.name])
        losses, trained = torch.zeros(2, dtype=torch.float64, device=context.device), self._trained_parameters(branch)
        for i in range(1, length + 1):
            optimizer.zero_grad(set_to_none=True)
            step_losses = self._compute_step(branch, self._steps_taken(branch) + i, trained)
            losses += torch.tensor(step_losses, dtype=torch.float64, device=losses.device) / length
            at = i if branch.has_own_schedule else done + max(1, round(i * round_length / length))
            branch_phase = replace(phase, steps=length) if branch.has_own_schedule else phase
            optimizer_step(optimizer, context.network, context.training, branch_phase, at, branch.rate)
        if self.settings.branch_optimizer == "kept":
            self.optimizer_states[branch.name] = optimizer.state_dict()
        return losses

    def _compute_step(self, branch: Branch, number: int, trained: list[nn.Parameter]) -> Losses:
        """Sets the gradients of step `number` of a branch, counted over all rounds, in its `trained` parameters."""
        context, coefficients = self.context, branch.coefficients()
        sampled = [task for task in branch.factors if task != END_TASK]
        shares = zip(sampled, coefficients.objectives.tolist(), strict=True)
        rows = {task: max(1, round(share * context.training.aux_batch_size)) for task, share in shares}
        step = Step(number, list(branch.factors), sampled, coefficients, rows)
        seed = context.plan.seed
        self.process_group.seed(number_of(seed, f"dropout of {branch.name}", number))
        batches = self.batches.draw(step, stream(seed, f"branch {branch.name}", number))
        losses, gradient = self.forward.backward(batches, step.coefficient, trained)
        reduced = reduce_losses(context.process_group, step, losses)
        self.forward.average_statistics()
        assign_gradient(gradient, trained)
        return step.losses(reduced)

    def _trained_parameters(self, branch: Branch) -> list[nn.Parameter]:
        """Returns the parameters of the body and of the branch's own heads; the others have no gradient.

        So weight decay does not change the heads of tasks that a branch does not train.
        """
        heads = zip(self.heads.parameters, self.heads.tasks, strict=True)
        return [*self.context.body, *(parameter for parameter, task in heads if task in branch.factors)]

    # ---- stopping and resuming ----

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume, of all ranks; every rank has to call it."""
        optimizers: dict[str, Any] = {}
        for states in self.process_group.gather(self.optimizer_states):
            optimizers |= states
        return {"round": self.round, "taken": self.steps_taken, "optimizers": optimizers}

    def load(self, state: dict[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self.round, self.steps_taken, self.optimizer_states = state["round"], state["taken"], state["optimizers"]


def _mean_losses(branches: list[Branch], losses: list[list[float]]) -> Losses:
    """Returns the mean loss of the end task over the branches that train it, and of the objectives likewise."""
    end_task = [pair[0] for branch, pair in zip(branches, losses, strict=True) if END_TASK in branch.factors]
    aux = [pair[1] for branch, pair in zip(branches, losses, strict=True) if set(branch.factors) != {END_TASK}]
    return Losses(*(sum(values) / max(len(values), 1) for values in (end_task, aux)))
