"""One layer's part of every row's gradient, kept as the two factors it is a product of.

A row's gradient in a linear layer's weight is a sum of outer products over its positions, of what the layer sent back
and what it was given. From these factors come inner products, and weighted sums, of all rows' gradients without any
of them ever being written down as a whole (the "ghost" products of Goodfellow 2015, https://arxiv.org/abs/1510.01799,
and of Li et al. 2022, https://arxiv.org/abs/2110.05679).

    m        rows                     T    positions of a row in this layer
    (p, q)   the parameter as a matrix; a vector has q = 1
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

BUDGET = 1 << 21  # numbers of per-row gradients that are written down at a time
LINES = 32  # output channels of a convolution that are taken at a time, at the least
OFTEN = 8  # an embedding's line that more rows than these pick is multiplied for all rows at once
STRIP = 32  # lines of a Gramian that are multiplied at a time, from the diagonal on: the rest is their mirror image
SHARES = 8  # of the columns of long lines, multiplied side by side: few lines by themselves leave threads idle


@dataclass(frozen=True)
class OuterProductFactor:
    """Row i's gradient is sum_t x[i, t] y[i, t]^T."""

    x: Tensor  # (m, T, p)
    y: Tensor  # (m, T, q)

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.x)

    def write(self, g: Tensor, lines: Tensor | slice, *, anew: bool) -> None:
        """Add some lines of every gradient to g (m, n, q), or put them over what is there."""
        g.baddbmm_(self.x[:, :, lines].transpose(1, 2), self.y, beta=0 if anew else 1)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        x, y, weights = self.x, self.y, weights[:, None, None]
        x, y = (x * weights, y) if x.shape[2] <= y.shape[2] else (x, y * weights)  # whichever is smaller
        total.addmm_(x.flatten(0, 1).T, y.flatten(0, 1))


@dataclass(frozen=True)
class EmbeddingFactor:
    """Row i's gradient has y[i, t] added to its line ids[i, t]: an embedding's."""

    ids: Tensor  # (m, T) int64
    y: Tensor  # (m, T, q)

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.ids)

    def write(self, g: Tensor, lines: Tensor | slice, *, anew: bool) -> None:
        """Add some lines, sorted, of every gradient to g (m, n, q), or put them over what is there."""
        if anew:
            g.zero_()
        if isinstance(lines, slice):
            lines = torch.arange(lines.start, lines.stop, device=self.ids.device)
        at = torch.searchsorted(lines, self.ids.contiguous()).clamp_max(len(lines) - 1)
        y = self.y * (lines[at] == self.ids)[:, :, None]
        g.scatter_add_(1, at[:, :, None].expand_as(y), y)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        total.index_add_(0, self.ids.flatten(), (self.y * weights[:, None, None]).flatten(0, 1))


@dataclass(frozen=True)
class DenseFactor:
    """Row i's gradient as it is: small ones, and those of layers without a product form."""

    g: Tensor  # (m, p, q)

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.g)

    def dense(self, lines: Tensor | slice) -> Tensor:
        """Some lines of every gradient, (m, n, q)."""
        return self.g[:, lines]

    def write(self, g: Tensor, lines: Tensor | slice, *, anew: bool) -> None:
        """Add some lines of every gradient to g (m, n, q), or put them over what is there."""
        _put(self.dense(lines), g, anew=anew)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        total += torch.tensordot(weights, self.g, dims=1)


@dataclass(frozen=True)
class ConvolutionFactor:
    """Row i's gradient is that of a kernel laid over a[i] with b[i] coming back; patches are never written down."""

    a: Tensor  # (m, C, height, width)
    b: Tensor  # (m, p, height, width) of the output
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.a)

    def dense(self, lines: slice) -> Tensor:
        """Some lines of every gradient, (m, n, q): every row a group of one convolution."""
        m = len(self.a)
        together = self._gradient(self.a.flatten(0, 1)[None], self.b[:, lines].flatten(0, 1)[None], groups=m)
        return together.view(m, lines.stop - lines.start, -1)

    def write(self, g: Tensor, lines: Tensor | slice, *, anew: bool) -> None:
        """Add some lines of every gradient to g (m, n, q), or put them over what is there."""
        assert isinstance(lines, slice)
        _put(self.dense(lines), g, anew=anew)

    def of(self, rows: slice, low: int, high: int) -> Tensor:
        """The summed gradient (high - low, q) of some rows, in some lines."""
        return self._gradient(self.a[rows], self.b[rows, low:high], groups=1).flatten(1)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        total += self._gradient(self.a, self.b * weights[:, None, None, None], groups=1).flatten(1)

    def _gradient(self, a: Tensor, b: Tensor, groups: int) -> Tensor:
        shape = (b.shape[1], a.shape[1] // groups, *self.kernel)
        gradient: Tensor = conv2d_weight(a, shape, b.contiguous(), self.stride, self.padding, self.dilation, groups)
        return gradient


Factor = OuterProductFactor | EmbeddingFactor | DenseFactor | ConvolutionFactor


class Workspace:
    """Memory for one piece of rows' gradients after another: a new place for each would take as long as they do."""

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def of(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor with anything in it, over what was there before."""
        size = math.prod(shape)
        if len(self._numbers) < size or (self._numbers.dtype, self._numbers.device) != (like.dtype, like.device):
            self._numbers = like.new_empty(0)  # given back first
            self._numbers = like.new_empty(size)
        return self._numbers[:size].view(shape)


@dataclass(frozen=True)
class ParameterJacobian:
    """Every row's gradient in one parameter: a sum over the parameter's uses, rows in one or more micro-batches."""

    shape: tuple[int, ...]
    batches: tuple[tuple[Factor, ...], ...]  # by micro-batch, then by use
    sizes: tuple[int, ...]  # rows of each micro-batch

    @property
    def p(self) -> int:
        """Lines of the parameter as a matrix."""
        return self.shape[0] if self.shape else 1

    @property
    def q(self) -> int:
        """Columns of the parameter as a matrix."""
        size = 1
        for n in self.shape[1:]:
            size *= n
        return size

    def inner_products(self, directions: Sequence[Tensor], room: Workspace) -> tuple[Tensor, Tensor]:
        """This layer's share of J J^T (m, m) and of J's products with each of `directions` (n of (p, q)), (m, n)."""
        if pairs := self._by_positions():
            return self._position_products(pairs, directions)
        if all(isinstance(use, EmbeddingFactor) for batch in self.batches for use in batch):
            return self._line_products(directions, room)
        m = sum(self.sizes)
        like = self.like()
        G, along = like.new_zeros(m, m), like.new_zeros(m, len(directions))
        for lines, part in self._parts(room):
            flat = part.flatten(1)
            _add_pairs(G, flat)
            if directions:
                along.addmm_(flat, torch.stack([V[lines].flatten() for V in directions]).T)
        return G.triu() + G.triu(1).T, along

    def combine(self, weights: Tensor, out: Tensor, room: Workspace) -> None:
        """Add to out (c, p, q): sum_i weights[:, i] gradient_i for each line of `weights` (c, m)."""
        if len(weights) <= 2:  # cheaper than writing gradients down
            for total, line in zip(out, weights, strict=True):
                for uses, own in zip(self.batches, line.split(self.sizes), strict=True):
                    for use in uses:
                        use.add_to(total, own)
        else:
            for lines, part in self._parts(room):
                out[:, lines] += torch.tensordot(weights, part, dims=1)

    def like(self) -> Tensor:
        """A tensor of the factors' type and place."""
        use = self.batches[0][0]
        if isinstance(use, ConvolutionFactor):
            return use.b
        return use.g if isinstance(use, DenseFactor) else use.y

    def _parts(self, room: Workspace) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """All rows' gradients (m, n, q), some lines of the parameter at a time, each gone when the next comes."""
        m, uses = sum(self.sizes), [use for batch in self.batches for use in batch]
        least = LINES if any(isinstance(use, ConvolutionFactor) for use in uses) else 1
        step = max(least, BUDGET // max(1, m * self.q))
        picked = [use.ids.flatten() for use in uses if isinstance(use, EmbeddingFactor)]
        if len(picked) == len(uses):
            for some in torch.cat(picked).unique().split(step):
                yield some, self._written(room.of((m, len(some), self.q), self.like()), some)
            return
        alone = uses[0] if len(uses) == 1 else None
        for low in range(0, self.p, step):
            lines = slice(low, min(low + step, self.p))
            if isinstance(alone, DenseFactor | ConvolutionFactor):
                yield lines, alone.dense(lines)
            else:
                yield lines, self._written(room.of((m, lines.stop - low, self.q), self.like()), lines)

    def _written(self, g: Tensor, lines: Tensor | slice) -> Tensor:
        """Some lines of every row's gradient, written to g (m, n, q)."""
        for uses, own in zip(self.batches, g.split(self.sizes), strict=True):
            for number, use in enumerate(uses):
                use.write(own, lines, anew=number == 0)
        return g

    def _line_products(self, directions: Sequence[Tensor], room: Workspace) -> tuple[Tensor, Tensor]:
        """`products` of an embedding: two rows meet in the lines alone that both pick, which most lines are not."""
        m = sum(self.sizes)
        keys, values, start = [], [], 0
        for batch, size in zip(self.batches, self.sizes, strict=True):
            for use in batch:
                assert isinstance(use, EmbeddingFactor)
                row = torch.arange(start, start + size, device=use.ids.device)
                keys.append((use.ids * m + row[:, None]).flatten())
                values.append(use.y.flatten(0, 1))
            start += size
        key, where = torch.cat(keys).unique(return_inverse=True)  # in the order of lines, then rows
        y = values[0].new_zeros(len(key), self.q).index_add_(0, where, torch.cat(values))
        line, row = key // m, key % m
        along = y.new_zeros(m, len(directions))
        for column, V in zip(along.unbind(dim=1), directions, strict=True):
            column.index_add_(0, row, (y * V[line]).sum(dim=1))
        _, inverse, counts = line.unique_consecutive(return_inverse=True, return_counts=True)
        often = counts[inverse] > OFTEN
        G = y.new_zeros(m, m)
        if often.any():
            lines, at = line[often].unique_consecutive(return_inverse=True)
            for low in range(0, len(lines), step := max(1, BUDGET // (m * self.q))):
                mine = (at >= low) & (at < low + step)
                dense = room.of((m, min(step, len(lines) - low), self.q), y).zero_()
                dense[row[often][mine], at[mine] - low] = y[often][mine]
                G.addmm_(dense.flatten(1), dense.flatten(1).T)
        y, line, row = y[~often], line[~often], row[~often]
        G.view(-1).index_add_(0, row * (m + 1), y.square().sum(dim=1))
        for apart in range(1, OFTEN):  # rows of a line are neighbours
            if not len(same := (line[apart:] == line[:-apart]).nonzero()[:, 0]):
                break
            products = (y[same] * y[same + apart]).sum(dim=1)
            G.view(-1).index_add_(0, row[same] * m + row[same + apart], products)
            G.view(-1).index_add_(0, row[same + apart] * m + row[same], products)
        return G, along

    def _by_positions(self) -> list[OuterProductFactor]:
        """The uses, one a micro-batch, if products of positions are cheaper than gradients written down."""
        uses = [batch[0] for batch in self.batches if len(batch) == 1]
        outers = [use for use in uses if isinstance(use, OuterProductFactor)]
        if len(outers) < len(self.batches):
            return []
        positions = sum(use.x.shape[0] * use.x.shape[1] for use in outers)
        m, p, q = sum(self.sizes), self.p, self.q
        return outers if positions * positions * (p + q) < (positions + m * m) * p * q else []

    def _position_products(
        self, uses: Sequence[OuterProductFactor], directions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        blocks = [[_inner(a, b) for b in uses] for a in uses]
        G = torch.cat([torch.cat(line, dim=1) for line in blocks])
        along = torch.cat([_along(use, directions) for use in uses])
        return G, along


def _add_pairs(G: Tensor, lines: Tensor) -> None:
    """Add to G (m, m), from the diagonal on, the inner products of `lines` (m, n)."""
    m, n = lines.shape
    shares = lines.view(m, math.gcd(n, SHARES), -1).transpose(0, 1)
    for i in range(0, m, STRIP):
        G[i : i + STRIP, i:] += (shares[:, i : i + STRIP] @ shares[:, i:].transpose(1, 2)).sum(dim=0)


def _put(part: Tensor, g: Tensor, *, anew: bool) -> None:
    """Add a part to g, or put it over what is there."""
    g.copy_(part) if anew else g.add_(part)


def _inner(a: OuterProductFactor, b: OuterProductFactor) -> Tensor:
    """Inner products (m_a, m_b) of the gradients of two micro-batches."""
    shape = (len(a.x), a.x.shape[1], len(b.x), b.x.shape[1])
    products = (a.x.flatten(0, 1) @ b.x.flatten(0, 1).T) * (a.y.flatten(0, 1) @ b.y.flatten(0, 1).T)
    return products.view(shape).sum(dim=(1, 3))


def _along(use: OuterProductFactor, matrices: Sequence[Tensor]) -> Tensor:
    """Products of the gradients with each of `matrices` (n of (p, q)), (m, n)."""
    out = use.x.new_zeros(len(use.x), len(matrices))
    for column, M in zip(out.unbind(dim=1), matrices, strict=True):
        column.copy_(((use.x @ M) * use.y).sum(dim=(1, 2)))
    return out
