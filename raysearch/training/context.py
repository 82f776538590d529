"""What all parts of a trial's training share: the plan, the network, the data and the process group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from raysearch.data.prepared import Splits, load_metadata
from raysearch.distributed import ProcessGroup
from raysearch.modalities import modality_of
from raysearch.modalities.batch import BatchBuilder, OpenSplit, ViewBatchBuilder
from raysearch.modalities.opening import open_splits_of
from raysearch.models.layers import reinitialise_top, set_dropout
from raysearch.models.network import Network
from raysearch.objectives.primitive import BORROWED
from raysearch.plan import TrialPlan
from raysearch.rng import number_of
from raysearch.training.end_task_loss import EndTaskLoss
from raysearch.training_settings import TrainingSettings

if TYPE_CHECKING:
    from raysearch.training.teachers.making import Remark
    from raysearch.training.teachers.moving_average import MovingAverageTeacher


@dataclass(frozen=True)
class TrainingContext:
    """The plan of a trial, its network, its data, and the ranks that train it."""

    plan: TrialPlan
    metadata: dict[str, Any]  # data.json of the prepared task
    network: Network
    splits: Splits
    batches: BatchBuilder
    process_group: ProcessGroup
    teacher: MovingAverageTeacher | None = None  # one that learns from the trial's own steps
    remarks: tuple[Remark, ...] = ()  # what is known of the teacher's guesses

    @classmethod
    def from_plan(cls, plan: TrialPlan, process_group: ProcessGroup) -> TrainingContext:
        """Opens the plan's data and builds its network, with the parameters that the trial begins with."""
        folder = Path(plan.task["data"])
        metadata, splits = load_metadata(folder), open_splits_of(plan)
        network = build(plan, metadata).to(process_group.device)
        batches = network.with_cached_states(batches_of(plan, metadata, splits), folder)
        context = cls(plan, metadata, network, splits, batches, process_group)
        return context._with_tutors() if needs_tutors(plan, metadata) else context

    def _with_tutors(self) -> TrainingContext:
        """Returns the context whose objectives have a teacher; the network has the parameters that it begins with."""
        from raysearch.training.teachers.making import TeacherSource, make_tutors

        source = TeacherSource(
            self.plan, self.metadata, self.network, self.splits, self.batches, self.process_group, self.autocast
        )
        made = make_tutors(source)
        batches = cast(ViewBatchBuilder, self.batches).with_tutors(made.tutors)
        return replace(self, batches=batches, teacher=made.learner, remarks=made.remarks)

    def on_one_rank(self) -> TrainingContext:
        """Returns the context in which this rank trains by itself: full batches, and no all-reduce."""
        return replace(self, process_group=ProcessGroup(device=self.device))

    @cached_property
    def training(self) -> TrainingSettings:
        """The settings of training that all methods share."""
        return self.plan.training

    @property
    def device(self) -> torch.device:
        """The device of the network and of all batches."""
        return self.process_group.device

    @property
    def classes(self) -> int:
        """The number of labels of the end task."""
        return len(self.metadata["labels"])

    @property
    def metric(self) -> str:
        """The name of the end task's metric."""
        return str(self.metadata["metric"])

    @cached_property
    def body(self) -> list[torch.nn.Parameter]:
        """The parameters of the body, D numbers in all."""
        return self.network.body_parameters()

    @cached_property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of the body, then those of the heads, D + H numbers in all."""
        return [*self.body, *self.network.head_parameters()]

    @cached_property
    def end_task_losses(self) -> EndTaskLoss:
        """The loss by which the end task trains."""
        return EndTaskLoss(self.training, self.splits("train").labels, self.device)

    def autocast(self) -> torch.autocast:
        """Returns the context manager that sets the precision of forward passes."""
        is_lower = self.training.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_lower)

    def seed_dropout(self, step: int) -> None:
        """Restarts the random numbers of dropout for a step, so that a forward pass can be repeated."""
        rank = self.process_group.rank
        self.process_group.seed(number_of(self.plan.seed, f"dropout {rank}", step))


def batches_of(plan: TrialPlan, metadata: dict[str, Any], open_split: OpenSplit) -> BatchBuilder:
    """Returns the builder of the trial's batches."""
    return modality_of(metadata).batch_builder(plan, metadata, open_split)


def needs_tutors(plan: TrialPlan, metadata: dict[str, Any]) -> bool:
    """Returns whether objectives of the plan learn from views, a teacher, or the encoder as it was before training."""
    taxonomy = modality_of(metadata).taxonomy
    outputs = [taxonomy.find("output", objective.output) for objective in plan.objectives]
    return any(output is not None and output.head == BORROWED for output in outputs)


def build(plan: TrialPlan, metadata: dict[str, Any]) -> Network:
    """Returns the plan's network before the first step, its new parameters drawn from the plan's seed."""
    torch.manual_seed(number_of(plan.seed, "parameters", 0))
    network = modality_of(metadata).network(plan, metadata)
    if plan.training.head_dropout >= 0:
        set_dropout([network.end_task, *network.heads], plan.training.head_dropout)
    if plan.training.reinit_layers:
        torch.manual_seed(number_of(plan.seed, "new layers", 0))
        reinitialise_top(network.body, network.end_task, plan.training.reinit_layers)
    if plan.training.recompute:
        network.checkpoint_activations()
    return network
