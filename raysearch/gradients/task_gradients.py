"""The gradients of a batch's tasks: products, norms and weighted sums, after one backward for all tasks.

g (n, D)  one task's gradient a row; `FactoredTaskGradients` never materialises it as a whole
v (D,)    the dev gradient
c         weighted sums that are requested
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raysearch.gradients.capture import LayerCapture, TaskFactor
from raysearch.gradients.factors import Workspace
from raysearch.gradients.module_calls import WHOLE_BATCH
from raysearch.gradients.parameter_products import ParameterUse, Requested, add_parameter_products

TaskExamples = dict[int, slice]  # the examples of each task within a batch


@dataclass(frozen=True)
class GradientSummary:
    """Products, norms and sums of the tasks' gradients, from one pass over them; float64."""

    products: Tensor  # (n,) inner products with v, zeros without v
    gramian: Tensor  # (n, n); only its diagonal if norms were requested, zeros if neither was
    sums: Tensor  # (c, D) weights times g, in the parameters' own type


@dataclass(frozen=True)
class SummaryRequest:
    """The arguments of `TaskGradients.summarise`, where they are known before the backward."""

    weights: Tensor  # (c, n)
    v: Tensor | None = None
    norms: bool = False
    gramian: bool = False


class TaskGradients(Protocol):
    """The gradients of a step's tasks, however they are represented."""

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Returns the products with v, the norms or the whole Gramian as requested, and the sums `weights` (c, n) g."""


@dataclass(frozen=True)
class DenseTaskGradients:
    """Materialised gradients: for models whose examples cannot be separated, and as the reference."""

    g: Tensor

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Returns the summary, with products computed in float64."""
        g = self.g.double()
        products = g @ v.double() if v is not None else g.new_zeros(len(g))
        if gramian:
            G = g @ g.T
        else:
            G = (torch.linalg.vector_norm(g, dim=1).square() if norms else g.new_zeros(len(g))).diag()
        return GradientSummary(products, G, weights.to(self.g) @ self.g)


@dataclass(frozen=True)
class CapturedParameter:
    """The uses of one parameter in one or more micro-batches."""

    shape: torch.Size
    uses: tuple[tuple[TaskFactor, TaskExamples], ...]  # each with the examples of its micro-batch


@dataclass(frozen=True)
class FactoredTaskGradients:
    """Gradients kept as factors of each parameter."""

    parameters: tuple[CapturedParameter, ...]
    tasks: tuple[int, ...]  # in the order of g's rows
    like: Tensor

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Returns the summary, computed parameter by parameter, each in the way that is cheaper for it."""
        present = list(dict.fromkeys(task for p in self.parameters for _, examples in p.uses for task in examples))
        shapes = [parameter.shape for parameter in self.parameters]
        request = SummaryRequest(weights, v, norms, gramian)
        builder = _SummaryBuilder(shapes, self.tasks, present, self.like, request)
        for number, parameter in enumerate(self.parameters):
            builder.add_parameter(number, parameter.uses)
        return builder.build()


class StreamingTaskGradients:
    """One summary that is requested before the backward; each parameter's factors are used as they come, not kept."""

    def __init__(
        self, parameters: Sequence[Tensor], tasks: tuple[int, ...], examples: TaskExamples, request: SummaryRequest
    ) -> None:
        self.request, self._examples = request, examples
        shapes = [parameter.shape for parameter in parameters]
        self._builder = _SummaryBuilder(shapes, tasks, list(examples), parameters[0].detach(), request)
        self._remaining = set(range(len(parameters)))

    def add_parameter(self, number: int, use: TaskFactor) -> None:
        """Adds the only use of a parameter."""
        self._remaining.remove(number)
        self._builder.add_parameter(number, ((use, self._examples),))

    def add_remaining(self, uses: Sequence[tuple[TaskFactor, ...]]) -> None:
        """Adds the uses of the parameters that were not added during the backward."""
        for number in self._remaining:
            self._builder.add_parameter(number, tuple((use, self._examples) for use in uses[number]))

    def summarise(
        self, weights: Tensor, v: Tensor | None = None, *, norms: bool = False, gramian: bool = False
    ) -> GradientSummary:
        """Returns the summary that was requested; no other is available."""
        assert weights.equal(self.request.weights)
        assert v is self.request.v
        assert (norms, gramian) == (self.request.norms, self.request.gramian)
        return self._builder.build()


class _SummaryBuilder:
    """A summary that is built from one parameter after another, in any order."""

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        tasks: tuple[int, ...],
        present: list[int],  # the tasks that have examples on this rank
        like: Tensor,
        request: SummaryRequest,
    ) -> None:
        self.shapes, self.n, self.present = shapes, len(tasks), present
        self.index = torch.tensor([tasks.index(task) for task in present], dtype=torch.long)  # their rows in g
        self.requested = Requested(request.weights[:, self.index], request.norms, request.gramian, Workspace())
        sizes = [shape.numel() for shape in shapes]
        self.sums = like.new_empty(len(request.weights), sum(sizes))
        self.sums_by_parameter = self.sums.split(sizes, dim=1)
        v = request.v
        self.directions: Sequence[Tensor | None] = v.split(sizes) if v is not None else [None] * len(sizes)
        self.by_parameter: dict[int, tuple[Tensor, Tensor]] = {}  # products (n,) and Gramian (n, n), float64

    def add_parameter(self, number: int, captured: Sequence[tuple[TaskFactor, TaskExamples]]) -> None:
        """Adds all uses of a parameter, each with the examples of the tasks in its micro-batch."""
        shape, direction = self.shapes[number], self.directions[number]
        p = shape[0] if shape else 1
        uses = [self._parameter_use(use, examples) for use, examples in captured]
        out = self.sums_by_parameter[number].view(len(self.sums), p, -1)
        V = direction.view(p, -1) if direction is not None else None
        n = len(self.present)
        products, G = (out.new_zeros(size, dtype=torch.float64) for size in ((n,), (n, n)))
        add_parameter_products([use for use in uses if use.examples], out, self.requested, V, products, G)
        self.by_parameter[number] = products, G

    def build(self) -> GradientSummary:
        """Returns the summary of all tasks, with zeros for tasks that are not present.

        Parameters are summed in a fixed order, so the result does not depend on the order in which they were added.
        """
        numbers = range(len(self.shapes))
        products, G = (sum((self.by_parameter[n][i] for n in numbers), torch.zeros(())) for i in (0, 1))
        index, gramian = self.index.to(G.device), G.new_zeros(self.n, self.n)
        gramian[index[:, None], index] = G
        return GradientSummary(G.new_zeros(self.n).index_copy_(0, index, products), gramian, self.sums)

    def _parameter_use(self, use: TaskFactor, examples: TaskExamples) -> ParameterUse:
        """Returns a use with the examples of each task that is in it."""
        if use.task != WHOLE_BATCH:
            return ParameterUse(use.factor, ((self.present.index(use.task), slice(0, use.factor.leading_size)),))
        return ParameterUse(use.factor, tuple((self.present.index(task), s) for task, s in examples.items()))


def group_by_parameter(
    parameters: Sequence[Tensor], batches: Sequence[tuple[list[tuple[TaskFactor, ...]], TaskExamples]]
) -> tuple[CapturedParameter, ...]:
    """Groups by parameter what `LayerCapture.collect_factors` returned for each micro-batch."""
    return tuple(
        CapturedParameter(parameter.shape, tuple((use, examples) for uses, examples in batches for use in uses[i]))
        for i, parameter in enumerate(parameters)
    )


def check_task_sum(
    gradients: FactoredTaskGradients, expected: Tensor, capture: LayerCapture, *, is_low_precision: bool
) -> None:
    """Raises ValueError unless the tasks' gradients add up to the plain gradient (D,) of their losses' sum."""
    ones = torch.ones(1, len(gradients.tasks), dtype=torch.float64)
    total = gradients.summarise(ones).sums[0]
    capture.check_gradient(total, expected, 1e-2 if is_low_precision else 1e-3)
