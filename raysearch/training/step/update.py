"""One step of the update rule that all methods share.

    theta <- theta - lr * [ c_E g_E  +  c_aux D( sum_k w_k g_k ) ]

A weighting gives c_E, c_aux and w; a surgery is D. A step draws its tasks and batches, runs forward and backward passes
by the cheapest strategy that is sufficient, lets the weighting learn from what was observed, combines the gradients,
and assigns the result to `.grad`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from raysearch.gradients.flat import assign_gradient
from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.surgery.base import NetworkGradient, Surgery
from raysearch.methods.weighting.base import END_TASK, GradientQuery, GradientSimilarities, StepObservation, Weighting
from raysearch.methods.weighting.task_sampling import no_auxiliary_tasks, sample_tasks
from raysearch.plan import TrialPlan
from raysearch.rng import stream
from raysearch.training.context import TrainingContext
from raysearch.training.step.basis_jacobian import BasisJacobian
from raysearch.training.step.description import Losses, Step, coefficients_in
from raysearch.training.step.dev_gradients import DevGradients
from raysearch.training.step.gradients import ComputedGradients
from raysearch.training.step.head_scaling import HeadScaling
from raysearch.training.step.observations import reduce_losses
from raysearch.training.step.strategies import (
    ComputedStep,
    DelayedJointStep,
    JointStep,
    PerTaskStep,
    StepStrategy,
    TwoBackwardStep,
)
from raysearch.training.step.task_batches import StepBatches, TaskBatches, slice_for_rank, tasks_of_rank
from raysearch.training.step.task_forward import TaskForward

FORWARD_ENGINES = ("jvp", "difference")  # they need no task's gradient


class Update:
    """Computes the gradient of each step of a trial; knows no optimizer, no files, and not when a phase ends."""

    def __init__(self, context: TrainingContext) -> None:
        self.context, self.plan = context, context.plan
        self.weighting = load_weighting(context.plan)
        self.surgery: Surgery | None = METHODS[self.plan.surgery].load()(self.plan.method_settings("surgery"))
        self.batches, self.forward = StepBatches(context), TaskForward(context)
        self.heads = HeadScaling(context.network, context.device)
        self.dev_gradients = DevGradients(context)
        query = self.surgery.basis_query if self.surgery else None
        self.basis = BasisJacobian(context, query) if query else None
        self.joint = JointStep(context, self.forward, self.heads)
        self.delayed_joint = DelayedJointStep(context, self.forward, self.heads)
        self.two_backward = TwoBackwardStep(context, self.forward, self.heads, self.dev_gradients)
        needs_gramian = self.surgery is not None and self.surgery.needs_gramian
        needs_sides = self.surgery is not None and not needs_gramian
        self.per_task = PerTaskStep(
            context,
            self.forward,
            self.heads,
            self.dev_gradients,
            self.weighting,
            needs_gramian=needs_gramian,
            shared_factor=Step.weight if needs_sides else Step.head_coefficient,
        )
        self.last_similarities: tuple[list[int], GradientSimilarities] | None = None  # sampled objectives, theirs
        self._last: tuple[Step, TaskBatches] | None = None  # a step and its batches on this rank, until it is observed

    def __call__(self, phase: Phase, number: int) -> Losses:
        """Sets the gradients of step `number` (from 1), after the weighting has learned from the step.

        Raises ArithmeticError, on all ranks, if a loss is not finite.
        """
        generator = stream(self.plan.seed, "step", number)
        self.context.seed_dropout(number)
        step, query = self._describe(phase, number, generator)
        batches = self.batches.draw(step, generator)
        strategy = self._strategy(step, query)
        computed = strategy.compute(step, batches, query)
        step = self._learn(step, computed)
        gradient = self._combine(step, computed.gradients(step), generator)
        assign_gradient(gradient.body, self.context.body)
        if self.weighting.rests_idle_heads:
            self.heads.assign(gradient.heads, step.tasks)
        else:
            assign_gradient(gradient.heads, self.heads.parameters)
        self._last = self._to_observe(step, batches, strategy)
        return step.losses(computed.losses)

    def _describe(self, phase: Phase, number: int, generator: Generator) -> tuple[Step, GradientQuery]:
        """Samples the objectives of a step; returns its description, and what the weighting requests of it."""
        sample = (
            sample_tasks(self.weighting, self.plan.training, generator)
            if phase.trains_objectives
            else no_auxiliary_tasks(self.weighting)
        )
        has_surgery = self.surgery is not None and bool(sample.sampled)
        query = self.weighting.required_gradients(number) if sample.sampled else GradientQuery()
        tasks = [END_TASK] * (phase.trains_end_task or has_surgery) + sample.sampled
        coefficients = coefficients_in(phase, sample.coefficients)
        sizes, sets = sample.batch_sizes, sample.sets
        return Step(number, tasks, sample.sampled, coefficients, sizes, sets, has_surgery=has_surgery), query

    def _strategy(self, step: Step, query: GradientQuery) -> StepStrategy:
        """Returns the cheapest strategy that gives the surgery and the weighting what they need."""
        surgery = self.surgery if step.sampled else None
        by_forwards = query.is_of_dev_head and self.plan.training.engine in FORWARD_ENGINES
        if query and not by_forwards:
            return self.per_task
        if surgery and (surgery.needs_gramian or self.weighting.weights_from_current_step):
            return self.per_task
        if surgery or by_forwards:
            return self.two_backward
        return self.delayed_joint if step.sampled and self.weighting.weights_from_current_step else self.joint

    def _learn(self, step: Step, computed: ComputedStep) -> Step:
        """Lets the weighting learn; returns the step with its final coefficients."""
        self.last_similarities = None
        if not step.sampled:
            return step
        losses = computed.losses
        if step.tasks[0] != END_TASK:
            losses = torch.cat([losses.new_zeros(1), losses])
        self.weighting.learn(step.sampled, StepObservation(losses, computed.similarities, computed.gramian))
        if computed.similarities is not None:
            self.last_similarities = (step.sampled, computed.similarities)
        if not self.weighting.weights_from_current_step:
            return step
        return replace(step, coefficients=self.weighting.coefficients(step.sampled))

    def _combine(self, step: Step, gradients: ComputedGradients, generator: Generator) -> NetworkGradient:
        """Returns the gradient of the update, after surgery."""
        if self.surgery is None or not step.sampled:
            return gradients.without_surgery()
        basis = self.basis.at_step(step.number, generator) if self.basis else None
        return self.surgery.combine(gradients, basis, generator)

    def _to_observe(self, step: Step, batches: TaskBatches, strategy: StepStrategy) -> tuple[Step, TaskBatches] | None:
        """Returns the step and its batches on this rank, if the weighting needs their losses after the update."""
        if not step.sampled or not self.weighting.needs_losses_after_update:
            return None
        on_rank = tasks_of_rank if strategy is self.per_task else slice_for_rank
        return step, on_rank(batches, self.context.process_group)

    def observe_after_update(self) -> None:
        """Gives a weighting that needs it the losses of the last step's batch now, with the same dropout masks."""
        if self._last is None:
            return
        (step, batches), network = self._last, self.context.network
        buffers = [buffer.clone() for buffer in network.buffers()]
        with torch.no_grad():
            losses = self.forward.recompute_losses(step, [batches])
            for buffer, before in zip(network.buffers(), buffers, strict=True):
                buffer.copy_(before)
        reduced: Tensor = reduce_losses(self.context.process_group, step, losses)
        self.weighting.observe_after_update(step.sampled, reduced)


def load_weighting(plan: TrialPlan) -> Weighting:
    """Returns the weighting of a plan; one whose weights are searched also gets them."""
    weighting: Weighting = METHODS[plan.weighting].load()(
        plan.objectives, plan.method_settings("weighting"), *([plan.weights] if plan.weights else [])
    )
    return weighting
