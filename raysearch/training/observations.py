"""What one look at a step's tasks tells: their losses, norms and similarities, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.gradients.directional import check_directional_derivatives, finite_differences, jvp
from raysearch.gradients.task_gradients import GradientSummary
from raysearch.methods.weighting.base import END_TASK, GradientQuery, GradientSimilarities
from raysearch.training.step import Step, TaskBatches

if TYPE_CHECKING:
    from raysearch.training.update import Update


def reduce_losses(process_group: ProcessGroup, step: Step, said: dict[int, Tensor]) -> Tensor:
    """Every task's loss over all ranks, (tasks,) float64 on the CPU; ArithmeticError if one is not finite."""
    each = torch.zeros(len(step.tasks), dtype=torch.float64, device=process_group.device)
    for task, loss in said.items():
        each[step.tasks.index(task)] = loss.detach()
    each = process_group.sum(each).cpu()
    if not each.isfinite().all():
        e, a = step.losses(each)
        raise ArithmeticError(f"step {step.number}: the loss is not finite (end task {e}, auxiliary {a})")
    return each


def clip_factors(process_group: ProcessGroup, limit: float, look: GradientSummary, *, summed: bool) -> Tensor | None:
    """What clipping to norm `limit` leaves of each task's gradient, (n,) in (0, 1]; None if all of all."""
    squares = look.gramian.diagonal()
    norms = (squares if summed else process_group.sum(squares.clone())).sqrt().cpu()
    kept = (limit / norms.clamp_min(limit)).double()
    return kept if bool((kept < 1).any()) else None


def gradient_similarities(
    process_group: ProcessGroup,
    step: Step,
    query: GradientQuery,
    look: GradientSummary,
    sums: tuple[Tensor, Tensor],
    v: Tensor | None,
    *,
    cosine: bool,
    summed: bool,
) -> tuple[GradientSimilarities | None, Tensor | None]:
    """The similarities and the Gramian that were asked for; `sums` are g_E and sum_k w_k g_k.

    Ranks exchange numbers alone; none where the look was `summed` over them already.
    """
    (g_e, g_aux), size = sums, look.gramian.diagonal()
    numbers = torch.cat([look.products, size])
    directional_derivatives, squares = (numbers if summed else process_group.sum(numbers)).chunk(2)
    gramian = (look.gramian if query.gradients == "products" else squares.diag()).cpu() if query.gradients else None
    if query.compare == "end_task":
        directional_derivatives, v = look.gramian[0], g_e
    if v is None:
        return None, gramian
    with_aux = torch.stack([g_aux @ v, g_aux @ g_aux]).double()
    directional_derivatives, squares = (
        torch.cat([with_aux[:1], directional_derivatives]),
        torch.cat([with_aux[1:], squares]),
    )
    ends = step.tasks[0] == END_TASK
    return GradientSimilarities.of(
        directional_derivatives, squares, v if cosine else None, end_task=ends, sets=step.sets
    ), gramian


def recompute_losses(update: Update, step: Step, sides: Sequence[TaskBatches]) -> dict[int, Tensor]:
    """This rank's losses of a step's rows once more, dropout drawn as before."""
    update.seed(step.number)
    said: dict[int, Tensor] = {}
    for some in (some for side in sides for some in update.micro(side)):
        for task, loss in update.losses(some).items():
            said[task] = said.get(task, torch.zeros((), device=loss.device)) + loss
    return said


def similarities_from_forwards(
    update: Update,
    step: Step,
    sides: Sequence[TaskBatches],
    before: dict[int, Tensor],
    sums: tuple[Tensor, Tensor],
    v: Tensor,
) -> GradientSimilarities:
    """The similarities from forwards alone; `sums` are g_E and sum_k w_k g_k, `before` this rank's losses.

    K numbers pass between ranks. Raises ValueError unless they add up to the products of the sums.
    """
    engine, (g_e, g_aux) = update.training.engine, (gradient[: len(v)] for gradient in sums)
    if update.network.couples_rows:
        raise ValueError(f"engine {engine!r}: BatchNorm would count the rows twice; use engine: auto")
    if engine == "jvp":
        found = jvp(lambda: recompute_losses(update, step, sides), update.network, update.body, v)
    else:
        found = finite_differences(lambda: recompute_losses(update, step, sides), before, update.body, v)
    none = v.new_zeros((), dtype=torch.float64)
    directional_derivatives = update.process_group.sum(
        torch.stack([found.get(task, none).double() for task in step.tasks])
    )
    exact = engine == "jvp" and update.training.precision == "float32"
    for side, gradient in zip(step.sides(), (g_e, g_aux), strict=True):
        check_directional_derivatives(
            directional_derivatives @ side.to(directional_derivatives),
            gradient @ v,
            gradient.norm() * v.norm(),
            1e-3 if exact else 0.02,
            engine,
        )
    directional_derivatives = torch.cat([(g_aux @ v).double()[None], directional_derivatives])
    return GradientSimilarities.of(
        directional_derivatives,
        torch.zeros_like(directional_derivatives),
        None,
        end_task=step.tasks[0] == END_TASK,
        sets=step.sets,
    )
