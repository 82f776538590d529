"""train(plan): one trial from its plan to its last evaluation, without knowledge of Ray.

Training is deterministic given the plan: what is random at a step depends on the plan's seed and on the step's number
alone. A trial that was interrupted resumes from its checkpoint and ends as if it had not been, bit for bit on CPU.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raysearch.distributed import ProcessGroup
from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.branch_merging import BranchWeighting
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.branch_trainer import BranchTrainer
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.context import TrainingContext, build
from raysearch.training.evaluation import evaluate
from raysearch.training.optimizer import make_optimizer, optimizer_step
from raysearch.training.parameters import parameters_of, set_parameters
from raysearch.training.step import Losses
from raysearch.training.update import Update
from raysearch.training.weight_log import WeightLog


def train(plan: TrialPlan, *, folder: Path, process_group: ProcessGroup | None = None) -> Generator[Report, bool, None]:
    """Yields a report at each evaluation; `send(True)` ends the trial there.

    Every rank of a process group iterates in step. Reports of an earlier attempt in `folder` are yielded again, marked
    as replayed, and the trial resumes from there. If it cannot be resumed, it restarts from scratch, and its first
    report has the reason. Raises ArithmeticError, on all ranks, if a loss is not finite.
    """
    trial = Trial(plan, TrialFolder(folder), process_group or ProcessGroup())
    for report in trial.earlier_reports:
        if (yield report):
            return
    for report in trial.run():
        if (yield report):
            return


class Trial:
    """A trial between two steps: its phase and step, its parts that learn, and its best parameters so far."""

    def __init__(self, plan: TrialPlan, files: TrialFolder, process_group: ProcessGroup) -> None:
        self.plan, self.files, self.process_group, self.training = plan, files, process_group, plan.training
        self.context = TrainingContext.from_plan(plan, process_group)
        self.network = self.context.network
        self.update = Update(self.context)
        weighting = self.update.weighting
        self.branch_trainer = BranchTrainer(self.context, weighting) if isinstance(weighting, BranchWeighting) else None
        self.phases: tuple[Phase, ...] = METHODS[plan.schedule].load()(plan.training, plan.method_settings("schedule"))
        self.phase = self.phase_step = self.step = 0
        self.evaluations_without_improvement = 0
        self.steps_in_rounds = 0  # steps of the phase in rounds of branches, before ordinary ones
        self.best: dict[str, float] | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.loss_sums = {"end_task": 0.0, "aux": 0.0, "steps": 0}  # since the last evaluation
        self.weight_log = WeightLog(weighting, self.training.weights_every)
        self.seconds_before = 0.0
        self.started = time.perf_counter()
        self.earlier_reports: list[Report] = []
        self.restart_reason: str = process_group.broadcast(files.ready() if process_group.rank == 0 else "")
        if process_group.broadcast(files.state.exists()):
            self._resume()

    # ---- phases ----

    def run(self) -> Iterator[Report]:
        """Takes all steps that are left; yields a report at each evaluation."""
        while self.phase < len(self.phases):
            phase = self.phases[self.phase]
            if self.optimizer is None:
                self.begin(phase)
            while not self.is_over(phase):
                before = self.phase_step
                self.advance(phase)
                if self._passed(before, self.training.eval_every) or self._has_no_steps_left(phase):
                    report = self._evaluate(phase) if phase.trains_end_task else None
                    self._save(report)
                    if report is not None:
                        yield report
                elif self.training.checkpoint_every and self._passed(before, self.training.checkpoint_every):
                    self._save(None)
            self.phase, self.phase_step, self.optimizer = self.phase + 1, 0, None
            self.evaluations_without_improvement = self.steps_in_rounds = 0

    def is_over(self, phase: Phase) -> bool:
        """Returns whether the phase has no steps left, or too many evaluations without improvement."""
        is_out_of_patience = 0 < self.training.patience <= self.evaluations_without_improvement
        return self._has_no_steps_left(phase) or is_out_of_patience

    def _has_no_steps_left(self, phase: Phase) -> bool:
        """Returns whether the phase has no room for another step, or round."""
        if (branch_trainer := self._branch_trainer_of(phase)) is not None:
            return not branch_trainer.steps(phase, self.phase_step)
        return self.phase_step >= phase.steps

    def _passed(self, before: int, every: int) -> bool:
        """Returns whether the phase has passed a multiple of `every` steps since step `before`."""
        return before // every < self.phase_step // every

    def _branch_trainer_of(self, phase: Phase) -> BranchTrainer | None:
        """Returns the trainer of a phase in rounds: one in which the end task and its auxiliaries learn together."""
        if self.branch_trainer is None or self.branch_trainer.weighting.is_finished:
            return None
        return self.branch_trainer if phase.trains_end_task and phase.trains_objectives else None

    def begin(self, phase: Phase) -> None:
        """Begins a phase: with a new optimizer, and with the best or the first parameters if it asks for them."""
        if phase.starts_from_best and self.best is not None:
            self.process_group.barrier()
            set_parameters(self.network, checkpoint.load(self.files.best, self.process_group.device)["parameters"])
        if phase.starts_from_initial:
            set_parameters(self.network, parameters_of(build(self.plan, self.context.metadata)))
        self.optimizer = make_optimizer(self.network, self.training)

    def advance(self, phase: Phase) -> None:
        """Takes a step; or a round, which is as many steps as its branches take."""
        if (branch_trainer := self._branch_trainer_of(phase)) is not None:
            steps = branch_trainer.steps(phase, self.phase_step)
            losses = branch_trainer(phase, self.phase_step)
            self.steps_in_rounds = self.phase_step + steps
        else:
            steps, losses = 1, self._take_step(phase)
        self.step, self.phase_step = self.step + steps, self.phase_step + steps
        self._record(losses, in_round=branch_trainer is not None)

    def _take_step(self, phase: Phase) -> Losses:
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.update(phase, self.step + 1)
        ordinary_steps = replace(phase, steps=phase.steps - self.steps_in_rounds)
        at = self.phase_step + 1 - self.steps_in_rounds
        optimizer_step(self.optimizer, self.network, self.training, ordinary_steps, at)
        self.update.observe_after_update()
        return losses

    # ---- reports ----

    def _record(self, losses: Losses, *, in_round: bool) -> None:
        self.loss_sums["end_task"] += losses.end_task
        self.loss_sums["aux"] += losses.aux
        self.loss_sums["steps"] += 1
        if self.process_group.rank == 0 and self.plan.objectives:
            self.weight_log.record(self.step, self.update.last_similarities, in_round=in_round)

    def _evaluate(self, phase: Phase) -> Report:
        """Evaluates on select-dev, and saves the parameters if they are the best so far."""
        context, split = self.context, self.context.splits("select_dev")
        score, loss = evaluate(self.network, split, context.batches, context.metric, self.process_group)
        best = self._update_best(score)
        steps = max(self.loss_sums["steps"], 1)
        evaluation = {
            "step": self.step,
            "phase": phase.name,
            "split": "select_dev",
            "metric": context.metric,
            "score": score,
            "loss": loss,
            "best": best,
            "lambda_e": self.update.weighting.lambda_e if phase.trains_objectives else 1.0,
            "train_loss": self.loss_sums["end_task"] / steps,
            "aux_loss": self.loss_sums["aux"] / steps if phase.trains_objectives and self.plan.objectives else None,
            "seconds": self._seconds(),
        }
        self.loss_sums = {"end_task": 0.0, "aux": 0.0, "steps": 0}
        is_last = self.is_over(phase) and self.phase == len(self.phases) - 1
        restart_reason, self.restart_reason = self.restart_reason, ""
        return Report(self.step, evaluation, self.weight_log.flush(), last=is_last, restart_reason=restart_reason)

    def _update_best(self, score: float) -> float:
        """Returns the best score so far; saves the parameters if this one is better."""
        if self.best is not None and not score > self.best["score"]:
            self.evaluations_without_improvement += 1
            return self.best["score"]
        self.best, self.evaluations_without_improvement = {"score": score, "step": self.step}, 0
        if self.process_group.rank == 0:
            parameters = parameters_of(self.network)
            checkpoint.save(self.files.best, {"step": self.step, "score": score, "parameters": parameters})
        return score

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    # ---- stopping and resuming ----

    def _save(self, report: Report | None) -> None:
        """Writes the report, if there is one, and then the checkpoint that includes it."""
        state = self._state()
        if self.process_group.rank == 0:
            if report is not None:
                self.files.add_report(report)
            checkpoint.save(self.files.state, state)
        self.process_group.barrier()

    def _state(self) -> dict[str, Any]:
        """Returns the checkpoint; its keys are those of its format, `checkpoint.FORMAT`."""
        assert self.optimizer is not None
        update, branch_trainer = self.update, self.branch_trainer
        return {
            "key": self.plan.key,
            "place": [self.phase, self.phase_step, self.step, self.evaluations_without_improvement],
            "led": self.steps_in_rounds,
            "best": self.best,
            "parameters": parameters_of(self.network),
            "optimizer": self.optimizer.state_dict(),
            "weighting": update.weighting.state(),
            "rounds": branch_trainer.state() if branch_trainer is not None else None,
            "surgery": update.surgery.state() if update.surgery is not None else None,
            "bases": update.basis.count if update.basis is not None else 0,
            "sums": self.loss_sums,
            "weights": self.weight_log.state(),
            "seconds": self._seconds(),
        }

    def _resume(self) -> None:
        state = checkpoint.load(self.files.state, self.process_group.device)
        if state["key"] != self.plan.key:
            raise ValueError(f"{self.files.state} belongs to another plan ({state['key']}, not {self.plan.key})")
        self.phase, self.phase_step, self.step, self.evaluations_without_improvement = state["place"]
        self.steps_in_rounds, self.best, self.loss_sums = state["led"], state["best"], state["sums"]
        set_parameters(self.network, state["parameters"])
        self.optimizer = make_optimizer(self.network, self.training)
        self.optimizer.load_state_dict(state["optimizer"])
        self.update.weighting.load(state["weighting"])
        self.weight_log.load(state["weights"])
        if self.branch_trainer is not None:
            self.branch_trainer.load(state["rounds"])
        if self.update.surgery is not None:
            self.update.surgery.load(state["surgery"])
        if self.update.basis is not None:
            self.update.basis.count = state["bases"]
        self.seconds_before = state["seconds"]
        self.earlier_reports = self.files.reports(self.step)
