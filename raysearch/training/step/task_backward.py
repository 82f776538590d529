"""Every task's gradient in the body, from one backward pass that ends at the layers' outputs.

A task's whole batch is on one rank, so that no gradient has to pass between ranks. Models whose examples cannot be
separated, and the engine `backward`, take one backward pass for each task instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.task_gradients import (
    DenseTaskGradients,
    FactoredTaskGradients,
    StreamingTaskGradients,
    SummaryRequest,
    TaskGradients,
    check_task_sum,
    group_by_parameter,
)
from raysearch.methods.weighting.base import END_TASK
from raysearch.training.context import TrainingContext
from raysearch.training.step.description import Step
from raysearch.training.step.head_scaling import HeadScaling
from raysearch.training.step.task_batches import TaskBatches, row_slices, tasks_of_rank
from raysearch.training.step.task_forward import TaskForward, add_losses

SharedFactor = Callable[[Step, int], float]  # a task's factor in the gradient of a parameter that several heads share


class TaskBackwardResult(NamedTuple):
    """The gradients and losses of this rank's tasks."""

    gradients: TaskGradients  # in the body
    heads: Tensor  # (H,) of every head by its own task; of shared parameters, summed by `SharedFactor`
    losses: dict[int, Tensor]
    lent: Tensor | None = None  # (H,) sum_k w_k of the objectives' gradients in the end task's head, 0 elsewhere


class TaskBackward:
    """Computes every task's gradient, and checks it against plain autograd on first use."""

    def __init__(
        self, context: TrainingContext, forward: TaskForward, heads: HeadScaling, factor: SharedFactor
    ) -> None:
        self.context, self.forward, self.heads, self.factor = context, forward, heads, factor
        engine = context.training.engine
        self.is_dense = engine == "backward" or (context.network.couples_examples and engine != "products")
        self._is_checked = False

    def compute(self, step: Step, batches: TaskBatches, request: SummaryRequest | None) -> TaskBackwardResult:
        """Returns the gradients and losses of this rank's tasks.

        `request` is the only summary that will be taken of the gradients, if that is known beforehand: they are then
        summed as the backward pass goes, and not stored.
        """
        assigned = tasks_of_rank(batches, self.context.process_group)
        if self.is_dense:
            return self._dense(step, assigned)
        body, losses = self.context.body, dict[int, Tensor]()
        heads = torch.zeros(sum(self.heads.sizes), device=self.context.device)
        lent = torch.zeros_like(heads) if self.heads.lent else None
        factors = []
        for parts in self.forward.micro_batches(assigned):
            with self.forward.capture.recording(sum(len(batch) for _, batch in parts)):
                part_losses = self.forward.losses(parts)
            total = sum(part_losses.values(), torch.zeros(()))
            expected = None if self._is_checked else flat_gradient(total, body, keep_graph=True)
            shared = self._shared_gradient(step, part_losses)
            lent_parts = self._lent_gradients(step, part_losses)
            stream: StreamingTaskGradients | None = None
            if request is not None and expected is None:
                stream = StreamingTaskGradients(body, tuple(step.tasks), row_slices(parts), request)
            on_factor = stream.add_parameter if stream else None
            uses, head_gradients = self.forward.capture.collect_factors(total, self.heads.parameters, on_factor)
            add_losses(losses, part_losses)
            if head_gradients:
                flat = torch.cat([gradient.flatten() for gradient in head_gradients])
                flat = flat if shared is None else flat.masked_scatter(self.heads.is_shared, shared)
                if lent_parts is not None and lent is not None:
                    flat = flat.masked_scatter(self.heads.is_of_end_task, lent_parts[0])
                    lent += torch.zeros_like(lent).masked_scatter(self.heads.is_of_end_task, lent_parts[1])
                heads += flat
            if stream is not None:
                stream.add_remaining(uses)
                return TaskBackwardResult(stream, heads, losses, lent)
            factors.append((uses, row_slices(parts)))
            if expected is not None:
                part = group_by_parameter(body, factors[-1:])
                self._check(FactoredTaskGradients(part, tuple(task for task, _ in parts), body[0]), expected)
        gradients = FactoredTaskGradients(group_by_parameter(body, factors), tuple(step.tasks), body[0].detach())
        return TaskBackwardResult(gradients, heads, losses, lent)

    def _dense(self, step: Step, batches: TaskBatches) -> TaskBackwardResult:
        """Takes one backward pass for each task."""
        D, H, losses = sum(p.numel() for p in self.context.body), sum(self.heads.sizes), dict[int, Tensor]()
        g = torch.zeros(len(step.tasks), D, device=self.context.device)
        heads = torch.zeros(H, device=self.context.device)
        lent = torch.zeros_like(heads) if self.heads.lent else None
        for task, batch in batches:
            task_losses, gradient = self.forward.backward([(task, batch)], lambda _: 1.0)
            add_losses(losses, task_losses)
            g[step.tasks.index(task)] = gradient[:D]
            of_heads = torch.where(self.heads.is_shared, self.factor(step, task), 1.0) * gradient[D:]
            if lent is not None and task != END_TASK:
                lent += step.weight(task) * of_heads * self.heads.is_of_end_task
                of_heads = of_heads * ~self.heads.is_of_end_task
            heads += of_heads
        return TaskBackwardResult(DenseTaskGradients(g), heads, losses, lent)

    def _shared_gradient(self, step: Step, losses: dict[int, Tensor]) -> Tensor | None:
        """Returns the gradient of the parameters that several heads share; None if there are none."""
        if not self.heads.shared:
            return None
        weighted = [self.factor(step, task) * loss for task, loss in losses.items()]
        return flat_gradient(sum(weighted, torch.zeros(())), self.heads.shared, keep_graph=True)

    def _lent_gradients(self, step: Step, losses: dict[int, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Returns the gradients of the end task, and of the objectives' weighted sum, in the end task's lent head."""
        if not self.heads.lent:
            return None
        of_end_task = [loss for task, loss in losses.items() if task == END_TASK]
        of_objectives = [step.weight(task) * loss for task, loss in losses.items() if task != END_TASK]
        end_task, objectives = (
            flat_gradient(sum(part, torch.zeros(())), self.heads.lent, keep_graph=True)
            for part in (of_end_task, of_objectives)
        )
        return end_task, objectives

    def _check(self, gradients: FactoredTaskGradients, expected: Tensor) -> None:
        is_low_precision = self.context.training.precision == "bfloat16"
        check_task_sum(gradients, expected, self.forward.capture, is_low_precision=is_low_precision)
        self.forward.capture.warn_about_slow_modules()
        self._is_checked = True
