"""J, the gradients of m examples, as something that gives products and sums; seldom as a matrix.

    J (m, D)  one example's gradient a row;   G = J J^T (m, m)

`FactoredJacobian` keeps the layers' factors of one backward. `ExplicitJacobian` keeps the matrix: for models whose
examples cannot be separated, and as the reference that the other is checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from raysearch.distributed import ProcessGroup
from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.factors import DenseFactor, Factor, ParameterJacobian, Workspace
from raysearch.gradients.flat import flat_gradient

CHUNK = 1 << 18  # columns of an explicit J that are multiplied at a time


class Jacobian(Protocol):
    """What a surgery asks of J."""

    @property
    def m(self) -> int:
        """Examples."""

    @property
    def noise(self) -> float:
        """Relative rounding error of G."""

    def inner_products(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """G (m, m) and J's products with each of `directions` (n of (D,)), (m, n), both float64."""

    def combine(self, weights: Tensor) -> Tensor:
        """J times weights (c, m), from the left: (c, D)."""


@dataclass(frozen=True)
class ExplicitJacobian:
    """J written down."""

    J: Tensor

    @property
    def m(self) -> int:
        """Examples."""
        return len(self.J)

    @property
    def noise(self) -> float:
        """G is exact for a J that is rounded."""
        return float(torch.finfo(self.J.dtype).eps ** 1.5)

    def inner_products(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """G and products with directions, summed in float64."""
        G = self.J.new_zeros(self.m, self.m, dtype=torch.float64)
        along = self.J.new_zeros(self.m, len(directions), dtype=torch.float64)
        for low in range(0, self.J.shape[1], CHUNK):
            part = self.J[:, low : low + CHUNK].double()
            G += part @ part.T
            for column, V in zip(along.unbind(dim=1), directions, strict=True):
                column += part @ V[low : low + CHUNK].double()
        return G, along

    def combine(self, weights: Tensor) -> Tensor:
        """J times weights, from the left."""
        return weights.to(self.J.dtype) @ self.J


@dataclass(frozen=True)
class FactoredJacobian:
    """J as its layers' factors. The ranks share the layers' products, and sum m x m and m x n numbers."""

    layers: tuple[ParameterJacobian, ...]
    m: int
    process_group: ProcessGroup

    @property
    def noise(self) -> float:
        """G is summed from products in the factors' own precision."""
        return max((float(torch.finfo(layer.like().dtype).eps) for layer in self.layers if layer.batches), default=0.0)

    def inner_products(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """G and products with directions, summed over layers in float64."""
        both = torch.zeros(self.m, self.m + len(directions), dtype=torch.float64, device=self.process_group.device)
        sizes, room = [layer.p * layer.q for layer in self.layers], Workspace()
        parts = [V.split(sizes) for V in directions]
        for number, layer in enumerate(self.layers):
            if layer.batches and number % self.process_group.world == self.process_group.rank:
                G, along = layer.inner_products([own[number].view(layer.p, layer.q) for own in parts], room)
                both[:, : self.m] += G
                both[:, self.m :] += along
        both = self.process_group.sum(both)
        return both[:, : self.m].clone(), both[:, self.m :].clone()

    def combine(self, weights: Tensor) -> Tensor:
        """J times weights, layer by layer."""
        sizes, room = [layer.p * layer.q for layer in self.layers], Workspace()
        dtype = next((layer.like().dtype for layer in self.layers if layer.batches), weights.dtype)
        out = torch.zeros(len(weights), sum(sizes), dtype=dtype, device=weights.device)
        for layer, own in zip(self.layers, out.split(sizes, dim=1), strict=True):
            if layer.batches:
                layer.combine(weights.to(dtype), own.view(-1, layer.p, layer.q), room)
        return out


Losses = Callable[[Tensor], Tensor]  # row numbers (b,) -> each row's own loss (b,), by one forward


def factored_jacobian(
    losses_of: Losses,
    rows: Tensor,
    capture: LayerCapture,
    process_group: ProcessGroup,
    micro_batches: int = 1,
    check: float | None = None,
) -> FactoredJacobian:
    """J of `rows` by one forward and one backward for each micro-batch.

    With `check`, the first row's gradient is also taken by a plain backward, and may differ by that share of its norm.
    Raises ValueError where a layer mixes rows, changes what it was given in place, or gives another gradient.
    """
    found: list[list[tuple[Factor, ...]]] = []
    sizes = []
    for some in rows.chunk(micro_batches):
        with capture.recording(len(some)):
            losses = losses_of(some)
        if check is not None and not found:
            first = flat_gradient(losses[0], capture.parameters, keep_graph=True)
        pieces, _ = capture.collect_factors(losses.sum())
        found.append([tuple(use.factor for use in uses) for uses in pieces])
        sizes.append(len(some))
    layers = []
    for i, parameter in enumerate(capture.parameters):
        batches = [pieces[i] for pieces in found]
        p = len(parameter) if parameter.ndim else 1
        for at, (uses, size) in enumerate(zip(batches, sizes, strict=True)):
            if not uses and any(batches):
                batches[at] = (DenseFactor(parameter.new_zeros(size, p, parameter.numel() // p)),)
        layers.append(ParameterJacobian(tuple(parameter.shape), tuple(batches) if any(batches) else (), tuple(sizes)))
    J = FactoredJacobian(tuple(layers), len(rows), process_group)
    if check is not None:
        alone = torch.zeros(1, len(rows), device=first.device)
        alone[0, 0] = 1
        capture.check_gradient(J.combine(alone)[0], first, check)
    return J


def explicit_jacobian(
    losses_of: Losses, rows: Tensor, parameters: Sequence[nn.Parameter], *, coupled: bool
) -> ExplicitJacobian:
    """J of `rows` by one backward for each; the rows are in one forward together where they are `coupled`."""
    lines = []
    together = losses_of(rows) if coupled else None
    for i in range(len(rows)):
        loss = together[i] if together is not None else losses_of(rows[i : i + 1]).sum()
        lines.append(flat_gradient(loss, parameters, keep_graph=together is not None and i < len(rows) - 1))
    return ExplicitJacobian(torch.stack(lines))
