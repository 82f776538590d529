"""One layer's part of every row's gradient, kept as the two factors it is a product of.

A row's gradient in a linear layer's weight is a sum of outer products over its positions, of what the layer sent back
and what it was given. From these factors come inner products, and weighted sums, of all rows' gradients without any
of them ever being written down as a whole (the "ghost" products of Goodfellow 2015, https://arxiv.org/abs/1510.01799,
and of Li et al. 2022, https://arxiv.org/abs/2110.05679).

    m        rows                     T    positions of a row in this layer
    (p, q)   the parameter as a matrix; a vector has q = 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

BUDGET = 1 << 20  # numbers of per-row gradients that are written down at a time
LINES = 32  # output channels of a convolution that are taken at a time, at the least
OFTEN = 8  # an embedding's line that more rows than these pick is multiplied for all rows at once
STRIP = 32  # lines of a Gramian that are multiplied at a time, from the diagonal on: the rest is their mirror image


@dataclass(frozen=True)
class Outer:
    """Row i's gradient is sum_t x[i, t] y[i, t]^T."""

    x: Tensor  # (m, T, p)
    y: Tensor  # (m, T, q)

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.x)

    def dense(self, low: int, high: int) -> Tensor:
        """Rows `low` to `high` of every gradient, (m, high - low, q)."""
        return self.x[:, :, low:high].transpose(1, 2) @ self.y

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        x = (self.x * weights[:, None, None]).flatten(0, 1)
        total.addmm_(x.T, self.y.flatten(0, 1))


@dataclass(frozen=True)
class Picked:
    """Row i's gradient has y[i, t] added to its line ids[i, t]: an embedding's."""

    ids: Tensor  # (m, T) int64
    y: Tensor  # (m, T, q)

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.ids)

    def dense(self, low: int, high: int) -> Tensor:
        """Rows `low` to `high` of every gradient, (m, high - low, q)."""
        inside = (self.ids >= low) & (self.ids < high)
        return self.on(torch.arange(low, high, device=self.ids.device), inside)

    def on(self, lines: Tensor, inside: Tensor | None = None) -> Tensor:
        """The given sorted `lines` (n,) of every gradient, (m, n, q); ids not `inside` are left out."""
        m, n, q = len(self.ids), len(lines), self.y.shape[2]
        at = torch.searchsorted(lines, self.ids.contiguous()).clamp_max(n - 1)
        y = self.y if inside is None else self.y * inside[:, :, None]
        out = self.y.new_zeros(m, n, q)
        return out.scatter_add_(1, at[:, :, None].expand_as(y), y)

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        total.index_add_(0, self.ids.flatten(), (self.y * weights[:, None, None]).flatten(0, 1))


@dataclass(frozen=True)
class Rows:
    """Row i's gradient as it is: small ones, and those of layers without a product form."""

    g: Tensor  # (m, p, q)

    @property
    def lines(self) -> int:
        """How many there are of what came in; m, or a multiple of it."""
        return len(self.g)

    def dense(self, low: int, high: int) -> Tensor:
        """Rows `low` to `high` of every gradient, (m, high - low, q)."""
        return self.g[:, low:high]

    def add_to(self, total: Tensor, weights: Tensor) -> None:
        """Add to total (p, q): sum_i weights_i gradient_i."""
        total += torch.tensordot(weights, self.g, dims=1)


@dataclass(frozen=True)
class Convolved:
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

    def dense(self, low: int, high: int) -> Tensor:
        """Rows `low` to `high` of every gradient, (m, high - low, q): every row a group of one convolution."""
        m = len(self.a)
        together = self._gradient(self.a.flatten(0, 1)[None], self.b[:, low:high].flatten(0, 1)[None], groups=m)
        return together.view(m, high - low, -1)

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


Factor = Outer | Picked | Rows | Convolved


@dataclass(frozen=True)
class Layer:
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

    def products(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """This layer's share of J J^T (m, m) and of J's products with each of `directions` (n, D_layer), (m, n)."""
        if pairs := self._by_positions():
            return self._position_products(pairs, directions)
        if all(isinstance(use, Picked) for batch in self.batches for use in batch):
            return self._line_products(directions)
        m = sum(self.sizes)
        like, matrices = self.like(), directions.view(len(directions), self.p, self.q)
        G, along = like.new_zeros(m, m), like.new_zeros(m, len(matrices))
        for lines, part in self._parts():
            flat = part.flatten(1)
            for i in range(0, m, STRIP):
                G[i : i + STRIP, i:].addmm_(flat[i : i + STRIP], flat[i:].T)
            along.addmm_(flat, matrices[:, lines].flatten(1).T)
        return G.triu() + G.triu(1).T, along

    def combine(self, weights: Tensor) -> Tensor:
        """sum_i weights[:, i] gradient_i for each line of `weights` (c, m): (c, D_layer)."""
        out = self.like().new_zeros(len(weights), self.p, self.q)
        if len(weights) <= 2:  # cheaper than writing gradients down
            for total, line in zip(out, weights, strict=True):
                for uses, own in zip(self.batches, line.split(self.sizes), strict=True):
                    for use in uses:
                        use.add_to(total, own)
        else:
            for lines, part in self._parts():
                out[:, lines] = torch.tensordot(weights, part, dims=1)
        return out.flatten(1)

    def like(self) -> Tensor:
        """A tensor of the factors' type and place."""
        use = self.batches[0][0]
        if isinstance(use, Convolved):
            return use.b
        return use.g if isinstance(use, Rows) else use.y

    def _parts(self) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """All rows' gradients (m, n, q), some lines of the parameter at a time."""
        m, uses = sum(self.sizes), [use for batch in self.batches for use in batch]
        least = LINES if any(isinstance(use, Convolved) for use in uses) else 1
        step = max(least, BUDGET // max(1, m * self.q))
        picked = [use for use in uses if isinstance(use, Picked)]
        if len(picked) == len(uses):
            lines = torch.cat([use.ids.flatten() for use in picked]).unique()
            for some in lines.split(step):
                parts = []
                for batch in self.batches:
                    each = [u.on(some, torch.isin(u.ids, some)) for u in batch if isinstance(u, Picked)]
                    parts.append(sum(each[1:], each[0]))
                yield some, parts[0] if len(parts) == 1 else torch.cat(parts)
            return
        for low in range(0, self.p, step):
            high = min(low + step, self.p)
            parts = []
            for batch in self.batches:
                dense = [use.dense(low, high) for use in batch]
                parts.append(sum(dense[1:], dense[0]))
            yield slice(low, high), parts[0] if len(parts) == 1 else torch.cat(parts)

    def _line_products(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """`products` of an embedding: two rows meet in the lines alone that both pick, which most lines are not."""
        m, matrices = sum(self.sizes), directions.view(len(directions), self.p, self.q)
        keys, values, start = [], [], 0
        for batch, size in zip(self.batches, self.sizes, strict=True):
            for use in batch:
                assert isinstance(use, Picked)
                row = torch.arange(start, start + size, device=use.ids.device)
                keys.append((use.ids * m + row[:, None]).flatten())
                values.append(use.y.flatten(0, 1))
            start += size
        key, where = torch.cat(keys).unique(return_inverse=True)  # in the order of lines, then rows
        y = values[0].new_zeros(len(key), self.q).index_add_(0, where, torch.cat(values))
        line, row = key // m, key % m
        along = y.new_zeros(m, len(matrices))
        for column, V in zip(along.unbind(dim=1), matrices, strict=True):
            column.index_add_(0, row, (y * V[line]).sum(dim=1))
        _, inverse, counts = line.unique_consecutive(return_inverse=True, return_counts=True)
        often = counts[inverse] > OFTEN
        G = y.new_zeros(m, m)
        if often.any():
            lines, at = line[often].unique_consecutive(return_inverse=True)
            for low in range(0, len(lines), step := max(1, BUDGET // (m * self.q))):
                mine = (at >= low) & (at < low + step)
                dense = y.new_zeros(m, min(step, len(lines) - low), self.q)
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

    def _by_positions(self) -> list[Outer]:
        """The uses, one a micro-batch, if products of positions are cheaper than gradients written down."""
        uses = [batch[0] for batch in self.batches if len(batch) == 1]
        outers = [use for use in uses if isinstance(use, Outer)]
        if len(outers) < len(self.batches):
            return []
        positions = sum(use.x.shape[0] * use.x.shape[1] for use in outers)
        m, p, q = sum(self.sizes), self.p, self.q
        return outers if positions * positions * (p + q) < (positions + m * m) * p * q else []

    def _position_products(self, uses: Sequence[Outer], directions: Tensor) -> tuple[Tensor, Tensor]:
        blocks = [[_inner(a, b) for b in uses] for a in uses]
        G = torch.cat([torch.cat(line, dim=1) for line in blocks])
        matrices = directions.view(len(directions), self.p, self.q)
        along = torch.cat([_along(use, matrices) for use in uses])
        return G, along


def _inner(a: Outer, b: Outer) -> Tensor:
    """Inner products (m_a, m_b) of the gradients of two micro-batches."""
    shape = (len(a.x), a.x.shape[1], len(b.x), b.x.shape[1])
    products = (a.x.flatten(0, 1) @ b.x.flatten(0, 1).T) * (a.y.flatten(0, 1) @ b.y.flatten(0, 1).T)
    return products.view(shape).sum(dim=(1, 3))


def _along(use: Outer, matrices: Tensor) -> Tensor:
    """Products of the gradients with each of `matrices` (n, p, q), (m, n)."""
    out = use.x.new_zeros(len(use.x), len(matrices))
    for column, M in zip(out.unbind(dim=1), matrices, strict=True):
        column.copy_(((use.x @ M) * use.y).sum(dim=(1, 2)))
    return out
