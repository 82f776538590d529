"""The Jacobian J of m examples' losses: an object that gives products and weighted sums, seldom a matrix.

    J (m, D)  one example's gradient a row;   G = J J^T (m, m), its Gramian

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
from raysearch.gradients.factors import DenseFactor, Factor, Workspace
from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.parameter_jacobian import ParameterJacobian

COLUMN_CHUNK = 1 << 18  # columns of an explicit J that are multiplied at a time


class Jacobian(Protocol):
    """The operations on J that a surgery uses."""

    @property
    def m(self) -> int:
        """The number of examples."""

    @property
    def noise(self) -> float:
        """The relative rounding error of G."""

    def inner_products(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns G (m, m) and the products of J with each of the `directions` (n of (D,)), (m, n); both float64."""

    def combine(self, weights: Tensor) -> Tensor:
        """Returns weights (c, m) times J, (c, D)."""


@dataclass(frozen=True)
class ExplicitJacobian:
    """A materialised J."""

    J: Tensor

    @property
    def m(self) -> int:
        """The number of examples."""
        return len(self.J)

    @property
    def noise(self) -> float:
        """The relative rounding error of G, which is computed exactly from a J that is itself rounded."""
        return float(torch.finfo(self.J.dtype).eps ** 1.5)

    def inner_products(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns G and the products with the directions, summed in float64."""
        G = self.J.new_zeros(self.m, self.m, dtype=torch.float64)
        products = self.J.new_zeros(self.m, len(directions), dtype=torch.float64)
        for low in range(0, self.J.shape[1], COLUMN_CHUNK):
            columns = self.J[:, low : low + COLUMN_CHUNK].double()
            G += columns @ columns.T
            for product, V in zip(products.unbind(dim=1), directions, strict=True):
                product += columns @ V[low : low + COLUMN_CHUNK].double()
        return G, products

    def combine(self, weights: Tensor) -> Tensor:
        """Returns weights times J."""
        return weights.to(self.J.dtype) @ self.J


@dataclass(frozen=True)
class FactoredJacobian:
    """J as the factors of its parameters, which are divided among the ranks: they exchange m x (m + n) numbers."""

    parameters: tuple[ParameterJacobian, ...]
    m: int
    process_group: ProcessGroup

    @property
    def noise(self) -> float:
        """The relative rounding error of G, which is summed from products in the factors' own precision."""
        epsilons = (
            float(torch.finfo(parameter.like().dtype).eps) for parameter in self.parameters if parameter.batches
        )
        return max(epsilons, default=0.0)

    def inner_products(self, directions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns G and the products with the directions, summed over parameters in float64."""
        total = torch.zeros(self.m, self.m + len(directions), dtype=torch.float64, device=self.process_group.device)
        sizes, workspace = [parameter.p * parameter.q for parameter in self.parameters], Workspace()
        split_directions = [V.split(sizes) for V in directions]
        for number, parameter in enumerate(self.parameters):
            if parameter.batches and number % self.process_group.world == self.process_group.rank:
                matrices = [parts[number].view(parameter.p, parameter.q) for parts in split_directions]
                G, products = parameter.inner_products(matrices, workspace)
                total[:, : self.m] += G
                total[:, self.m :] += products
        total = self.process_group.sum(total)
        return total[:, : self.m].clone(), total[:, self.m :].clone()

    def combine(self, weights: Tensor) -> Tensor:
        """Returns weights times J, computed parameter by parameter."""
        sizes, workspace = [parameter.p * parameter.q for parameter in self.parameters], Workspace()
        dtype = next((parameter.like().dtype for parameter in self.parameters if parameter.batches), weights.dtype)
        out = torch.zeros(len(weights), sum(sizes), dtype=dtype, device=weights.device)
        for parameter, columns in zip(self.parameters, out.split(sizes, dim=1), strict=True):
            if parameter.batches:
                parameter.combine(weights.to(dtype), columns.view(-1, parameter.p, parameter.q), workspace)
        return out


ExampleLosses = Callable[[Tensor], Tensor]  # numbers of examples (b,) -> the loss of each (b,), by one forward


def factored_jacobian(
    losses_of: ExampleLosses,
    examples: Tensor,
    capture: LayerCapture,
    process_group: ProcessGroup,
    micro_batches: int = 1,
    check: float | None = None,
) -> FactoredJacobian:
    """Returns J of `examples` by one forward and one backward for each micro-batch.

    With `check`, the gradient of the first example is also computed by plain autograd, and may differ by at most this
    share of its norm. Raises ValueError where a layer mixes examples, changes its input in place, or gives another
    gradient.
    """
    captured: list[list[tuple[Factor, ...]]] = []  # by micro-batch, then by parameter
    sizes = []
    for batch in examples.chunk(micro_batches):
        with capture.recording(len(batch)):
            losses = losses_of(batch)
        if check is not None and not captured:
            first = flat_gradient(losses[0], capture.parameters, keep_graph=True)
        task_factors, _ = capture.collect_factors(losses.sum())
        captured.append([tuple(use.factor for use in uses) for uses in task_factors])
        sizes.append(len(batch))
    columns = [
        _parameter_jacobian(p, [batch[i] for batch in captured], sizes) for i, p in enumerate(capture.parameters)
    ]
    J = FactoredJacobian(tuple(columns), len(examples), process_group)
    if check is not None:
        pick_first = torch.zeros(1, len(examples), device=first.device)
        pick_first[0, 0] = 1
        capture.check_gradient(J.combine(pick_first)[0], first, check)
    return J


def _parameter_jacobian(
    parameter: nn.Parameter, batches: list[tuple[Factor, ...]], sizes: list[int]
) -> ParameterJacobian:
    """Returns one parameter's columns of J, with zeros for micro-batches that do not use the parameter."""
    if not any(batches):
        return ParameterJacobian(tuple(parameter.shape), (), tuple(sizes))
    p = len(parameter) if parameter.ndim else 1
    filled = [
        factors or (DenseFactor(parameter.new_zeros(size, p, parameter.numel() // p)),)
        for factors, size in zip(batches, sizes, strict=True)
    ]
    return ParameterJacobian(tuple(parameter.shape), tuple(filled), tuple(sizes))


def explicit_jacobian(
    losses_of: ExampleLosses, examples: Tensor, parameters: Sequence[nn.Parameter], *, coupled: bool
) -> ExplicitJacobian:
    """Returns J of `examples` by one backward for each; `coupled` examples share one forward."""
    gradients = []
    shared_losses = losses_of(examples) if coupled else None
    for i in range(len(examples)):
        loss = shared_losses[i] if shared_losses is not None else losses_of(examples[i : i + 1]).sum()
        keep_graph = shared_losses is not None and i < len(examples) - 1
        gradients.append(flat_gradient(loss, parameters, keep_graph=keep_graph))
    return ExplicitJacobian(torch.stack(gradients))
