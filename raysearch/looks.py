"""What one look at a step's tasks tells: their losses, norms and similarities, over all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from raysearch.gradients.tasks import Look
from raysearch.methods.static import Asks, Scores
from raysearch.ranks import Ranks
from raysearch.steps import END_TASK, Step


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


def kept_by(ranks: Ranks, limit: float, look: Look, *, summed: bool) -> Tensor | None:
    """What clipping to norm `limit` leaves of each task's gradient, (n,) in (0, 1]; None if all of all."""
    squares = look.gramian.diagonal()
    norms = (squares if summed else ranks.sum(squares.clone())).sqrt().cpu()
    kept = (limit / norms.clamp_min(limit)).double()
    return kept if bool((kept < 1).any()) else None


def seen(
    ranks: Ranks,
    step: Step,
    asks: Asks,
    look: Look,
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
    numbers = torch.cat([look.along, size])
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
