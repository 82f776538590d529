"""What is observed at a step: losses, norms and similarities of its tasks, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.gradients.directional import check_directional_derivatives, finite_differences, jvp
from raysearch.gradients.task_gradients import GradientSummary
from raysearch.methods.weighting.base import END_TASK, GradientQuery, GradientSimilarities
from raysearch.training.context import TrainingContext
from raysearch.training.step.description import Step

Sides = tuple[Tensor, Tensor]  # g_E and sum_k w_k g_k, of the body (D,)


def reduce_losses(process_group: ProcessGroup, step: Step, losses: Mapping[int, Tensor]) -> Tensor:
    """Returns every task's loss summed over ranks, (tasks,) float64 on the CPU.

    Raises ArithmeticError, on all ranks, if one of them is not finite.
    """
    total = torch.zeros(len(step.tasks), dtype=torch.float64, device=process_group.device)
    for task, loss in losses.items():
        total[step.tasks.index(task)] = loss.detach()
    total = process_group.sum(total).cpu()
    if not total.isfinite().all():
        end_task, aux = step.losses(total)
        raise ArithmeticError(f"step {step.number}: the loss is not finite (end task {end_task}, auxiliary {aux})")
    return total


@dataclass(frozen=True)
class Observer:
    """Turns a summary of task gradients into what the weighting has requested.

    `is_reduced` says that the summary is already of all ranks' gradients. Otherwise the ranks exchange numbers only,
    and no gradients.
    """

    process_group: ProcessGroup
    query: GradientQuery
    is_reduced: bool

    def clip_factors(self, summary: GradientSummary) -> Tensor | None:
        """Returns the factors (n,) in (0, 1] that clip each task's gradient to the norm `query.clip`.

        None if no gradient exceeds it.
        """
        squares = summary.gramian.diagonal()
        norms = (squares if self.is_reduced else self.process_group.sum(squares.clone())).sqrt().cpu()
        factors = (self.query.clip / norms.clamp_min(self.query.clip)).double()
        return factors if bool((factors < 1).any()) else None

    def gradient_similarities(
        self, step: Step, summary: GradientSummary, sides: Sides, v: Tensor | None
    ) -> tuple[GradientSimilarities | None, Tensor | None]:
        """Returns the similarities and the Gramian that were requested, each None if it was not."""
        (g_e, g_aux), size = sides, summary.gramian.diagonal()
        numbers = torch.cat([summary.products, size])
        products, squares = (numbers if self.is_reduced else self.process_group.sum(numbers)).chunk(2)
        gramian: Tensor | None = None
        if self.query.gradients:
            gramian = (summary.gramian if self.query.gradients == "products" else squares.diag()).cpu()
        if self.query.compare == "end_task":
            products, v = summary.gramian[0], g_e
        if v is None:
            return None, gramian
        of_aux = torch.stack([g_aux @ v, g_aux @ g_aux]).double()
        products, squares = torch.cat([of_aux[:1], products]), torch.cat([of_aux[1:], squares])
        return _similarities(step, products, squares, v if self.query.normalise else None), gramian


def similarities_from_forwards(
    context: TrainingContext,
    step: Step,
    losses: Mapping[int, Tensor],
    sides: Sides,
    v: Tensor,
    recompute_losses: Callable[[], dict[int, Tensor]],
) -> GradientSimilarities:
    """Returns inner products with v by forward passes alone; `losses` are this rank's losses at the step.

    The ranks exchange K numbers. Raises ValueError unless the products add up to those of the sides with v.
    """
    engine = context.training.engine
    if context.network.couples_examples:
        raise ValueError(f"engine {engine!r}: BatchNorm would count the rows twice; use engine: auto")
    if engine == "jvp":
        derivatives = jvp(recompute_losses, context.network, context.body, v)
    else:
        derivatives = finite_differences(recompute_losses, dict(losses), context.body, v)
    zero = v.new_zeros((), dtype=torch.float64)
    ordered = torch.stack([derivatives.get(task, zero).double() for task in step.tasks])
    products = context.process_group.sum(ordered)
    is_exact = engine == "jvp" and context.training.precision == "float32"
    for weights, side in zip(step.side_weights(), sides, strict=True):
        tolerance, scale = 1e-3 if is_exact else 0.02, side.norm() * v.norm()
        check_directional_derivatives(products @ weights.to(products), side @ v, scale, tolerance, engine)
    products = torch.cat([(sides[1] @ v).double()[None], products])
    return _similarities(step, products, torch.zeros_like(products), None)


def _similarities(step: Step, products: Tensor, squares: Tensor, v: Tensor | None) -> GradientSimilarities:
    has_end_task = step.tasks[0] == END_TASK
    return GradientSimilarities.from_products(products, squares, v, end_task=has_end_task, sets=step.sets)
