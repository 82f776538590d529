"""What one look at a step's tasks tells: their losses, norms and similarities, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysearch.distributed import Ranks
from raysearch.gradients.directional import check_directional_derivatives, finite_differences, jvp
from raysearch.gradients.task_gradients import GradientSummary
from raysearch.methods.weighting.base import END_TASK, Asks, Scores
from raysearch.training.step import Grouped, Step

if TYPE_CHECKING:
    from raysearch.training.update import Update


def checked(ranks: Ranks, step: Step, said: dict[int, Tensor]) -> Tensor:
    """Every task's loss over all ranks, (tasks,) float64 on the CPU; ArithmeticError if one is not finite."""
    each = torch.zeros(len(step.tasks), dtype=torch.float64, device=ranks.device)
    for task, loss in said.items():
        each[step.tasks.index(task)] = loss.detach()
    each = ranks.sum(each).cpu()
    if not each.isfinite().all():
        e, a = step.losses(each)
        raise ArithmeticError(f"step {step.number}: the loss is not finite (end task {e}, auxiliary {a})")
    return each


def kept_by(ranks: Ranks, limit: float, look: GradientSummary, *, summed: bool) -> Tensor | None:
    """What clipping to norm `limit` leaves of each task's gradient, (n,) in (0, 1]; None if all of all."""
    squares = look.gramian.diagonal()
    norms = (squares if summed else ranks.sum(squares.clone())).sqrt().cpu()
    kept = (limit / norms.clamp_min(limit)).double()
    return kept if bool((kept < 1).any()) else None


def seen(
    ranks: Ranks,
    step: Step,
    asks: Asks,
    look: GradientSummary,
    sums: tuple[Tensor, Tensor],
    v: Tensor | None,
    *,
    cosine: bool,
    summed: bool,
) -> tuple[Scores | None, Tensor | None]:
    """The similarities and the Gramian that were asked for; `sums` are g_E and sum_k w_k g_k.

    Ranks exchange numbers alone; none where the look was `summed` over them already.
    """
    (g_e, g_aux), size = sums, look.gramian.diagonal()
    numbers = torch.cat([look.products, size])
    along, squares = (numbers if summed else ranks.sum(numbers)).chunk(2)
    gramian = (look.gramian if asks.gradients == "products" else squares.diag()).cpu() if asks.gradients else None
    if asks.compare == "end_task":
        along, v = look.gramian[0], g_e
    if v is None:
        return None, gramian
    with_aux = torch.stack([g_aux @ v, g_aux @ g_aux]).double()
    along, squares = torch.cat([with_aux[:1], along]), torch.cat([with_aux[1:], squares])
    ends = step.tasks[0] == END_TASK
    return Scores.of(along, squares, v if cosine else None, end_task=ends, sets=step.sets), gramian


def again(update: Update, step: Step, sides: Sequence[Grouped]) -> dict[int, Tensor]:
    """This rank's losses of a step's rows once more, dropout drawn as before."""
    update.seed(step.number)
    said: dict[int, Tensor] = {}
    for some in (some for side in sides for some in update.micro(side)):
        for task, loss in update.losses(some).items():
            said[task] = said.get(task, torch.zeros((), device=loss.device)) + loss
    return said


def from_forwards(
    update: Update,
    step: Step,
    sides: Sequence[Grouped],
    before: dict[int, Tensor],
    sums: tuple[Tensor, Tensor],
    v: Tensor,
) -> Scores:
    """The similarities from forwards alone; `sums` are g_E and sum_k w_k g_k, `before` this rank's losses.

    K numbers pass between ranks. Raises ValueError unless they add up to the products of the sums.
    """
    engine, (g_e, g_aux) = update.training.engine, (gradient[: len(v)] for gradient in sums)
    if update.network.couples_rows:
        raise ValueError(f"engine {engine!r}: BatchNorm would count the rows twice; use engine: auto")
    if engine == "jvp":
        found = jvp(lambda: again(update, step, sides), update.network, update.body, v)
    else:
        found = finite_differences(lambda: again(update, step, sides), before, update.body, v)
    none = v.new_zeros((), dtype=torch.float64)
    along = update.ranks.sum(torch.stack([found.get(task, none).double() for task in step.tasks]))
    exact = engine == "jvp" and update.training.precision == "float32"
    for side, gradient in zip(step.sides(), (g_e, g_aux), strict=True):
        check_directional_derivatives(
            along @ side.to(along), gradient @ v, gradient.norm() * v.norm(), 1e-3 if exact else 0.02, engine
        )
    along = torch.cat([(g_aux @ v).double()[None], along])
    return Scores.of(along, torch.zeros_like(along), None, end_task=step.tasks[0] == END_TASK, sets=step.sets)
