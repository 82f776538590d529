"""Sums, inner products and norms of the tasks' gradients in one parameter.

    n        tasks                                  c        weighted sums that are requested
    (p, q)   the parameter as a matrix              N        positions of all tasks in its layer
    g        (n, p, q), one gradient per task; never materialised as a whole
    V        (p, q), the direction of the products <g_k, V>

There are two ways, and the cheaper one is taken for each parameter:

    by rows        all tasks' gradients are materialised for some rows of the parameter, multiplied and dropped: n p q
                   elements in all
    by positions   <g_k, V> = sum_t (left_t V) right_t over the positions t of task k;
                   |g_k|^2 = sum of (left left^T) (right right^T) over pairs of its positions;
                   a weighted sum of tasks is one matrix product over all positions

By positions no gradient is materialised, which is cheaper where positions are few or rows are many.
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

CHUNK_SIZE = 1 << 21  # elements of the tasks' gradients that are materialised at a time
MIN_ROWS = 32  # smallest number of rows that are materialised at a time: thinner products are slow
PASS_COST = 40  # the cost of one pass over a number in memory, in multiplications


@dataclass(frozen=True)
class ParameterUse:
    """One use of a parameter: its factor, and each task's examples in it, in consecutive order."""

    factor: Factor
    examples: tuple[tuple[int, slice], ...]  # (the task's index in g, its examples)


@dataclass(frozen=True)
class Requested:
    """The quantities that are requested of one parameter, in addition to the products with V."""

    weights: Tensor  # (c, n)
    norms: bool
    gramian: bool  # the products of all pairs of tasks
    workspace: Workspace


def add_parameter_products(
    uses: Sequence[ParameterUse], out: Tensor, requested: Requested, V: Tensor | None, products: Tensor, G: Tensor
) -> None:
    """Sets `out` (c, p, q) to the weighted sums; adds <g_k, V> to `products` (n,) and norms or pairs to G (n, n)."""
    if not uses:
        out.zero_()
    elif _is_cheaper_by_positions(uses, out, requested, len(products), has_direction=V is not None):
        _by_positions(uses, out, requested, V, products, G)
    else:
        _by_rows(uses, out, requested, V, products, G)


# ---- by rows ----


def _by_rows(
    uses: Sequence[ParameterUse], out: Tensor, requested: Requested, V: Tensor | None, products: Tensor, G: Tensor
) -> None:
    if all(isinstance(use.factor, EmbeddingFactor) for use in uses):
        out.zero_()  # most rows are not used
    for rows, g in _chunks(uses, out, len(products), requested.workspace):
        flat = g.flatten(1)
        for total, weights in zip(out, requested.weights, strict=True):  # one vector at a time is faster for few sums
            tasks = weights.nonzero()[:, 0].tolist()
            weighted = flat[tasks[0]] * float(weights[tasks[0]]) if len(tasks) == 1 else weights.to(flat) @ flat
            total[rows] = weighted.view(g.shape[1:])
        if V is not None:
            products += (flat @ V[rows].flatten()).double()
        if requested.gramian:
            G += (flat @ flat.T).double()
        elif requested.norms:
            G.diagonal().add_(torch.linalg.vector_norm(flat, dim=1).double().square())


def _chunks(
    uses: Sequence[ParameterUse], like: Tensor, n: int, workspace: Workspace
) -> Iterator[tuple[Tensor | slice, Tensor]]:
    """Yields some rows of a parameter and each task's gradient in them, (n, rows, q); a chunk overwrites the last."""
    _, p, q = like.shape
    if all(isinstance(use.factor, DenseFactor) for use in uses):
        yield slice(0, p), _materialise(uses, slice(0, p), workspace.tensor((n, p, q), like))
        return
    step = max(MIN_ROWS, CHUNK_SIZE // max(1, n * q))
    ids = [use.factor.ids.flatten() for use in uses if isinstance(use.factor, EmbeddingFactor)]
    if len(ids) == len(uses):
        for used_rows in torch.cat(ids).unique().split(step):
            yield used_rows, _materialise(uses, used_rows, workspace.tensor((n, len(used_rows), q), like))
    else:
        for low in range(0, p, step):
            rows = slice(low, min(low + step, p))
            yield rows, _materialise(uses, rows, workspace.tensor((n, rows.stop - low, q), like))


def _materialise(uses: Sequence[ParameterUse], rows: Tensor | slice, g: Tensor) -> Tensor:
    """Writes each task's gradient of all uses, in some rows of the parameter, to g (n, rows, q); returns g."""
    first = uses[0]
    first_covers_all = isinstance(first.factor, OuterProductFactor) and [t for t, _ in first.examples] == list(
        range(len(g))
    )
    if not first_covers_all:
        g.zero_()
    for use in uses:
        if isinstance(use.factor, OuterProductFactor | DenseFactor) and isinstance(rows, slice):
            for tasks, examples in _equal_runs(use.examples):
                _add_run(g[tasks], use.factor, examples, rows, overwrite=first_covers_all and use is first)
        else:
            for task, examples in use.examples:
                _add_task(g[task], use.factor, examples, rows)
    return g


def _add_run(
    g: Tensor, factor: OuterProductFactor | DenseFactor, examples: slice, rows: slice, *, overwrite: bool
) -> None:
    """Adds to g (n, rows, q) the gradients of n tasks with equally many examples each, or overwrites g with them."""
    n = len(g)
    if isinstance(factor, DenseFactor):
        g += factor.gradients[examples, rows].unflatten(0, (n, -1)).sum(dim=1)
    else:
        left, right = (part[examples].reshape(n, -1, part.shape[2]) for part in (factor.left, factor.right))
        g.baddbmm_(left[:, :, rows].transpose(1, 2), right, beta=0 if overwrite else 1)


def _equal_runs(examples: Sequence[tuple[int, slice]]) -> Iterator[tuple[slice, slice]]:
    """Yields runs of consecutive tasks with equally many examples each, as a slice of tasks and one of examples."""
    start = 0
    while start < len(examples):
        task, first = examples[start]
        size = first.stop - first.start
        end = start + 1
        while end < len(examples) and _continues_run(examples[end - 1], examples[end], size):
            end += 1
        yield slice(task, task + end - start), slice(first.start, examples[end - 1][1].stop)
        start = end


def _continues_run(before: tuple[int, slice], after: tuple[int, slice], size: int) -> bool:
    return after[0] == before[0] + 1 and after[1] == slice(before[1].stop, before[1].stop + size)


def _add_task(total: Tensor, factor: Factor, examples: slice, rows: Tensor | slice) -> None:
    """Adds to total (rows, q) the gradient summed over a task's examples, in some rows of the parameter."""
    if isinstance(factor, EmbeddingFactor):
        ids, right = factor.ids[examples].flatten(), factor.right[examples].flatten(0, 1)
        if isinstance(rows, slice):
            is_inside = (ids >= rows.start) & (ids < rows.stop)
            total.index_add_(0, ids[is_inside] - rows.start, right[is_inside])
        else:
            is_inside = torch.isin(ids, rows)
            total.index_add_(0, torch.searchsorted(rows, ids[is_inside].contiguous()), right[is_inside])
        return
    assert isinstance(rows, slice)
    assert isinstance(factor, ConvolutionFactor)
    total += factor.sum_over(examples, rows.start, rows.stop)


# ---- by positions ----


@dataclass(frozen=True)
class Positions:
    """The positions of all uses of one factor type, in the order of tasks; position t adds left_t right_t^T."""

    left: Tensor  # (N, p); or the row that each position uses, (N,) int64, of an embedding
    right: Tensor  # (N, q)
    bounds: tuple[int, ...]  # (n + 1,), where each task's positions begin

    @property
    def is_embedding(self) -> bool:
        """Whether `left` holds row numbers."""
        return self.left.ndim == 1

    def of_task(self, task: int) -> tuple[Tensor, Tensor]:
        """Returns `left` and `right` of one task's positions."""
        positions = slice(self.bounds[task], self.bounds[task + 1])
        return self.left[positions], self.right[positions]

    @property
    def tasks(self) -> Tensor:
        """The task of each position, (N,) int64."""
        counts = torch.tensor(self.bounds).diff()
        return torch.arange(len(counts)).repeat_interleave(counts).to(self.right.device)


def _is_cheaper_by_positions(
    uses: Sequence[ParameterUse], out: Tensor, requested: Requested, n: int, *, has_direction: bool
) -> bool:
    """Compares the two ways by their multiplications and passes over memory; `out` is (c, p, q)."""
    if requested.gramian or not all(isinstance(use.factor, OuterProductFactor | EmbeddingFactor) for use in uses):
        return False
    _, p, q = out.shape
    counts = [0] * n  # positions of each task
    for use in uses:
        for task, examples in use.examples:
            if isinstance(use.factor, OuterProductFactor):
                counts[task] += (examples.stop - examples.start) * use.factor.left.shape[1]
    pairs = requested.norms * sum(count**2 for count in counts)
    by_positions = has_direction * sum(counts) * p * q + pairs * (p + q)
    by_rows = n * p * q * PASS_COST * (2 + has_direction + requested.norms) / 2
    return by_positions < by_rows


def _by_positions(
    uses: Sequence[ParameterUse], out: Tensor, requested: Requested, V: Tensor | None, products: Tensor, G: Tensor
) -> None:
    n = len(products)
    out.zero_()
    groups = []  # the uses of each factor type
    for factor_type in (OuterProductFactor, EmbeddingFactor):
        if of_type := [use for use in uses if isinstance(use.factor, factor_type)]:
            groups.append(_positions(of_type, n))
    if requested.norms:
        groups = [_merge_repeated_rows(group, out.shape[1]) if group.is_embedding else group for group in groups]
        for one, other in combinations_with_replacement(groups, 2):
            G.diagonal().add_(_task_products(one, other, n), alpha=1 if one is other else 2)
    for group in groups:
        if V is not None:
            projected = V[group.left] if group.is_embedding else group.left @ V
            products.index_add_(0, group.tasks, (projected * group.right).sum(dim=1).double())
        for total, weights in zip(out, requested.weights, strict=True):
            _add_weighted_sum(total, group, weights)


def _add_weighted_sum(total: Tensor, group: Positions, weights: Tensor) -> None:
    """Adds to total (p, q) the tasks' gradients weighted by `weights` (n,)."""
    tasks = weights.nonzero()[:, 0].tolist()
    if not tasks:
        return
    positions = slice(group.bounds[tasks[0]], group.bounds[tasks[-1] + 1])
    right = group.right[positions] * weights.to(total)[group.tasks[positions]][:, None]
    if group.is_embedding:
        total.index_add_(0, group.left[positions], right)
    else:
        total.addmm_(group.left[positions].T, right)


def _positions(uses: Sequence[ParameterUse], n: int) -> Positions:
    """Returns the positions of uses that have one factor type."""
    spans: list[tuple[int, Tensor, Tensor]] = []
    for use in uses:
        assert isinstance(use.factor, OuterProductFactor | EmbeddingFactor)
        left, right = (
            use.factor.left if isinstance(use.factor, OuterProductFactor) else use.factor.ids,
            use.factor.right,
        )
        spans += [(task, left[rows].flatten(0, 1), right[rows].flatten(0, 1)) for task, rows in use.examples]
    spans.sort(key=lambda span: span[0])
    counts = [0] * n
    for task, left, _ in spans:
        counts[task] += len(left)
    left, right = torch.cat([span[1] for span in spans]), torch.cat([span[2] for span in spans])
    return Positions(left, right, tuple(accumulate(counts, initial=0)))


def _merge_repeated_rows(group: Positions, p: int) -> Positions:
    """Returns an embedding's positions with each row at most once per task."""
    key, index = (group.tasks * p + group.left).unique(return_inverse=True)  # sorted by task
    right = group.right.new_zeros(len(key), group.right.shape[1]).index_add_(0, index, group.right)
    counts = torch.bincount(key // p, minlength=len(group.bounds) - 1)
    return Positions(key % p, right, (0, *counts.cumsum(0).tolist()))


def _task_products(one: Positions, other: Positions, n: int) -> Tensor:
    """Returns each task's inner product (n,), float64, of its gradients from two groups of uses."""
    if one is other and one.is_embedding:
        squares = one.right.square().sum(dim=1).double()
        return squares.new_zeros(n).index_add_(0, one.tasks, squares)
    total = one.right.new_zeros(n, dtype=torch.float64)
    for task in range(n):
        (left, right), (other_left, other_right) = one.of_task(task), other.of_task(task)
        if len(left) and len(other_left):
            pairs = left[:, other_left] if other.is_embedding else left @ other_left.T
            total[task] = (pairs * (right @ other_right.T)).sum()
    return total
