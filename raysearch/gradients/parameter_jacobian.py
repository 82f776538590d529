"""The columns of the per-example Jacobian J that belong to one parameter, and their products.

There are three ways to multiply, and the cheapest is taken for each parameter:

    by rows         all examples' gradients are materialised for some rows of the parameter, multiplied and dropped
    by positions    G_ij = sum_{t, s} (left_it left_js) (right_it right_js), where an example has few positions
    by shared rows  of an embedding: two examples' gradients overlap only in the rows that both use

    m        examples                          (p, q)   the parameter as a matrix; a vector has q = 1
    J        (m, p q) of this parameter        G        J J^T (m, m), the Gramian
    V        (p, q), a direction
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

CHUNK_SIZE = 1 << 21  # elements of per-example gradients that are materialised at a time
MIN_CHANNELS = 32  # smallest number of a convolution's output channels that are materialised at a time
MAX_PAIRED = 8  # an embedding's row that more examples use than this is multiplied for all examples at once
GRAMIAN_STRIP = (
    32  # rows of the Gramian's upper triangle that are computed at a time; the lower one is its mirror image
)
COLUMN_BLOCKS = 8  # blocks of a long row that are multiplied side by side: a few rows alone leave threads idle


@dataclass(frozen=True)
class ParameterJacobian:
    """Every example's gradient in one parameter: a sum over the parameter's uses, in one or more micro-batches."""

    shape: tuple[int, ...]
    batches: tuple[tuple[Factor, ...], ...]  # by micro-batch, then by use of the parameter
    sizes: tuple[int, ...]  # examples of each micro-batch

    @property
    def p(self) -> int:
        """The rows of the parameter as a matrix."""
        return self.shape[0] if self.shape else 1

    @property
    def q(self) -> int:
        """The columns of the parameter as a matrix."""
        return math.prod(self.shape[1:])

    def inner_products(self, directions: Sequence[Tensor], workspace: Workspace) -> tuple[Tensor, Tensor]:
        """Returns G (m, m) and the products of J with each of the `directions` (n of (p, q)), (m, n)."""
        if factors := self._factors_for_position_products():
            return _position_products(factors, directions)
        if all(isinstance(factor, EmbeddingFactor) for batch in self.batches for factor in batch):
            return self._embedding_products(directions, workspace)
        m = sum(self.sizes)
        like = self.like()
        G, products = like.new_zeros(m, m), like.new_zeros(m, len(directions))
        for rows, chunk in self._chunks(workspace):
            flat = chunk.flatten(1)
            _add_upper_gramian(G, flat)
            if directions:
                products.addmm_(flat, torch.stack([V[rows].flatten() for V in directions]).T)
        return G.triu() + G.triu(1).T, products

    def combine(self, weights: Tensor, out: Tensor, workspace: Workspace) -> None:
        """Adds sum_i weights[c, i] gradient_i to out[c] (p, q), for each row of `weights` (c, m)."""
        if len(weights) <= 2:  # cheaper than materialising the gradients
            for total, row in zip(out, weights, strict=True):
                for factors, batch_weights in zip(self.batches, row.split(self.sizes), strict=True):
                    for factor in factors:
                        factor.add_weighted_sum(total, batch_weights)
        else:
            for rows, chunk in self._chunks(workspace):
                out[:, rows] += torch.tensordot(weights, chunk, dims=1)

    def like(self) -> Tensor:
        """Returns a tensor with the factors' type and device."""
        factor = self.batches[0][0]
        if isinstance(factor, ConvolutionFactor):
            return factor.output_gradients
        return factor.gradients if isinstance(factor, DenseFactor) else factor.right

    # ---- by rows ----

    def _chunks(self, workspace: Workspace) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Yields some rows of the parameter and all gradients in them (m, n, q); each chunk overwrites the last."""
        m, factors = sum(self.sizes), [factor for batch in self.batches for factor in batch]
        least = MIN_CHANNELS if any(isinstance(factor, ConvolutionFactor) for factor in factors) else 1
        step = max(least, CHUNK_SIZE // max(1, m * self.q))
        ids = [factor.ids.flatten() for factor in factors if isinstance(factor, EmbeddingFactor)]
        if len(ids) == len(factors):
            for used_rows in torch.cat(ids).unique().split(step):
                g = workspace.tensor((m, len(used_rows), self.q), self.like())
                yield used_rows, self._materialise(g, used_rows)
            return
        only_factor = factors[0] if len(factors) == 1 else None
        for low in range(0, self.p, step):
            rows = slice(low, min(low + step, self.p))
            if isinstance(only_factor, DenseFactor | ConvolutionFactor):
                yield rows, only_factor.materialise_rows(rows)
            else:
                yield rows, self._materialise(workspace.tensor((m, rows.stop - low, self.q), self.like()), rows)

    def _materialise(self, g: Tensor, rows: Tensor | slice) -> Tensor:
        """Writes `rows` of every example's gradient to g (m, n, q) and returns g."""
        for factors, batch_g in zip(self.batches, g.split(self.sizes), strict=True):
            for number, factor in enumerate(factors):
                factor.write_rows(batch_g, rows, overwrite=number == 0)
        return g

    # ---- by positions ----

    def _factors_for_position_products(self) -> list[OuterProductFactor]:
        """Returns one factor per micro-batch if products by positions are cheaper, or else an empty list."""
        single = [batch[0] for batch in self.batches if len(batch) == 1]
        factors = [factor for factor in single if isinstance(factor, OuterProductFactor)]
        if len(factors) < len(self.batches):
            return []
        positions = sum(factor.left.shape[0] * factor.left.shape[1] for factor in factors)
        m, p, q = sum(self.sizes), self.p, self.q
        return factors if positions * positions * (p + q) < (positions + m * m) * p * q else []

    # ---- by shared rows of an embedding ----

    def _embedding_products(self, directions: Sequence[Tensor], workspace: Workspace) -> tuple[Tensor, Tensor]:
        """Returns `inner_products` of an embedding, whose rows are mostly used by few examples each."""
        m = sum(self.sizes)
        row, example, gradients = self._used_rows()
        products = gradients.new_zeros(m, len(directions))
        for column, V in zip(products.unbind(dim=1), directions, strict=True):
            column.index_add_(0, example, (gradients * V[row]).sum(dim=1))
        _, index, counts = row.unique_consecutive(return_inverse=True, return_counts=True)
        is_frequent = counts[index] > MAX_PAIRED
        G = gradients.new_zeros(m, m)
        if is_frequent.any():
            self._add_frequent_rows(G, row[is_frequent], example[is_frequent], gradients[is_frequent], workspace)
        _add_row_pairs(G, row[~is_frequent], example[~is_frequent], gradients[~is_frequent])
        return G, products

    def _used_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns each used row (N,), the example that uses it (N,) and its gradient (N, q), sorted in this order."""
        m = sum(self.sizes)
        keys, gradients, start = [], [], 0
        for batch, size in zip(self.batches, self.sizes, strict=True):
            for factor in batch:
                assert isinstance(factor, EmbeddingFactor)
                example = torch.arange(start, start + size, device=factor.ids.device)
                keys.append((factor.ids * m + example[:, None]).flatten())
                gradients.append(factor.right.flatten(0, 1))
            start += size
        key, index = torch.cat(keys).unique(return_inverse=True)
        total = gradients[0].new_zeros(len(key), self.q).index_add_(0, index, torch.cat(gradients))
        return key // m, key % m, total

    def _add_frequent_rows(
        self, G: Tensor, row: Tensor, example: Tensor, gradients: Tensor, workspace: Workspace
    ) -> None:
        """Adds to G (m, m) the products in rows that many examples use, materialised for all examples."""
        m = len(G)
        rows, index = row.unique_consecutive(return_inverse=True)
        step = max(1, CHUNK_SIZE // (m * self.q))
        for low in range(0, len(rows), step):
            in_chunk = (index >= low) & (index < low + step)
            dense = workspace.tensor((m, min(step, len(rows) - low), self.q), gradients).zero_()
            dense[example[in_chunk], index[in_chunk] - low] = gradients[in_chunk]
            G.addmm_(dense.flatten(1), dense.flatten(1).T)


def _add_row_pairs(G: Tensor, row: Tensor, example: Tensor, gradients: Tensor) -> None:
    """Adds to G (m, m) the products in rows that at most MAX_PAIRED examples use, pair by pair.

    The uses of one row are neighbours in the sorted `row` (N,), `example` (N,) and `gradients` (N, q).
    """
    m = len(G)
    G.view(-1).index_add_(0, example * (m + 1), gradients.square().sum(dim=1))
    for distance in range(1, MAX_PAIRED):
        pairs = (row[distance:] == row[:-distance]).nonzero()[:, 0]
        if not len(pairs):
            break
        products = (gradients[pairs] * gradients[pairs + distance]).sum(dim=1)
        G.view(-1).index_add_(0, example[pairs] * m + example[pairs + distance], products)
        G.view(-1).index_add_(0, example[pairs + distance] * m + example[pairs], products)


def _add_upper_gramian(G: Tensor, flat: Tensor) -> None:
    """Adds the inner products of the rows of `flat` (m, n) to the upper triangle of G (m, m)."""
    m, n = flat.shape
    blocks = flat.view(m, math.gcd(n, COLUMN_BLOCKS), -1).transpose(0, 1)
    for i in range(0, m, GRAMIAN_STRIP):
        G[i : i + GRAMIAN_STRIP, i:] += (blocks[:, i : i + GRAMIAN_STRIP] @ blocks[:, i:].transpose(1, 2)).sum(dim=0)


def _position_products(factors: Sequence[OuterProductFactor], directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the inner products of one parameter from the products of its positions; one factor per micro-batch."""
    blocks = [[_pairwise_products(a, b) for b in factors] for a in factors]
    G = torch.cat([torch.cat(row, dim=1) for row in blocks])
    products = torch.cat([_direction_products(factor, directions) for factor in factors])
    return G, products


def _pairwise_products(a: OuterProductFactor, b: OuterProductFactor) -> Tensor:
    """Returns the inner products (m_a, m_b) of the gradients of two micro-batches."""
    shape = (len(a.left), a.left.shape[1], len(b.left), b.left.shape[1])
    left = a.left.flatten(0, 1) @ b.left.flatten(0, 1).T
    right = a.right.flatten(0, 1) @ b.right.flatten(0, 1).T
    return (left * right).view(shape).sum(dim=(1, 3))


def _direction_products(factor: OuterProductFactor, directions: Sequence[Tensor]) -> Tensor:
    """Returns the inner products of the gradients with each of the `directions` (n of (p, q)), (m, n)."""
    products = factor.left.new_zeros(len(factor.left), len(directions))
    for column, V in zip(products.unbind(dim=1), directions, strict=True):
        column.copy_(((factor.left @ V) * factor.right).sum(dim=(1, 2)))
    return products
