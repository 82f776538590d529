"""Each task's gradient within one batch: products, norms and sums, after one backward for all.

g (n, D)  one task's gradient a line, never written down as a whole by `FactoredTaskGradients`
v (D,)    the dev gradient
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raysearch.gradients.capture import WHOLE_BATCH, LayerCapture, TaskFactor
from raysearch.gradients.factors import Workspace
from raysearch.gradients.parameter_products import ParameterUse, Requested, add_parameter_products


@dataclass(frozen=True)
class GradientSummary:
    """What one pass over the tasks' gradients tells, float64."""

    products: Tensor  # (n,) products with v
    gramian: Tensor  # (n, n); its diagonal alone if norms were asked for, zeros if neither was
    sums: Tensor  # (c, D) weights times g, in the parameters' own type


class TaskGradients(Protocol):
    """What a step asks of its tasks' gradients."""

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Products with v, norms or the whole Gramian as far as asked for, and the sums `weights` (c, n) times g."""


@dataclass(frozen=True)
class DenseTaskGradients:
    """Gradients written down: for models whose rows cannot be told apart, and as the plain reference."""

    g: Tensor

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Products in float64."""
        g = self.g.double()
        along = g @ v.double() if v is not None else g.new_zeros(len(g))
        if gramian:
            G = g @ g.T
        else:
            G = (torch.linalg.vector_norm(g, dim=1).square() if norms else g.new_zeros(len(g))).diag()
        return GradientSummary(along, G, weights.to(self.g) @ self.g)


@dataclass(frozen=True)
class CapturedParameter:
    """The uses of one parameter, of one or more micro-batches."""

    shape: torch.Size
    uses: tuple[tuple[TaskFactor, dict[int, slice]], ...]  # with the rows of each task in the batch


@dataclass(frozen=True)
class FactoredTaskGradients:
    """Gradients as factors: a task's rows are multiplied among themselves, which all together is one pass."""

    pieces: tuple[CapturedParameter, ...]
    tasks: tuple[int, ...]  # the lines of g
    like: Tensor

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Parameter by parameter, each by the way that is cheaper for it."""
        here = list(dict.fromkeys(task for piece in self.pieces for _, rows in piece.uses for task in rows))
        shapes = [piece.shape for piece in self.pieces]
        summed = _Sums(shapes, self.tasks, here, self.like, (weights, v, norms, gramian))
        for number, piece in enumerate(self.pieces):
            summed.add_parameter(number, piece.uses)
        return summed.summarise()


class StreamingTaskGradients:
    """One look, settled before the backward, which takes each parameter as it passes by: no factor is kept for it."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        tasks: tuple[int, ...],
        rows: dict[int, slice],
        asked: tuple[Tensor, Tensor | None, bool],
    ) -> None:
        """`rows` of each task in the batch; `asked` are the weights, v and whether norms are wanted, as in `look`."""
        self.asked, self._rows = asked, rows
        shapes = [parameter.shape for parameter in parameters]
        self._sums = _Sums(shapes, tasks, list(rows), parameters[0].detach(), (*asked, False))
        self._left = set(range(len(parameters)))

    def add_parameter(self, number: int, found: TaskFactor) -> None:
        """The only use of a parameter."""
        self._left.remove(number)
        self._sums.add_parameter(number, ((found, self._rows),))

    def add_remaining(self, pieces: Sequence[tuple[TaskFactor, ...]]) -> None:
        """The uses of the parameters that were not taken."""
        for number in self._left:
            self._sums.add_parameter(number, tuple((found, self._rows) for found in pieces[number]))

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """What was asked for; nothing else can be had."""
        assert weights.equal(self.asked[0])
        assert v is self.asked[1]
        assert (norms, gramian) == (self.asked[2], False)
        return self._sums.summarise()


class _Sums:
    """What a look comes to, of one parameter after another."""

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        tasks: tuple[int, ...],
        here: list[int],
        like: Tensor,
        asked: tuple[Tensor, Tensor | None, bool, bool],
    ) -> None:
        weights, v, norms, gramian = asked
        self.shapes, self.n, self.here = shapes, len(tasks), here
        self.lines = torch.tensor([tasks.index(task) for task in here], dtype=torch.long)
        self.asked = Requested(weights[:, self.lines], norms, gramian, Workspace())
        sizes = [shape.numel() for shape in shapes]
        self.sums = like.new_empty(len(weights), sum(sizes))
        self.outs = self.sums.split(sizes, dim=1)
        self.directions: Sequence[Tensor | None] = v.split(sizes) if v is not None else [None] * len(sizes)
        self.products: dict[int, tuple[Tensor, Tensor]] = {}  # (n,) and (n, n) float64 of each parameter

    def add_parameter(self, number: int, uses: Sequence[tuple[TaskFactor, dict[int, slice]]]) -> None:
        """All uses of a parameter, with the rows of each task in the batch."""
        shape, own = self.shapes[number], self.directions[number]
        p = shape[0] if shape else 1
        known = [use for found, rows in uses if (use := _use(found, rows, self.here)).rows]
        out, V = self.outs[number].view(len(self.sums), p, -1), own.view(p, -1) if own is not None else None
        n = len(self.here)
        along, G = (out.new_zeros(shape, dtype=torch.float64) for shape in ((n,), (n, n)))
        add_parameter_products(known, out, self.asked, V, along, G)
        self.products[number] = along, G

    def summarise(self) -> GradientSummary:
        """Of all tasks; zeros of those that are not here. Summed in one order, whenever parameters have come."""
        numbers = range(len(self.shapes))
        along, G = (sum((self.products[n][i] for n in numbers), torch.zeros(())) for i in (0, 1))
        lines, every = self.lines.to(G.device), G.new_zeros(self.n, self.n)
        every[lines[:, None], lines] = G
        return GradientSummary(G.new_zeros(self.n).index_copy_(0, lines, along), every, self.sums)


def _use(found: TaskFactor, rows: dict[int, slice], here: list[int]) -> ParameterUse:
    """A use with the rows of each task that is in it."""
    if found.task != WHOLE_BATCH:
        return ParameterUse(found.factor, ((here.index(found.task), slice(0, found.factor.lines)),))
    return ParameterUse(found.factor, tuple((here.index(task), own) for task, own in rows.items()))


def group_by_parameter(
    parameters: Sequence[Tensor], batches: Sequence[tuple[list[tuple[TaskFactor, ...]], dict[int, slice]]]
) -> tuple[CapturedParameter, ...]:
    """Groups the factors of each micro-batch by parameter; each batch comes with the rows of its tasks."""
    return tuple(
        CapturedParameter(parameter.shape, tuple((use, rows) for found, rows in batches for use in found[i]))
        for i, parameter in enumerate(parameters)
    )


def check_task_sum(gradients: FactoredTaskGradients, expected: Tensor, capture: LayerCapture, *, lower: bool) -> None:
    """Raise ValueError unless the tasks' gradients add up to the plain gradient (D,) of their losses' sum."""
    whole = gradients.summarise(torch.ones(1, len(gradients.tasks), dtype=torch.float64)).sums[0]
    capture.check_gradient(whole, expected, 1e-2 if lower else 1e-3)
