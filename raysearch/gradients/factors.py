"""Factored per-example gradients: every example's gradient in one parameter, as the tensors whose product it is.

In a linear layer, the weight gradient of an example is a sum over its positions of outer products: output gradient
times input. Inner products and weighted sums of all examples' gradients are computed from these factors, and the
gradients themselves are never materialised as a whole (the "ghost" products of Goodfellow 2015,
https://arxiv.org/abs/1510.01799, and of Li et al. 2022, https://arxiv.org/abs/2110.05679).

    m        examples
    T        positions of an example in this layer, for instance its tokens
    (p, q)   the parameter as a matrix; a vector has q = 1
    g        (m, n, q): n of the p rows of every example's gradient, materialised
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight


@dataclass(frozen=True)
class OuterProductFactor:
    """The gradient of a linear layer's weight: of example i it is sum_t left[i, t] right[i, t]^T."""

    left: Tensor  # (m, T, p), output gradients
    right: Tensor  # (m, T, q), inputs

    @property
    def leading_size(self) -> int:
        """The leading dimension of the layer's input: m examples, or m times the number of windows per example."""
        return len(self.left)

    def write_rows(self, g: Tensor, rows: Tensor | slice, *, overwrite: bool) -> None:
        """Adds `rows` of every example's gradient to g (m, n, q), or overwrites g with them."""
        g.baddbmm_(self.left[:, :, rows].transpose(1, 2), self.right, beta=0 if overwrite else 1)

    def add_weighted_sum(self, total: Tensor, weights: Tensor) -> None:
        """Adds sum_i weights[i] gradient_i to total (p, q)."""
        left, right, weights = self.left, self.right, weights[:, None, None]
        if left.shape[2] <= right.shape[2]:  # scale the smaller of the two
            left = left * weights
        else:
            right = right * weights
        total.addmm_(left.flatten(0, 1).T, right.flatten(0, 1))


@dataclass(frozen=True)
class EmbeddingFactor:
    """The gradient of an embedding: of example i, right[i, t] is added to row ids[i, t]."""

    ids: Tensor  # (m, T) int64
    right: Tensor  # (m, T, q), output gradients

    @property
    def leading_size(self) -> int:
        """The leading dimension of the layer's input: m examples, or m times the number of windows per example."""
        return len(self.ids)

    def write_rows(self, g: Tensor, rows: Tensor | slice, *, overwrite: bool) -> None:
        """Adds `rows`, sorted, of every example's gradient to g (m, n, q), or overwrites g with them."""
        if overwrite:
            g.zero_()
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=self.ids.device)
        index = torch.searchsorted(rows, self.ids.contiguous()).clamp_max(len(rows) - 1)
        right = self.right * (rows[index] == self.ids)[:, :, None]
        g.scatter_add_(1, index[:, :, None].expand_as(right), right)

    def add_weighted_sum(self, total: Tensor, weights: Tensor) -> None:
        """Adds sum_i weights[i] gradient_i to total (p, q)."""
        total.index_add_(0, self.ids.flatten(), (self.right * weights[:, None, None]).flatten(0, 1))


@dataclass(frozen=True)
class DenseFactor:
    """Materialised gradients: of small parameters, and of layers without a gradient rule."""

    gradients: Tensor  # (m, p, q)

    @property
    def leading_size(self) -> int:
        """The leading dimension of the layer's input: m examples, or m times the number of windows per example."""
        return len(self.gradients)

    def materialise_rows(self, rows: Tensor | slice) -> Tensor:
        """Returns `rows` of every example's gradient, (m, n, q)."""
        return self.gradients[:, rows]

    def write_rows(self, g: Tensor, rows: Tensor | slice, *, overwrite: bool) -> None:
        """Adds `rows` of every example's gradient to g (m, n, q), or overwrites g with them."""
        _write(self.materialise_rows(rows), g, overwrite=overwrite)

    def add_weighted_sum(self, total: Tensor, weights: Tensor) -> None:
        """Adds sum_i weights[i] gradient_i to total (p, q)."""
        total += torch.tensordot(weights, self.gradients, dims=1)


@dataclass(frozen=True)
class ConvolutionFactor:
    """The gradient of a convolution's kernel, computed by a convolution; image patches are never materialised."""

    inputs: Tensor  # (m, C, height, width)
    output_gradients: Tensor  # (m, p, height, width) of the output
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def leading_size(self) -> int:
        """The leading dimension of the layer's input: m examples, or m times the number of windows per example."""
        return len(self.inputs)

    def materialise_rows(self, rows: slice) -> Tensor:
        """Returns `rows` of every example's gradient, (m, n, q), by one convolution with a group for each example."""
        m = len(self.inputs)
        grouped = self._gradient(
            self.inputs.flatten(0, 1)[None], self.output_gradients[:, rows].flatten(0, 1)[None], groups=m
        )
        return grouped.view(m, rows.stop - rows.start, -1)

    def write_rows(self, g: Tensor, rows: Tensor | slice, *, overwrite: bool) -> None:
        """Adds `rows` of every example's gradient to g (m, n, q), or overwrites g with them."""
        assert isinstance(rows, slice)
        _write(self.materialise_rows(rows), g, overwrite=overwrite)

    def sum_over(self, examples: slice, low: int, high: int) -> Tensor:
        """Returns rows `low` to `high` of the gradient summed over some examples, (high - low, q)."""
        gradient = self._gradient(self.inputs[examples], self.output_gradients[examples, low:high], groups=1)
        return gradient.flatten(1)

    def add_weighted_sum(self, total: Tensor, weights: Tensor) -> None:
        """Adds sum_i weights[i] gradient_i to total (p, q)."""
        weighted = self.output_gradients * weights[:, None, None, None]
        total += self._gradient(self.inputs, weighted, groups=1).flatten(1)

    def _gradient(self, inputs: Tensor, output_gradients: Tensor, groups: int) -> Tensor:
        shape = (output_gradients.shape[1], inputs.shape[1] // groups, *self.kernel)
        gradient: Tensor = conv2d_weight(
            inputs, shape, output_gradients.contiguous(), self.stride, self.padding, self.dilation, groups
        )
        return gradient


Factor = OuterProductFactor | EmbeddingFactor | DenseFactor | ConvolutionFactor


class Workspace:
    """Scratch memory that is reused for one chunk of gradients after another.

    A fresh allocation for each chunk would cost as much time as computing the chunk.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0)

    def tensor(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Returns an uninitialised tensor of `like`'s type and device; it overwrites the one returned before."""
        size = math.prod(shape)
        if len(self._buffer) < size or (self._buffer.dtype, self._buffer.device) != (like.dtype, like.device):
            self._buffer = like.new_empty(0)  # frees the old buffer before the new one is allocated
            self._buffer = like.new_empty(size)
        return self._buffer[:size].view(shape)


def _write(part: Tensor, g: Tensor, *, overwrite: bool) -> None:
    """Adds `part` to g, or copies it into g."""
    g.copy_(part) if overwrite else g.add_(part)
