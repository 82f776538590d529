"""Each task's gradient within one batch: products, norms and sums, after one backward for all.

g (n, D)  one task's gradient a line, never written down as a whole by `Segmented`
v (D,)    the dev gradient
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raysearch.gradients.capture import NO_TASK, Capture, Found
from raysearch.gradients.factors import BUDGET, Convolved, Factor, Outer, Picked, Rows


@dataclass(frozen=True)
class Look:
    """What one pass over the tasks' gradients tells, float64."""

    along: Tensor  # (n,) products with v
    gramian: Tensor  # (n, n); its diagonal alone if no more was asked for
    sums: Tensor  # (c, D) weights times g, in the parameters' own type


class TaskGradients(Protocol):
    """What a step asks of its tasks' gradients."""

    def look(self, weights: Tensor, v: Tensor | None = None, *, gramian: bool = False) -> Look:
        """Products with v, norms or the whole Gramian, and the sums `weights` (c, n) times g."""


@dataclass(frozen=True)
class Plain:
    """Gradients written down: for models whose rows cannot be told apart, and as the plain reference."""

    g: Tensor

    def look(self, weights: Tensor, v: Tensor | None = None, *, gramian: bool = False) -> Look:
        """Products in float64."""
        g = self.g.double()
        G = g @ g.T
        along = g @ v.double() if v is not None else g.new_zeros(len(g))
        return Look(along, G if gramian else G.diagonal().diag(), weights.to(self.g) @ self.g)


@dataclass(frozen=True)
class Piece:
    """The uses of one parameter, of one or more micro-batches."""

    shape: torch.Size
    uses: tuple[tuple[Found, dict[int, slice]], ...]  # with the rows of each task in the batch


@dataclass(frozen=True)
class Segmented:
    """Gradients as factors: a task's rows are multiplied among themselves, which all together is one pass."""

    pieces: tuple[Piece, ...]
    tasks: tuple[int, ...]  # the lines of g
    like: Tensor

    def look(self, weights: Tensor, v: Tensor | None = None, *, gramian: bool = False) -> Look:
        """Parameter by parameter, some lines at a time."""
        n, sizes = len(self.tasks), [piece.shape.numel() for piece in self.pieces]
        along = self.like.new_zeros(n, dtype=torch.float64)
        G = self.like.new_zeros(n, n, dtype=torch.float64)
        sums = self.like.new_zeros(len(weights), sum(sizes))
        weights = weights.to(self.like)
        directions = v.split(sizes) if v is not None else [None] * len(sizes)
        for piece, out, own in zip(self.pieces, sums.split(sizes, dim=1), directions, strict=True):
            p = piece.shape[0] if piece.shape else 1
            out = out.view(len(weights), p, -1)
            for lines, g in self._parts(piece, p, out.shape[2]):
                flat = g.flatten(1)
                out[:, lines] += torch.tensordot(weights, g, dims=1)
                if own is not None:
                    along += (flat @ own.view(p, -1)[lines].flatten()).double()
                    G += (flat @ flat.T if gramian else flat.square().sum(dim=1).diag()).double()
                elif gramian:
                    G += (flat @ flat.T).double()
        return Look(along, G, sums)

    def _parts(self, piece: Piece, p: int, q: int) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Some lines of a parameter and each task's gradient in them, (n, lines, q)."""
        factors = [found.factor for found, _ in piece.uses]
        if not factors:
            return
        step = max(1, BUDGET // max(1, len(self.tasks) * q))
        picked = [factor for factor in factors if isinstance(factor, Picked)]
        if len(picked) == len(factors):
            for some in torch.cat([factor.ids.flatten() for factor in picked]).unique().split(step):
                yield some, self._stack(piece, some, q)
        else:
            for low in range(0, p, step):
                yield slice(low, min(low + step, p)), self._stack(piece, slice(low, min(low + step, p)), q)

    def _stack(self, piece: Piece, lines: Tensor | slice, q: int) -> Tensor:
        height = lines.stop - lines.start if isinstance(lines, slice) else len(lines)
        g = self.like.new_zeros(len(self.tasks), height, q)
        for found, rows in piece.uses:
            for line, task in zip(g, self.tasks, strict=True):
                if found.task == task:
                    _add(line, found.factor, slice(None), lines)
                elif found.task == NO_TASK and task in rows:
                    _add(line, found.factor, rows[task], lines)
        return g


def _add(total: Tensor, factor: Factor, rows: slice, lines: Tensor | slice) -> None:
    """Add to total (lines, q) the summed gradient of some rows, in some lines of the parameter."""
    if isinstance(factor, Rows):
        assert isinstance(lines, slice)
        total += factor.g[rows, lines].sum(dim=0)
    elif isinstance(factor, Convolved):
        assert isinstance(lines, slice)
        total += factor.of(rows, lines.start, lines.stop)
    elif isinstance(factor, Outer):
        assert isinstance(lines, slice)
        total.addmm_(factor.x[rows, :, lines].flatten(0, 1).T, factor.y[rows].flatten(0, 1))
    elif isinstance(lines, slice):
        ids, y = factor.ids[rows].flatten(), factor.y[rows].flatten(0, 1)
        inside = (ids >= lines.start) & (ids < lines.stop)
        total.index_add_(0, ids[inside] - lines.start, y[inside])
    else:
        ids, y = factor.ids[rows].flatten(), factor.y[rows].flatten(0, 1)
        inside = torch.isin(ids, lines)
        total.index_add_(0, torch.searchsorted(lines, ids[inside].contiguous()), y[inside])


def pieces_of(
    parameters: Sequence[Tensor], batches: Sequence[tuple[list[tuple[Found, ...]], dict[int, slice]]]
) -> tuple[Piece, ...]:
    """The pieces of each parameter out of what `Capture.pieces` found in each micro-batch, with its tasks' rows."""
    return tuple(
        Piece(parameter.shape, tuple((use, rows) for found, rows in batches for use in found[i]))
        for i, parameter in enumerate(parameters)
    )


def check_sum(gradients: Segmented, expected: Tensor, capture: Capture, *, lower: bool) -> None:
    """Raise ValueError unless the tasks' gradients add up to the plain gradient (D,) of their losses' sum."""
    whole = gradients.look(torch.ones(1, len(gradients.tasks), dtype=torch.float64)).sums[0]
    capture.agree(whole, expected, 1e-2 if lower else 1e-3)
