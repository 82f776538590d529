"""The steps of a phase: ordinary ones of an optimizer, or rounds of branches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.branch_merging import BranchWeighting
from raysearch.training import checkpoint
from raysearch.training.branch_trainer import BranchTrainer
from raysearch.training.context import TrainingContext, build
from raysearch.training.head_fitting import fit_head
from raysearch.training.optimizer import make_optimizer, optimizer_step
from raysearch.training.parameters import parameters_of, set_parameters
from raysearch.training.position import Position
from raysearch.training.step.contrast import ContrastStep
from raysearch.training.step.description import Losses
from raysearch.training.step.update import Update
from raysearch.training.weight_average import WeightAverage


class PhaseRunner:
    """Begins the phases of a trial, and takes their steps."""

    def __init__(self, context: TrainingContext, best_file: Path) -> None:
        """`best_file` has the best parameters so far, once there are any."""
        self.context, self.network, self.best_file = context, context.network, best_file
        self.update, self.contrast = Update(context), ContrastStep(context)
        self.branch_trainer: BranchTrainer | None = None
        if METHODS[context.plan.weighting].merges_branches:
            self.branch_trainer = BranchTrainer(context, cast(BranchWeighting, self.update.weighting))
        self.average = WeightAverage(self.network, context.training.weight_average)
        self.position = Position()
        self.optimizer: torch.optim.Optimizer | None = None  # None between phases

    def begin(self, phase: Phase) -> None:
        """Begins a phase: with a new optimizer, and with the best or the first parameters if it asks for them."""
        if phase.starts_from_best and self.position.best is not None:
            self.context.process_group.barrier()
            set_parameters(self.network, checkpoint.load(self.best_file, self.context.device)["parameters"])
        if phase.starts_from_initial:
            set_parameters(self.network, parameters_of(build(self.context.plan, self.context.metadata)))
        self.optimizer = make_optimizer(self.network, self.context.training)

    def end(self) -> None:
        """Ends a phase, with the mean of its parameters if there is one."""
        self.average.finish()
        self.position.begin_next_phase()
        self.optimizer = None

    def is_over(self, phase: Phase) -> bool:
        """Returns whether the phase has no steps left, or too many evaluations without improvement."""
        is_out_of_patience = 0 < self.context.training.patience <= self.position.evaluations_without_improvement
        return self.has_no_steps_left(phase) or is_out_of_patience

    def has_no_steps_left(self, phase: Phase) -> bool:
        """Returns whether the phase has no room for another step, or round."""
        if (branch_trainer := self._branch_trainer_of(phase)) is not None:
            return not branch_trainer.steps(phase, self.position.phase_step)
        return self.position.phase_step >= phase.steps

    def advance(self, phase: Phase) -> bool:
        """Takes a step; or a round, which is as many steps as its branches take. Returns whether it was a round."""
        done, losses = self.position.phase_step, None
        if (branch_trainer := self._branch_trainer_of(phase)) is not None:
            steps, losses = branch_trainer.steps(phase, done), branch_trainer(phase, done)
            self.position.steps_in_rounds += steps
        elif phase.fits_head:
            steps, losses = 1, Losses(fit_head(self.context), 0.0)
        else:
            steps, losses = 1, self._take_step(phase)
        if self.average.decay and not phase.fits_head:
            self.average.update()
        if self.context.teacher is not None and not phase.fits_head:
            self.context.teacher.update()
        self.position.advance(steps, losses)
        return branch_trainer is not None

    def _branch_trainer_of(self, phase: Phase) -> BranchTrainer | None:
        """Returns the trainer of a phase in rounds: one in which the end task and its auxiliaries learn together."""
        if self.branch_trainer is None or self.branch_trainer.weighting.is_finished:
            return None
        if not (phase.trains_end_task and phase.trains_objectives):
            return None
        if self.branch_trainer.weighting.may_skip_rounds and not self.branch_trainer.steps(
            phase, self.position.phase_step
        ):
            return None
        return self.branch_trainer

    def _take_step(self, phase: Phase) -> Losses | None:
        """Takes a step of the optimizer; returns its losses, None for pairs."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        losses: Losses | None = None
        if phase.contrasts_labels:
            self.contrast(self.position.step + 1)
        else:
            losses = self.update(phase, self.position.step + 1)
        steps_in_rounds = self.position.steps_in_rounds
        ordinary_steps = replace(phase, steps=phase.steps - steps_in_rounds)
        at = self.position.phase_step + 1 - steps_in_rounds
        optimizer_step(self.optimizer, self.network, self.context.training, ordinary_steps, at)
        if losses is not None:
            self.update.observe_after_update()
        if self.branch_trainer is not None and phase.trains_objectives:
            self.branch_trainer.weighting.count_step()
        return losses
