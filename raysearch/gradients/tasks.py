"""Each task's gradient within one batch: products, norms and sums, after one backward for all.

g (n, D)  one task's gradient a line, never written down as a whole by `Segmented`
v (D,)    the dev gradient
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raysearch.gradients.capture import NO_TASK, Capture, Found
from raysearch.gradients.shares import Asked, Use, add_share


@dataclass(frozen=True)
class Look:
    """What one pass over the tasks' gradients tells, float64."""

    along: Tensor  # (n,) products with v
    gramian: Tensor  # (n, n); its diagonal alone if norms were asked for, zeros if neither was
    sums: Tensor  # (c, D) weights times g, in the parameters' own type


class TaskGradients(Protocol):
    """What a step asks of its tasks' gradients."""

    def look(self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False) -> Look:
        """Products with v, norms or the whole Gramian as far as asked for, and the sums `weights` (c, n) times g."""


@dataclass(frozen=True)
class Plain:
    """Gradients written down: for models whose rows cannot be told apart, and as the plain reference."""

    g: Tensor

    def look(self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False) -> Look:
        """Products in float64."""
        g = self.g.double()
        along = g @ v.double() if v is not None else g.new_zeros(len(g))
        if gramian:
            G = g @ g.T
        else:
            G = (torch.linalg.vector_norm(g, dim=1).square() if norms else g.new_zeros(len(g))).diag()
        return Look(along, G, weights.to(self.g) @ self.g)


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

    def look(self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False) -> Look:
        """Parameter by parameter, each by the way that is cheaper for it."""
        here = list(dict.fromkeys(task for piece in self.pieces for _, rows in piece.uses for task in rows))
        lines = torch.tensor([self.tasks.index(task) for task in here], dtype=torch.long)
        asked = Asked(weights[:, lines], norms, gramian)
        n, sizes = len(self.tasks), [piece.shape.numel() for piece in self.pieces]
        along = self.like.new_zeros(len(here), dtype=torch.float64)
        G = self.like.new_zeros(len(here), len(here), dtype=torch.float64)
        sums = self.like.new_empty(len(weights), sum(sizes))
        directions = v.split(sizes) if v is not None else [None] * len(sizes)
        for piece, out, own in zip(self.pieces, sums.split(sizes, dim=1), directions, strict=True):
            p = piece.shape[0] if piece.shape else 1
            uses = [use for found, rows in piece.uses if (use := _use(found, rows, here)).rows]
            add_share(
                uses, out.view(len(weights), p, -1), asked, own.view(p, -1) if own is not None else None, along, G
            )
        lines = lines.to(G.device)
        every = G.new_zeros(n, n)
        every[lines[:, None], lines] = G
        return Look(G.new_zeros(n).index_copy_(0, lines, along), every, sums)


def _use(found: Found, rows: dict[int, slice], here: list[int]) -> Use:
    """A use with the rows of each task that is in it."""
    if found.task != NO_TASK:
        return Use(found.factor, ((here.index(found.task), slice(0, found.factor.lines)),))
    return Use(found.factor, tuple((here.index(task), own) for task, own in rows.items()))


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
