"""train(plan): one trial from its plan to its last evaluation. Knows no Ray.

Deterministic given the plan: what is random at a step is a function of the plan's seed and the step alone. A trial
that was interrupted goes on from its checkpoint and ends as if it had not been, bit for bit on CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raysearch.data.prepared import Split
from raysearch.distributed import ProcessGroup
from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.branch_merging import BranchWeighting
from raysearch.modalities import modality_of
from raysearch.modalities.batch import BatchBuilder, OpenSplit
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import open_splits
from raysearch.models.network import Network
from raysearch.plan import TrialPlan
from raysearch.rng import number_of
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.branch_trainer import BranchTrainer
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.metrics import score
from raysearch.training.step import Losses
from raysearch.training.update import Update
from raysearch.training.weight_log import WeightLog

BETAS = (0.9, 0.98)  # the authors' of all three papers' text models
EVALUATION_BATCH = 64


def train(plan: TrialPlan, *, folder: Path, process_group: ProcessGroup | None = None) -> Generator[Report, bool, None]:
    """Reports, one an evaluation; `send(True)` ends the trial there.

    Every rank of a group iterates in step. What `folder` holds of an earlier attempt is said again, marked as
    replayed, and the trial goes on from there; or begins anew, if that cannot be, and says why in its first report.
    Raises ArithmeticError, on all ranks alike, when a loss is not finite.
    """
    trial = Trial(plan, TrialFolder(folder), process_group or ProcessGroup())
    for report in trial.earlier:
        if (yield report):
            return
    for report in trial.run():
        if (yield report):
            return


def evaluate(
    network: Network, split: Split, batches: BatchBuilder, metric: str, process_group: ProcessGroup | None = None
) -> tuple[float, float]:
    """The metric and the mean loss of `network` on a split; the ranks share the work and all get the same."""
    process_group = process_group or ProcessGroup()
    mine = torch.arange(len(split))[process_group.rank :: process_group.world]
    by_length = mine[np.argsort(split.lengths[mine.numpy()], kind="stable")]
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    network.eval()
    with torch.no_grad():
        for rows in by_length.split(EVALUATION_BATCH):
            group = batches.end_task_batch(split, rows).to(process_group.device)
            logits.append(network.end_task(network.hidden(*group.inputs)).float())
            labels.append(group.targets.labels)
    network.train()
    said, wanted = process_group.gather_rows(torch.cat(logits)), process_group.gather_rows(torch.cat(labels))
    return score(metric, wanted, said), float(example_losses(said, wanted).mean())


def batches_of(plan: TrialPlan, about: dict[str, Any], open_split: OpenSplit) -> BatchBuilder:
    """Returns the builder of the trial's batches."""
    return modality_of(about).batch_builder(plan, about, open_split)


def build(plan: TrialPlan, about: dict[str, Any]) -> Network:
    """Returns the plan's network before the first step, its new parameters drawn from the plan's seed."""
    torch.manual_seed(number_of(plan.seed, "parameters", 0))
    network = modality_of(about).network(plan, about)
    if plan.training.recompute:
        network.recompute()
    return network


class Trial:
    """The state of a trial between steps."""

    def __init__(self, plan: TrialPlan, files: TrialFolder, process_group: ProcessGroup) -> None:
        self.plan, self.files, self.process_group, self.training = plan, files, process_group, plan.training
        data = Path(plan.task["data"])
        self.about = about = json.loads((data / "data.json").read_text(encoding="utf-8"))
        self.metric, self.splits = about["metric"], open_splits(data)
        self.batches = batches_of(plan, about, self.splits)
        self.network = build(plan, about).to(process_group.device)
        self.update = Update(plan, self.network, self.splits, self.batches, len(about["labels"]), process_group)
        self.rounds: BranchTrainer | None = None
        if isinstance(self.update.weighting, BranchWeighting):
            self.rounds = BranchTrainer(self.update, process_group, self._new_optimizer, self._take, self._on_meta_dev)
        self.phases: tuple[Phase, ...] = METHODS[plan.schedule].load()(plan.training, plan.method_settings("schedule"))
        self.phase = self.phase_step = self.step = self.evaluations_without_improvement = 0
        self.steps_in_rounds = 0  # steps of the phase that rounds took, before ordinary ones
        self.best: dict[str, float] | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.sums = {"end_task": 0.0, "aux": 0.0, "steps": 0}
        self.weights = WeightLog(self.update.weighting, self.training.weights_every)
        self.seconds_before = 0.0
        self.begun = time.perf_counter()
        self.earlier: list[Report] = []
        self.restart_reason: str = process_group.broadcast(files.ready() if process_group.rank == 0 else "")
        if process_group.broadcast(files.state.exists()):
            self._resume()

    # ---- the road through the phases ----

    def run(self) -> Iterator[Report]:
        """Take all steps that are left, saying a report at each evaluation."""
        while self.phase < len(self.phases):
            phase = self.phases[self.phase]
            if self.optimizer is None:
                self._begin(phase)
            while not self._over(phase):
                before = self.phase_step
                self._advance(phase)
                if self._passed(before, self.training.eval_every) or self._spent(phase):
                    if phase.trains_end_task:
                        report = self._evaluation(phase)
                        self._keep(report)
                        yield report
                    else:
                        self._keep(None)
                elif self.training.checkpoint_every and self._passed(before, self.training.checkpoint_every):
                    self._keep(None)
            self.phase, self.phase_step, self.evaluations_without_improvement, self.steps_in_rounds, self.optimizer = (
                self.phase + 1,
                0,
                0,
                0,
                None,
            )

    def _over(self, phase: Phase) -> bool:
        out_of_patience = 0 < self.training.patience <= self.evaluations_without_improvement
        return self._spent(phase) or out_of_patience

    def _spent(self, phase: Phase) -> bool:
        """Is there no room for another step, or round?"""
        if (rounds := self._rounds(phase)) is not None:
            return not rounds.steps(phase, self.phase_step)
        return self.phase_step >= phase.steps

    def _passed(self, before: int, every: int) -> bool:
        """Has the phase passed a multiple of `every` since?"""
        return before // every < self.phase_step // every

    def _rounds(self, phase: Phase) -> BranchTrainer | None:
        """What trains in rounds, where the end task and its auxiliaries learn together."""
        if self.rounds is None or self.rounds.weighting.is_finished:
            return None
        return self.rounds if phase.trains_end_task and phase.trains_objectives else None

    def _begin(self, phase: Phase) -> None:
        if phase.starts_from_best and self.best is not None:
            self.process_group.barrier()
            set_parameters(self.network, checkpoint.load(self.files.best, self.process_group.device)["parameters"])
        if phase.starts_from_initial:
            set_parameters(self.network, parameters_of(build(self.plan, self.about)))
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW: decayed body, undecayed biases and norms of it, heads."""
        body = self.network.body_parameters()
        groups = [
            {"params": [p for p in body if p.ndim > 1], "weight_decay": self.training.weight_decay},
            {"params": [p for p in body if p.ndim <= 1], "weight_decay": 0.0},
            {"params": self.network.head_parameters(), "weight_decay": self.training.head_weight_decay},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=1e-6, fused=True)  # one pass over what it moves

    def _advance(self, phase: Phase) -> None:
        """Take a step; or a round, which is as many as its branches take."""
        taken = 1
        if (rounds := self._rounds(phase)) is not None:
            taken = rounds.steps(phase, self.phase_step)
            losses = rounds(phase, self.phase_step)
            self.steps_in_rounds = self.phase_step + taken
        else:
            assert self.optimizer is not None
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.update(phase, self.step + 1)
            rest = replace(phase, steps=phase.steps - self.steps_in_rounds)
            self._take(self.optimizer, rest, self.phase_step + 1 - self.steps_in_rounds)
            self.update.observe_after_update()
        self.step, self.phase_step = self.step + taken, self.phase_step + taken
        self._remember(losses, in_round=rounds is not None)

    def _take(self, optimizer: torch.optim.Optimizer, phase: Phase, at: int, scale: float = 1.0) -> None:
        """Let `optimizer` step along the gradients, at the rates of place `at` of the phase."""
        if self.training.clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.training.clip)
        factor = scale * rate_factor(at, phase, self.training.warmup)
        for group, rate in zip(optimizer.param_groups, (phase.lr, phase.lr, phase.head_lr), strict=True):
            group["lr"] = rate * factor
        optimizer.step()

    def _on_meta_dev(self) -> tuple[float, float]:
        """The network's metric and loss there; every rank looks at all of it."""
        alone = ProcessGroup(device=self.process_group.device)
        return evaluate(self.network, self.splits("meta_dev"), self.batches, self.metric, alone)

    # ---- what is said ----

    def _remember(self, losses: Losses, *, in_round: bool) -> None:
        self.sums["end_task"] += losses.end_task
        self.sums["aux"] += losses.aux
        self.sums["steps"] += 1
        if self.process_group.rank == 0 and self.plan.objectives:
            self.weights.record(self.step, self.update.last_similarities, in_round=in_round)

    def _evaluation(self, phase: Phase) -> Report:
        """Score select-dev, and keep the parameters if they are the best so far."""
        split = self.splits("select_dev")
        value, loss = evaluate(self.network, split, self.batches, self.metric, self.process_group)
        if self.best is None or value > self.best["score"]:
            self.best, self.evaluations_without_improvement = {"score": value, "step": self.step}, 0
            if self.process_group.rank == 0:
                parameters = parameters_of(self.network)
                checkpoint.save(self.files.best, {"step": self.step, "score": value, "parameters": parameters})
        else:
            self.evaluations_without_improvement += 1
        steps = max(self.sums["steps"], 1)
        evaluation = {
            "step": self.step,
            "phase": phase.name,
            "split": "select_dev",
            "metric": self.metric,
            "score": value,
            "loss": loss,
            "best": self.best["score"],
            "lambda_e": self.update.weighting.lambda_e if phase.trains_objectives else 1.0,
            "train_loss": self.sums["end_task"] / steps,
            "aux_loss": self.sums["aux"] / steps if phase.trains_objectives and self.plan.objectives else None,
            "seconds": self._seconds(),
        }
        self.sums = {"end_task": 0.0, "aux": 0.0, "steps": 0}
        last = self._over(phase) and self.phase == len(self.phases) - 1
        restart_reason, self.restart_reason = self.restart_reason, ""
        return Report(self.step, evaluation, self.weights.flush(), last=last, restart_reason=restart_reason)

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.begun

    # ---- stopping and going on ----

    def _keep(self, report: Report | None) -> None:
        """Write the report, if any, and then the checkpoint that has taken it into account."""
        state = self._state()
        if self.process_group.rank == 0:
            if report is not None:
                self.files.add_report(report)
            checkpoint.save(self.files.state, state)
        self.process_group.barrier()

    def _state(self) -> dict[str, Any]:
        assert self.optimizer is not None
        surgery = self.update.surgery
        return {
            "key": self.plan.key,
            "place": [self.phase, self.phase_step, self.step, self.evaluations_without_improvement],
            "led": self.steps_in_rounds,
            "best": self.best,
            "parameters": parameters_of(self.network),
            "optimizer": self.optimizer.state_dict(),
            "weighting": self.update.weighting.state(),
            "rounds": self.rounds.state() if self.rounds is not None else None,
            "surgery": surgery.state() if surgery is not None else None,
            "bases": self.update.examples.taken if self.update.examples is not None else 0,
            "sums": self.sums,
            "weights": self.weights.state(),
            "seconds": self._seconds(),
        }

    def _resume(self) -> None:
        state = checkpoint.load(self.files.state, self.process_group.device)
        if state["key"] != self.plan.key:
            raise ValueError(f"{self.files.state} belongs to another plan ({state['key']}, not {self.plan.key})")
        self.phase, self.phase_step, self.step, self.evaluations_without_improvement = state["place"]
        self.steps_in_rounds, self.best, self.sums = state["led"], state["best"], state["sums"]
        set_parameters(self.network, state["parameters"])
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.update.weighting.load(state["weighting"])
        self.weights.load(state["weights"])
        if self.rounds is not None:
            self.rounds.load(state["rounds"])
        if self.update.surgery is not None:
            self.update.surgery.load(state["surgery"])
        if self.update.examples is not None:
            self.update.examples.taken = state["bases"]
        self.seconds_before = state["seconds"]
        self.earlier = self.files.reports(self.step)


def parameters_of(network: nn.Module) -> dict[str, Tensor]:
    """What a network has learned, each tensor once: parameters, and the statistics that some layers keep."""
    kept = network.state_dict().keys()
    statistics = {name: buffer for name, buffer in network.named_buffers() if name in kept}
    return dict(network.named_parameters()) | statistics


def set_parameters(network: nn.Module, values: dict[str, Tensor]) -> None:
    """Put back what `parameters_of` gave."""
    with torch.no_grad():
        for name, own in parameters_of(network).items():
            own.copy_(values[name])


def rate_factor(step: int, phase: Phase, warmup: float) -> float:
    """The share of the peak rate at `step` (from 1) of a phase: linear up, then linear down to zero after the last."""
    if phase.has_constant_lr:
        return 1.0
    rising = max(1, round(warmup * phase.steps))
    if step <= rising:
        return step / rising
    return (phase.steps - step + 1) / (phase.steps - rising + 1)
