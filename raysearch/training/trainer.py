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

import pyarrow as pa

from raysearch.distributed import ProcessGroup
from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.context import TrainingContext
from raysearch.training.evaluation import Evaluation, predict
from raysearch.training.optimizer import make_optimizer
from raysearch.training.parameters import parameters_of, set_parameters
from raysearch.training.phase_runner import PhaseRunner
from raysearch.training.position import Position
from raysearch.training.predictions import prediction_rows
from raysearch.training.weight_log import WeightLog


def train(plan: TrialPlan, *, folder: Path, process_group: ProcessGroup | None = None) -> Generator[Report, bool, None]:
    """Yields a report at each evaluation; `send(True)` ends the trial there.

    Every rank of a process group iterates in step. Reports of an earlier attempt in `folder` are yielded again, marked
    as replayed, and the trial resumes from there. If it cannot be resumed, it restarts from scratch, and its first
    report has the reason. Raises ArithmeticError, on all ranks, if a loss or an output is not finite.
    """
    trial = Trial(plan, TrialFolder(folder), process_group or ProcessGroup())
    for report in trial.earlier_reports:
        if (yield replace(report, predictions=trial.predictions()) if report.last else report):
            return
    for report in trial.run():
        if (yield report):
            return


class Trial:
    """A trial between two steps: its phases and the parts that learn, what it reports, and its checkpoint."""

    def __init__(self, plan: TrialPlan, files: TrialFolder, process_group: ProcessGroup) -> None:
        self.plan, self.files, self.process_group = plan, files, process_group
        self.context = TrainingContext.from_plan(plan, process_group)
        self.network = self.context.network
        self.phases: tuple[Phase, ...] = METHODS[plan.schedule].load()(plan.training, plan.method_settings("schedule"))
        self.runner = PhaseRunner(self.context, files.best)
        self.update = self.runner.update
        self.weight_log = WeightLog(self.update.weighting, plan.training.weights_every, self.context.remarks)
        self.seconds_before = 0.0
        self.started = time.perf_counter()
        self.earlier_reports: list[Report] = []
        self.best: dict[str, Any] = {}  # what the best network gave, if it was trained in this attempt
        self.restart_reason: str = process_group.broadcast(files.ready() if process_group.rank == 0 else "")
        if process_group.broadcast(files.state.exists()):
            self._resume()

    def run(self) -> Iterator[Report]:
        """Takes all steps that are left; yields a report at each evaluation."""
        runner, position, training = self.runner, self.runner.position, self.plan.training
        while position.phase < len(self.phases):
            phase = self.phases[position.phase]
            if runner.optimizer is None:
                runner.begin(phase)
            while not runner.is_over(phase):
                before = position.phase_step
                self._advance(phase)
                if position.has_passed(training.eval_every, since=before) or runner.has_no_steps_left(phase):
                    report = self._evaluate(phase) if phase.trains_end_task else None
                    self._save(report)
                    if report is not None:
                        yield report
                elif training.checkpoint_every and position.has_passed(training.checkpoint_every, since=before):
                    self._save(None)
            runner.end()

    def _advance(self, phase: Phase) -> None:
        is_round = self.runner.advance(phase)
        if self.process_group.rank == 0 and self.plan.objectives:
            self.weight_log.record(self.runner.position.step, self.update.last_similarities, in_round=is_round)

    def _evaluate(self, phase: Phase) -> Report:
        """Evaluates on select-dev, and saves the parameters if they are the best so far.

        The best of several scores on the same rows is too high. On a fold, which has few, the last state counts
        instead, and on a fresh seed that at the step which the search has found.
        """
        context, position, split = self.context, self.runner.position, self.context.splits("select_dev")
        keeps_last = self.plan.folds > 0
        with self.runner.average.loaded():
            try:
                evaluation = predict(self.network, split, context.batches, context.metric, self.process_group)
            except ArithmeticError as error:
                raise ArithmeticError(f"step {position.step}: {error}") from None
            is_best = position.record_score(evaluation.score, keeps_last=keeps_last, score_step=self.plan.score_step)
            if is_best and (not keeps_last or self.runner.is_over(phase)):
                self._save_best(evaluation)
        assert position.best is not None
        mean_losses = position.take_mean_losses()
        row = {
            "step": position.step,
            "phase": phase.name,
            "split": "train" if self.plan.is_refit else "select_dev",
            "metric": context.metric,
            "score": evaluation.score,
            "loss": evaluation.loss,
            "best": position.best["score"],
            "lambda_e": self.update.weighting.lambda_e if phase.trains_objectives else 1.0,
            "train_loss": mean_losses.end_task,
            "aux_loss": mean_losses.aux if phase.trains_objectives and self.plan.objectives else None,
            "seconds": self._seconds(),
        }
        is_last = self.runner.is_over(phase) and position.phase == len(self.phases) - 1
        reason, self.restart_reason = self.restart_reason, ""
        predictions = self.predictions() if is_last else None
        weights = self.weight_log.flush()
        return Report(position.step, row, weights, last=is_last, predictions=predictions, restart_reason=reason)

    def predictions(self) -> pa.RecordBatch | None:
        """Returns what the best network gave for select-dev; None on other ranks, and for a refit, which has no dev."""
        if self.process_group.rank > 0 or self.plan.is_refit or not self.files.best.exists():
            return None
        best = self.best or checkpoint.load(self.files.best)
        if "outputs" not in best:  # an earlier version began the trial
            return None
        return prediction_rows(best["step"], self.context.splits.rows("select_dev"), best["outputs"], best["labels"])

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    # ---- checkpoints ----

    def _save_best(self, evaluation: Evaluation) -> None:
        if self.process_group.rank == 0:
            self.best = {
                "step": self.runner.position.step,
                "score": evaluation.score,
                "outputs": evaluation.outputs,
                "labels": evaluation.labels,
            }
            checkpoint.save(self.files.best, self.best | {"parameters": parameters_of(self.network)})

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
        assert self.runner.optimizer is not None
        return {
            "key": self.plan.key,
            **self.runner.position.state(),
            "parameters": parameters_of(self.network),
            "optimizer": self.runner.optimizer.state_dict(),
            **{name: part.state() if part is not None else None for name, part in self._parts().items()},
            "bases": self.update.basis.count if self.update.basis is not None else 0,
            "seconds": self._seconds(),
            **({"average": self.runner.average.state()} if self.runner.average.decay else {}),
            **({"teacher": self.context.teacher.state()} if self.context.teacher is not None else {}),
        }

    def _parts(self) -> dict[str, Any]:
        """Returns the parts that keep a state between steps, by their keys in the checkpoint."""
        return {
            "weighting": self.update.weighting,
            "rounds": self.runner.branch_trainer,
            "surgery": self.update.surgery,
            "weights": self.weight_log,
        }

    def _resume(self) -> None:
        state = checkpoint.load(self.files.state, self.process_group.device)
        if state["key"] != self.plan.key:
            raise ValueError(f"{self.files.state} belongs to another plan ({state['key']}, not {self.plan.key})")
        self.runner.position = Position.from_state(state)
        set_parameters(self.network, state["parameters"])
        self.runner.optimizer = make_optimizer(self.network, self.plan.training)
        self.runner.optimizer.load_state_dict(state["optimizer"])
        for name, part in self._parts().items():
            if part is not None:
                part.load(state[name])
        if self.update.basis is not None:
            self.update.basis.count = state["bases"]
        if self.runner.average.decay:
            self.runner.average.load(state["average"])
        if self.context.teacher is not None:
            self.context.teacher.load(state["teacher"])
        self.seconds_before = state["seconds"]
        self.earlier_reports = self.files.reports(self.runner.position.step)
