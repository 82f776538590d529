"""The end-task examples whose gradients span a surgery's subspace, and their Jacobian J (m, D).

Dropout is off. Every rank runs all examples and all ranks get the same J; the ranks share the work of multiplying the
layers' factors (`gradients.jacobian`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Generator, Tensor

from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.jacobian import (
    ExplicitJacobian,
    FactoredJacobian,
    Jacobian,
    explicit_jacobian,
    factored_jacobian,
)
from raysearch.gradients.layer_rules import BatchNorm
from raysearch.gradients.parameter_blocks import select_parameter_blocks
from raysearch.methods.surgery.base import Basis, BasisQuery
from raysearch.rng import ShuffledRows, number_of
from raysearch.training.context import TrainingContext


class BasisJacobian:
    """Draws the examples that a surgery requests, and computes their J, one for each of its parameter blocks."""

    def __init__(self, context: TrainingContext, query: BasisQuery) -> None:
        self.context, self.query, self.network = context, query, context.network
        self.split = context.splits("train")
        heads = self.network.head_parameters()
        self.blocks = select_parameter_blocks(query.scope, self.network.body, context.body, heads, query.last_layers)
        self.is_coupled = self.network.couples_examples and query.couples_rows
        self.numbers = sorted(i for block in self.blocks.blocks for i in block)
        self.parameters = [context.parameters[i] for i in self.numbers]
        root = self.network if query.scope == "all" else self.network.body
        self.capture = LayerCapture(root, self.parameters)
        self.fresh_order = ShuffledRows(len(self.split), number_of(context.plan.seed, "basis", 0))
        self.step_order = ShuffledRows(len(self.split), context.plan.seed)
        self.count = 0  # fresh sets of examples so far
        self._is_checked = False

    def at_step(self, step: int, generator: Generator) -> Basis:
        """Returns the basis of a step."""
        return StepBasis(self, step, generator)

    @property
    def remark(self) -> str:
        """A sentence if the basis is of another function than the gradients that are cut; else empty."""
        if self.network.couples_examples and not self.query.couples_rows:
            return (
                "the model has BatchNorm, and with batch_norm: frozen the subspace is that of a network with fixed "
                "statistics, not of the one that trains: batch_norm: coupled (slower), or a model without BatchNorm"
            )
        return ""

    def losses(self, rows: Tensor) -> Tensor:
        """Returns the loss of each example by itself, (b,), by one forward pass."""
        batch = self.context.batches.end_task_batch(self.split, rows).to(self.context.device)
        with self.context.autocast():
            logits = self.network.logits(self.network.hidden(*batch.inputs), batch.targets.real)
        return self.context.end_task_losses(logits, batch.targets.labels)

    def rows(self, step: int) -> Tensor:
        """Returns the examples of a step, (m,); fresh ones at each call if the surgery asks for such."""
        if not self.query.fresh:
            size = self.context.training.batch_size
            return self.step_order.rows((step - 1) * size, size)
        rows = self.fresh_order.rows(self.count * self.query.m, self.query.m)
        self.count += 1
        return rows

    @property
    def is_sketched(self) -> bool:
        """Whether J has random combinations of the examples' gradients as rows."""
        return self.is_coupled and self.query.sketch_rows > 0

    def mean_gradients(self, rows: Tensor) -> list[Tensor]:
        """Returns the gradient of the examples' mean loss in every block, by backward passes."""
        with self._without_dropout():
            parts = [rows] if self.is_coupled else rows.chunk(self.context.training.micro_batches)
            gradients = [flat_gradient(self.losses(part).sum() / len(rows), self.parameters) for part in parts]
        mean = ExplicitJacobian(torch.stack(gradients).sum(dim=0, keepdim=True))
        return [block.combine(mean.J.new_ones(1, 1))[0] for block in self._split_into_blocks(mean)]

    def jacobians(self, rows: Tensor, generator: Generator) -> list[Jacobian]:
        """Returns J of every block."""
        with self._without_dropout():
            return self._split_into_blocks(self._jacobian(rows, generator))

    def _jacobian(self, rows: Tensor, generator: Generator) -> Jacobian:
        """Returns J from the layers' factors; by backward passes if rows are coupled, or for the engine `backward`."""
        training = self.context.training
        if self.is_sketched:  # as many backward passes as rows of Omega^T J
            count = min(self.query.sketch_rows, len(rows))
            sketch = torch.randn(count, len(rows), generator=generator).to(self.context.device)
            return explicit_jacobian(
                lambda _: sketch @ self.losses(rows), torch.arange(count), self.parameters, coupled=True
            )
        if self.is_coupled or training.engine == "backward":
            return explicit_jacobian(self.losses, rows, self.parameters, coupled=self.is_coupled)
        tolerance = None if self._is_checked else (1e-2 if training.precision == "bfloat16" else 1e-3)
        J = factored_jacobian(
            self.losses, rows, self.capture, self.context.process_group, training.micro_batches, tolerance
        )
        if tolerance is not None:
            self.capture.warn_about_slow_modules()
        self._is_checked = True
        return J

    def _split_into_blocks(self, J: Jacobian) -> list[Jacobian]:
        blocks = self.blocks.blocks
        place = {number: at for at, number in enumerate(self.numbers)}
        if len(blocks) == 1:
            return [J]
        if isinstance(J, FactoredJacobian):
            process_group = self.context.process_group
            return [FactoredJacobian(tuple(J.parameters[place[i]] for i in b), J.m, process_group) for b in blocks]
        assert isinstance(J, ExplicitJacobian)
        columns = J.J.split([p.numel() for p in self.parameters], dim=1)
        return [ExplicitJacobian(torch.cat([columns[place[i]] for i in block], dim=1)) for block in blocks]

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """Switches dropout off.

        BatchNorm uses its running statistics; if rows are coupled, those of the batch, without updating the running
        ones.
        """
        self.network.eval()
        layers = [m for m in self.network.modules() if isinstance(m, BatchNorm)] if self.is_coupled else []
        _use_batch_statistics(layers, active=True)
        try:
            yield
        finally:
            _use_batch_statistics(layers, active=False)
            self.network.train()


class StepBasis:
    """The basis of one step: its examples are drawn, and their J is computed, at most once and on request."""

    def __init__(self, examples: BasisJacobian, step: int, generator: Generator) -> None:
        self.examples, self.step, self.generator = examples, step, generator
        self.blocks = examples.blocks
        self._jacobians: list[Jacobian] | None = None

    @cached_property
    def rows(self) -> Tensor:
        """The examples, (m,)."""
        return self.examples.rows(self.step)

    def jacobians(self) -> list[Jacobian]:
        """Returns J (m, D_block) of every block."""
        if self._jacobians is None:
            self._jacobians = self.examples.jacobians(self.rows, self.generator)
        return self._jacobians

    def mean_gradients(self) -> list[Tensor]:
        """Returns the mean of J's rows in every block, by a backward pass of its own where there is no J."""
        if self._jacobians is None or self.examples.is_sketched:
            return self.examples.mean_gradients(self.rows)
        mean = torch.full((1, len(self.rows)), 1 / len(self.rows), device=self.examples.context.device)
        return [J.combine(mean)[0] for J in self._jacobians]


def _use_batch_statistics(layers: list[BatchNorm], *, active: bool) -> None:
    for layer in layers:
        layer.train(active)
        layer.track_running_stats = not active
