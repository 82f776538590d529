"""The three ways to compute the gradients of a step, from the cheapest to the one that knows most.

JointStep         one forward and one backward pass for all tasks: the gradient of their weighted sum
TwoBackwardStep   one of each for the end task and for the objectives together: the two sides; inner products of every
                  task's gradient with the dev gradient come from further forward passes, if they are requested
PerTaskStep       one backward pass that ends at the layers' outputs, from which each task's gradient follows
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raysearch.gradients.task_gradients import DenseTaskGradients, SummaryRequest, TaskGradients
from raysearch.methods.weighting.base import GradientQuery, GradientSimilarities, Weighting
from raysearch.training.context import TrainingContext
from raysearch.training.step.description import Step
from raysearch.training.step.dev_gradients import DevGradients
from raysearch.training.step.gradients import ComputedGradients, PerTaskGradients, SideGradients, SumGradient
from raysearch.training.step.head_scaling import HeadScaling
from raysearch.training.step.observations import Observer, reduce_losses, similarities_from_forwards
from raysearch.training.step.task_backward import SharedFactor, TaskBackward
from raysearch.training.step.task_batches import TaskBatches, slice_for_rank, split_sides
from raysearch.training.step.task_forward import TaskForward


@dataclass(frozen=True)
class ComputedStep:
    """The results of a step's forward and backward passes, over all ranks."""

    losses: Tensor  # (tasks,) float64 on the CPU
    gradients: Callable[[Step], ComputedGradients]  # for the step with its final coefficients
    similarities: GradientSimilarities | None = None
    gramian: Tensor | None = None  # as in `StepObservation`


class StepStrategy(Protocol):
    """One of the three ways."""

    def compute(self, step: Step, batches: TaskBatches, query: GradientQuery) -> ComputedStep:
        """Runs the forward and backward passes of a step, and observes what the weighting has requested.

        Raises ArithmeticError, on all ranks, if a loss is not finite.
        """


class JointStep:
    """One forward and one backward pass for all tasks."""

    def __init__(self, context: TrainingContext, forward: TaskForward, heads: HeadScaling) -> None:
        self.context, self.forward, self.heads = context, forward, heads
        self.process_group = context.process_group

    def compute(self, step: Step, batches: TaskBatches, query: GradientQuery) -> ComputedStep:
        """Runs the backward pass at once, with the step's present coefficients."""
        del query
        losses, gradient = self.forward.backward(slice_for_rank(batches, self.process_group), step.coefficient)
        return self._computed(step, losses, lambda _: gradient)

    def _computed(self, step: Step, losses: dict[int, Tensor], gradient: Callable[[Step], Tensor]) -> ComputedStep:
        def total(step: Step) -> Tensor:
            rank_total = gradient(step)
            self.forward.average_statistics()
            return self.process_group.sum(rank_total)

        reduced = reduce_losses(self.process_group, step, losses)
        return ComputedStep(reduced, lambda final: SumGradient(final, self.heads, total))


class DelayedJointStep(JointStep):
    """The same, with the backward pass after the weighting has seen the losses; without micro-batches."""

    def compute(self, step: Step, batches: TaskBatches, query: GradientQuery) -> ComputedStep:
        """Runs the forward pass; the backward pass takes the step's final coefficients."""
        del query
        if self.context.training.micro_batches > 1:
            weighting = self.context.plan.weighting
            raise ValueError(f"weighting {weighting!r} weighs a step by its own losses: micro_batches must be 1")
        (parts,) = self.forward.micro_batches(slice_for_rank(batches, self.process_group))
        losses = self.forward.losses(parts)
        return self._computed(step, losses, lambda final: self.forward.gradient(losses, final.coefficient))


class TwoBackwardStep:
    """A forward and a backward pass for each of the two sides."""

    def __init__(
        self, context: TrainingContext, forward: TaskForward, heads: HeadScaling, dev_gradients: DevGradients
    ) -> None:
        self.context, self.forward, self.heads, self.dev_gradients = context, forward, heads, dev_gradients

    def compute(self, step: Step, batches: TaskBatches, query: GradientQuery) -> ComputedStep:
        """Computes both sides, and similarities to the dev gradient by further forward passes."""
        process_group = self.context.process_group
        v = self.dev_gradients.compute(query.compare, step.number, query.fold)
        sides = split_sides(slice_for_rank(batches, process_group))
        self.context.seed_dropout(step.number)
        (end_task_losses, g_e), (aux_losses, g_aux) = (self.forward.backward(side, step.weight) for side in sides)
        losses = end_task_losses | aux_losses
        reduced = reduce_losses(process_group, step, losses)
        self.forward.average_statistics()
        g_e, g_aux = process_group.sum(g_e), process_group.sum(g_aux)
        similarities: GradientSimilarities | None = None
        if v is not None:
            of_body = g_e[: len(v)], g_aux[: len(v)]
            similarities = similarities_from_forwards(
                self.context, step, losses, of_body, v, lambda: self.forward.recompute_losses(step, sides)
            )
        return ComputedStep(reduced, lambda final: SideGradients(final, self.heads, (g_e, g_aux)), similarities)


class PerTaskStep:
    """One backward pass to the layers' outputs, and from there every task's gradient."""

    def __init__(
        self,
        context: TrainingContext,
        forward: TaskForward,
        heads: HeadScaling,
        dev_gradients: DevGradients,
        weighting: Weighting,
        *,
        needs_gramian: bool,
        shared_factor: SharedFactor,
    ) -> None:
        """`needs_gramian` is for the surgery; what the weighting needs is in its queries."""
        self.context, self.forward, self.heads, self.dev_gradients = context, forward, heads, dev_gradients
        self.weighting, self.needs_gramian = weighting, needs_gramian
        self.process_group = context.process_group
        self.backward = TaskBackward(context, forward, heads, shared_factor)

    def compute(self, step: Step, batches: TaskBatches, query: GradientQuery) -> ComputedStep:
        """Computes every task's gradient, and the similarities, norms and inner products that are requested."""
        v = self.dev_gradients.compute(query.compare, step.number, query.fold)
        request = self._request(step, query, v)
        is_only_summary = not (request.gramian or query.clip or self.weighting.weights_from_current_step)
        is_streamed = is_only_summary and self.context.training.micro_batches == 1
        result = self.backward.compute(step, batches, request if is_streamed else None)
        losses = reduce_losses(self.process_group, step, result.losses)
        self.forward.average_statistics()
        gradients, reduce = result.gradients, self._sum_over_ranks
        if is_reduced := request.gramian and self.process_group.world > 1:
            gradients, reduce = self._all_ranks_gradients(step, gradients), _unchanged
        summary = gradients.summarise(request.weights, v, norms=request.norms, gramian=request.gramian)
        sides = reduce(summary.sums)
        observer = Observer(self.process_group, query, is_reduced)
        if query.clip and (factors := observer.clip_factors(summary)) is not None:
            sides = reduce(gradients.summarise(request.weights * factors).sums)
        similarities, gramian = observer.gradient_similarities(step, summary, (sides[0], sides[1]), v)
        head_gradient = self.process_group.sum(result.heads)
        lent = self.process_group.sum(result.lent) if result.lent is not None else None

        def of_step(final: Step) -> PerTaskGradients:
            g_e, g_aux = sides if final is step else reduce(gradients.summarise(final.side_weights()).sums)
            return PerTaskGradients(
                final, self.heads, gradients, (g_e, g_aux), head_gradient, summary.gramian, reduce, lent
            )

        return ComputedStep(losses, of_step, similarities, gramian)

    def _sum_over_ranks(self, gradient: Tensor) -> Tensor:
        return self.process_group.sum(gradient)

    def _request(self, step: Step, query: GradientQuery, v: Tensor | None) -> SummaryRequest:
        gramian = self.needs_gramian or query.needs_gramian
        return SummaryRequest(step.side_weights(), v, norms=query.needs_norms, gramian=gramian)

    def _all_ranks_gradients(self, step: Step, gradients: TaskGradients) -> DenseTaskGradients:
        """Materialises every task's gradient and sums it over ranks: tasks of two ranks share an inner product."""
        everything = gradients.summarise(torch.eye(len(step.tasks), dtype=torch.float64)).sums
        return DenseTaskGradients(self.process_group.sum(everything))


def _unchanged(gradient: Tensor) -> Tensor:
    """Returns a gradient that is already summed over ranks."""
    return gradient
