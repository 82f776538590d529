"""One parameter's share of what is asked of the tasks' gradients: sums, products with a direction, norms.

    n        tasks;  c sums asked for
    (p, q)   the parameter as a matrix;  N the positions of all tasks in its layer
    g        (n, p, q), never written down as a whole

There are two ways, and the cheaper one is taken for each parameter. By lines: every task's gradient is written down
for some lines at a time, multiplied and forgotten; n p q numbers go by. By positions: a product with V is
`sum_t (x_t V) y_t`, a squared norm the sum of `(x x^T) (y y^T)` over a task's positions, a sum of tasks one matrix
product of all their positions; no gradient is written down, which is right where positions are few or lines many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations_with_replacement

import torch
from torch import Tensor

from raysearch.gradients.factors import (
    ConvolutionFactor,
    DenseFactor,
    EmbeddingFactor,
    Factor,
    OuterProductFactor,
    Workspace,
)

AT_ONCE = 1 << 21  # numbers of tasks' gradients that are written down at a time
LINES = 32  # lines that are written down at a time, at the least: thinner products are slow
PASS = 40  # multiplications that take as long as a pass over one number


@dataclass(frozen=True)
class ParameterUse:
    """One use of a parameter: its factor, and each task's rows in it, one after another."""

    factor: Factor
    rows: tuple[tuple[int, slice], ...]  # (the task's line in g, its rows)


@dataclass(frozen=True)
class Requested:
    """What is asked of a share."""

    weights: Tensor  # (c, n)
    norms: bool
    gramian: bool  # all pairs
    room: Workspace  # where tasks' gradients are written down


def add_parameter_products(
    uses: Sequence[ParameterUse], out: Tensor, asked: Requested, V: Tensor | None, along: Tensor, G: Tensor
) -> None:
    """Set `out` (c, p, q) to the weighted sums; add products with V (p, q) to `along` (n,), pairs' to G (n, n)."""
    if not uses:
        out.zero_()
        return
    if _positions_are_cheaper(uses, out.shape[1] * out.shape[2], sum(out.shape[1:]), len(along), asked, V is not None):
        _by_positions(uses, out, asked, V, along, G)
    else:
        _by_lines(uses, out, asked, V, along, G)


# ---- by lines ----


def _by_lines(
    uses: Sequence[ParameterUse], out: Tensor, asked: Requested, V: Tensor | None, along: Tensor, G: Tensor
) -> None:
    if all(isinstance(use.factor, EmbeddingFactor) for use in uses):
        out.zero_()  # most lines are picked by none
    for lines, g in _written(uses, out, len(along), asked.room):
        flat = g.flatten(1)
        for total, line in zip(out, asked.weights, strict=True):  # cheaper than the product of a few lines
            took = line.nonzero()[:, 0].tolist()
            part = flat[took[0]] * float(line[took[0]]) if len(took) == 1 else line.to(flat) @ flat
            total[lines] = part.view(g.shape[1:])
        if V is not None:
            along += (flat @ V[lines].flatten()).double()
        if asked.gramian:
            G += (flat @ flat.T).double()
        elif asked.norms:
            G.diagonal().add_(torch.linalg.vector_norm(flat, dim=1).double().square())


def _written(
    uses: Sequence[ParameterUse], like: Tensor, n: int, room: Workspace
) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Some lines of a parameter and each task's gradient in them, (n, lines, q), gone when the next ones come."""
    _, p, q = like.shape
    if all(isinstance(use.factor, DenseFactor) for use in uses):
        yield slice(0, p), _added(uses, slice(0, p), room.of((n, p, q), like))
        return
    step = max(LINES, AT_ONCE // max(1, n * q))
    picked = [use.factor.ids.flatten() for use in uses if isinstance(use.factor, EmbeddingFactor)]
    if len(picked) == len(uses):
        for some in torch.cat(picked).unique().split(step):
            yield some, _added(uses, some, room.of((n, len(some), q), like))
    else:
        for low in range(0, p, step):
            some = slice(low, min(low + step, p))
            yield some, _added(uses, some, room.of((n, some.stop - low, q), like))


def _added(uses: Sequence[ParameterUse], lines: Tensor | slice, g: Tensor) -> Tensor:
    """All uses' gradients in some lines, written to g (n, lines, q)."""
    first = uses[0]
    fills = isinstance(first.factor, OuterProductFactor) and [task for task, _ in first.rows] == list(range(len(g)))
    if not fills:
        g.zero_()
    for use in uses:
        if isinstance(use.factor, OuterProductFactor | DenseFactor) and isinstance(lines, slice):
            for tasks, rows in _runs(use.rows):
                _add_run(g[tasks], use.factor, rows, lines, anew=fills and use is first)
        else:
            for task, rows in use.rows:
                _add(g[task], use.factor, rows, lines)
    return g


def _add_run(g: Tensor, factor: OuterProductFactor | DenseFactor, rows: slice, lines: slice, *, anew: bool) -> None:
    """Add to g (n, lines, q) the gradients of tasks with as many rows each; write them over what is there if `anew`."""
    n = len(g)
    if isinstance(factor, DenseFactor):
        g += factor.g[rows, lines].unflatten(0, (n, -1)).sum(dim=1)
    else:
        x, y = (part[rows].reshape(n, -1, part.shape[2]) for part in (factor.x, factor.y))
        g.baddbmm_(x[:, :, lines].transpose(1, 2), y, beta=0 if anew else 1)


def _runs(rows: Sequence[tuple[int, slice]]) -> Iterator[tuple[slice, slice]]:
    """Tasks that follow each other and have as many rows each, and all their rows."""
    at = 0
    while at < len(rows):
        task, first = rows[at]
        end = at + 1
        while end < len(rows) and _follows(rows[end - 1], rows[end], first.stop - first.start):
            end += 1
        yield slice(task, task + end - at), slice(first.start, rows[end - 1][1].stop)
        at = end


def _follows(one: tuple[int, slice], other: tuple[int, slice], size: int) -> bool:
    return other[0] == one[0] + 1 and other[1] == slice(one[1].stop, one[1].stop + size)


def _add(total: Tensor, factor: Factor, rows: slice, lines: Tensor | slice) -> None:
    """Add to total (lines, q) the summed gradient of some rows, in some lines of the parameter."""
    if isinstance(factor, EmbeddingFactor):
        ids, y = factor.ids[rows].flatten(), factor.y[rows].flatten(0, 1)
        if isinstance(lines, slice):
            inside = (ids >= lines.start) & (ids < lines.stop)
            total.index_add_(0, ids[inside] - lines.start, y[inside])
        else:
            inside = torch.isin(ids, lines)
            total.index_add_(0, torch.searchsorted(lines, ids[inside].contiguous()), y[inside])
        return
    assert isinstance(lines, slice)
    assert isinstance(factor, ConvolutionFactor)
    total += factor.of(rows, lines.start, lines.stop)


# ---- by positions ----


@dataclass(frozen=True)
class Positions:
    """Uses of one kind position by position, in the order of tasks: x_t y_t^T each."""

    x: Tensor  # (N, p); or the line that each picks, (N,) int64
    y: Tensor  # (N, q)
    bounds: tuple[int, ...]  # (n + 1,) where each task's begin

    def of(self, task: int) -> tuple[Tensor, Tensor]:
        """One task's positions."""
        some = slice(self.bounds[task], self.bounds[task + 1])
        return self.x[some], self.y[some]

    @property
    def owner(self) -> Tensor:
        """The task of each position, (N,) int64."""
        counts = torch.tensor(self.bounds).diff()
        return torch.arange(len(counts)).repeat_interleave(counts).to(self.y.device)


def _positions_are_cheaper(
    uses: Sequence[ParameterUse], size: int, sides: int, n: int, asked: Requested, along: bool
) -> bool:
    """Is it, by multiplications and passes? `size` is p q and `sides` p + q."""
    if asked.gramian or not all(isinstance(use.factor, OuterProductFactor | EmbeddingFactor) for use in uses):
        return False
    counts = [0] * n
    for use in uses:
        for task, rows in use.rows:
            if isinstance(use.factor, OuterProductFactor):
                counts[task] += (rows.stop - rows.start) * use.factor.x.shape[1]
    pairs = asked.norms * sum(count**2 for count in counts)
    return along * sum(counts) * size + pairs * sides < n * size * PASS * (2 + along + asked.norms) / 2


def _by_positions(
    uses: Sequence[ParameterUse], out: Tensor, asked: Requested, V: Tensor | None, along: Tensor, G: Tensor
) -> None:
    n = len(along)
    out.zero_()
    parts = [
        _spread(own, n)
        for kind in (OuterProductFactor, EmbeddingFactor)
        if (own := [u for u in uses if isinstance(u.factor, kind)])
    ]
    if asked.norms:
        parts = [_once_each(part, out.shape[1]) if part.x.ndim == 1 else part for part in parts]
        for one, other in combinations_with_replacement(parts, 2):
            G.diagonal().add_(_meeting(one, other, n), alpha=1 if one is other else 2)
    for part in parts:
        if V is not None:
            through = V[part.x] if part.x.ndim == 1 else part.x @ V
            along.index_add_(0, part.owner, (through * part.y).sum(dim=1).double())
        for total, line in zip(out, asked.weights, strict=True):
            took = line.nonzero()[:, 0].tolist()
            if not took:
                continue
            some = slice(part.bounds[took[0]], part.bounds[took[-1] + 1])
            y = part.y[some] * line.to(out)[part.owner[some]][:, None]
            if part.x.ndim == 1:
                total.index_add_(0, part.x[some], y)
            else:
                total.addmm_(part.x[some].T, y)


def _spread(uses: Sequence[ParameterUse], n: int) -> Positions:
    """The positions of uses of one kind."""
    spans: list[tuple[int, Tensor, Tensor]] = []
    for use in uses:
        assert isinstance(use.factor, OuterProductFactor | EmbeddingFactor)
        first = use.factor.x if isinstance(use.factor, OuterProductFactor) else use.factor.ids
        spans += [(task, first[rows].flatten(0, 1), use.factor.y[rows].flatten(0, 1)) for task, rows in use.rows]
    spans.sort(key=lambda span: span[0])
    counts = [0] * n
    for task, x, _ in spans:
        counts[task] += len(x)
    x, y = torch.cat([span[1] for span in spans]), torch.cat([span[2] for span in spans])
    return Positions(x, y, tuple(accumulate(counts, initial=0)))


def _once_each(picked: Positions, p: int) -> Positions:
    """The same, each task picking a line but once."""
    key, where = (picked.owner * p + picked.x).unique(return_inverse=True)  # in the order of tasks
    y = picked.y.new_zeros(len(key), picked.y.shape[1]).index_add_(0, where, picked.y)
    counts = torch.bincount(key // p, minlength=len(picked.bounds) - 1)
    return Positions(key % p, y, (0, *counts.cumsum(0).tolist()))


def _meeting(one: Positions, other: Positions, n: int) -> Tensor:
    """Each task's inner product (n,) of its gradients from two kinds of uses; float64."""
    if one is other and one.x.ndim == 1:
        squares = one.y.square().sum(dim=1).double()
        return squares.new_zeros(n).index_add_(0, one.owner, squares)
    total = one.y.new_zeros(n, dtype=torch.float64)
    for task in range(n):
        (a, b), (c, d) = one.of(task), other.of(task)
        if len(a) and len(c):
            total[task] = ((a[:, c] if c.ndim == 1 else a @ c.T) * (b @ d.T)).sum()
    return total
