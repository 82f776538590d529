"""The losses of task batches, by forward passes of the network, and the gradient of their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.flat import flat_gradient
from raysearch.methods.weighting.base import END_TASK
from raysearch.modalities.batch import TaskBatch
from raysearch.training.context import TrainingContext
from raysearch.training.step.description import Step
from raysearch.training.step.task_batches import TaskBatches

Factor = Callable[[int], float]  # a task's factor in a sum of losses


class TaskForward:
    """Runs the network on task batches, in micro-batches where the plan says so."""

    def __init__(self, context: TrainingContext) -> None:
        self.context, self.network = context, context.network
        self.capture = LayerCapture(context.network, context.body)

    def micro_batches(self, batches: TaskBatches) -> Iterator[TaskBatches]:
        """Yields the examples in as many parts as there are micro-batches; parts without examples are left out."""
        count = self.context.training.micro_batches
        for i in range(count):
            parts = [(task, batch.slice(i, count)) for task, batch in batches]
            if parts := [(task, batch) for task, batch in parts if len(batch)]:
                yield parts

    def losses(self, batches: TaskBatches) -> dict[int, Tensor]:
        """Returns each task's share of its mean loss, by one forward pass; by one per task if the body mixes rows."""
        losses = {}
        with self.context.autocast():
            if self.network.couples_examples:
                hidden = [self.network.hidden(*batch.inputs) for _, batch in batches]
            else:
                rows = self.network.hidden(*self.context.batches.collate([batch for _, batch in batches]))
                hidden = list(rows.split([len(batch) for _, batch in batches]))
            for (task, batch), states in zip(batches, hidden, strict=True):
                with self.capture.inside_head(task):
                    losses[task] = self._loss(task, states[:, : batch.inputs[0].shape[1]], batch)
        return losses

    def _loss(self, task: int, hidden: Tensor, batch: TaskBatch) -> Tensor:
        if task != END_TASK:
            output = self.context.batches.output(self.context.plan.objectives[task])
            return output(hidden, batch.targets, self.network.heads[task])
        logits, targets = self.network.logits(hidden, batch.targets.real), batch.targets
        return self.context.end_task_losses(logits, targets.labels).sum() / targets.rows_total

    def recompute_losses(self, step: Step, batches: Sequence[TaskBatches]) -> dict[int, Tensor]:
        """Recomputes this rank's losses of several batches, forward by forward, with the same dropout masks."""
        self.context.seed_dropout(step.number)
        total: dict[int, Tensor] = {}
        for parts in (parts for side in batches for parts in self.micro_batches(side)):
            for task, loss in self.losses(parts).items():
                total[task] = total.get(task, torch.zeros((), device=loss.device)) + loss
        return total

    def backward(
        self, batches: TaskBatches, factor: Factor, parameters: Sequence[nn.Parameter] | None = None
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Returns this rank's share of each task's loss, and the gradient of their sum weighted by `factor`.

        The gradient is in body and heads (D + H,), or in `parameters`. It is 0 on a rank without examples.
        """
        total: dict[int, Tensor] = {}
        gradient: Tensor | None = None
        for parts in self.micro_batches(batches):
            losses = self.losses(parts)
            part = self.gradient(losses, factor, parameters)
            gradient = part if gradient is None else gradient.add_(part)
            add_losses(total, losses)
        return total, self.gradient({}, factor, parameters) if gradient is None else gradient

    def gradient(
        self, losses: Mapping[int, Tensor], factor: Factor, parameters: Sequence[nn.Parameter] | None = None
    ) -> Tensor:
        """Returns the gradient of the sum of the losses weighted by `factor`, in body and heads or in `parameters`."""
        total = sum((factor(task) * loss for task, loss in losses.items()), torch.zeros(()))
        return flat_gradient(total, self.context.parameters if parameters is None else parameters)

    def average_statistics(self) -> None:
        """Averages BatchNorm's running statistics over ranks; called after the last backward pass of a step."""
        average_statistics(self.context)


def average_statistics(context: TrainingContext) -> None:
    """Averages BatchNorm's running statistics over ranks."""
    process_group, statistics = context.process_group, context.network.batch_norm_buffers()
    if process_group.world > 1 and statistics:
        total = process_group.sum(torch.cat([tensor.double().flatten() for tensor in statistics]))
        mean = total / process_group.world
        for tensor, part in zip(statistics, mean.split([tensor.numel() for tensor in statistics]), strict=True):
            tensor.copy_(part.view_as(tensor))


def add_losses(total: dict[int, Tensor], losses: Mapping[int, Tensor]) -> None:
    """Adds each task's loss to its total, detached."""
    for task, loss in losses.items():
        total[task] = total.get(task, torch.zeros((), device=loss.device)) + loss.detach()
