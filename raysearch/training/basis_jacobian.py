"""The end-task examples whose gradients span ATTITTUD's subspace, and their Jacobian.

Dropout is off while they are looked at. Every rank goes through all of them and all ranks come to the same J; what
is shared between ranks is the work of multiplying its layers' products (`gradients.jacobian`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.distributed import ProcessGroup
from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.jacobian import (
    ExplicitJacobian,
    FactoredJacobian,
    Jacobian,
    explicit_jacobian,
    factored_jacobian,
)
from raysearch.gradients.layer_rules import BatchNorm
from raysearch.gradients.parameter_blocks import ParameterBlocks
from raysearch.methods.surgery import settings as f
from raysearch.modalities.batch import BatchBuilder
from raysearch.modalities.losses import example_losses
from raysearch.models.network import Network
from raysearch.plan import TrialPlan
from raysearch.rng import ShuffledRows, number_of


class Examples:
    """Draws the examples of each new basis and gives J, one block for each of the scope's."""

    def __init__(
        self,
        plan: TrialPlan,
        network: Network,
        scope: ParameterBlocks,
        split: Split,
        batches: BatchBuilder,
        process_group: ProcessGroup,
        arithmetic: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.plan, self.network, self.scope, self.process_group = plan, network, scope, process_group
        self.split, self.batches, self.arithmetic = split, batches, arithmetic
        self.settings: f.AttittudSettings = plan.method_settings("surgery")
        self.coupled = network.couples_rows and self.settings.batch_norm == "coupled"
        every = [*network.body_parameters(), *network.head_parameters()]
        self.numbers = sorted(i for block in scope.blocks for i in block)
        self.parameters = [every[i] for i in self.numbers]
        self.capture = LayerCapture(network if self.settings.scope == "all" else network.body, self.parameters)
        self.order = ShuffledRows(len(split), number_of(plan.seed, "basis", 0))
        self.steps = ShuffledRows(len(split), plan.seed)
        self.taken = 0  # Jacobians so far
        self._is_checked = False

    def jacobians(self, step: int, generator: Generator) -> Callable[[], list[Jacobian]]:
        """What gives J of the examples due at `step`, in blocks."""

        def take() -> list[Jacobian]:
            rows = self._rows(step)
            with self._quiet():
                return self._blocks(self._jacobian(rows, generator))

        return take

    def losses(self, rows: Tensor) -> Tensor:
        """Each row's own loss (b,), by one forward."""
        group = self.batches.end_task_batch(self.split, rows).to(self.process_group.device)
        with self.arithmetic():
            logits = self.network.end_task(self.network.hidden(*group.inputs))
        return example_losses(logits, group.targets.labels)

    def _rows(self, step: int) -> Tensor:
        settings, size = self.settings, self.plan.training.batch_size
        if settings.basis_rows == "same":
            return self.steps.rows((step - 1) * size, size)
        rows = self.order.rows(self.taken * settings.m, settings.m)
        self.taken += 1
        return rows

    def _jacobian(self, rows: Tensor, generator: Generator) -> Jacobian:
        """By layers' factors; by backwards where rows are coupled, and where the plan asks for the reference."""
        training = self.plan.training
        if self.coupled and self.settings.basis == "range_finder":  # k backwards do: what is asked of J is Omega^T J
            k = min(self.settings.k, len(rows))
            sketch = torch.randn(k, len(rows), generator=generator).to(self.process_group.device)
            return explicit_jacobian(
                lambda _: sketch @ self.losses(rows), torch.arange(k), self.parameters, coupled=True
            )
        if self.coupled or training.engine == "backward":
            return explicit_jacobian(self.losses, rows, self.parameters, coupled=self.coupled)
        check = None if self._is_checked else (1e-2 if training.precision == "bfloat16" else 1e-3)
        J = factored_jacobian(self.losses, rows, self.capture, self.process_group, training.micro_batches, check)
        if check is not None:
            self.capture.warn_about_slow_modules()
        self._is_checked = True
        return J

    def _blocks(self, J: Jacobian) -> list[Jacobian]:
        place = {number: at for at, number in enumerate(self.numbers)}
        if len(self.scope.blocks) == 1:
            return [J]
        if isinstance(J, FactoredJacobian):
            return [
                FactoredJacobian(tuple(J.parameters[place[i]] for i in b), J.m, self.process_group)
                for b in self.scope.blocks
            ]
        assert isinstance(J, ExplicitJacobian)
        columns = J.J.split([p.numel() for p in self.parameters], dim=1)
        return [ExplicitJacobian(torch.cat([columns[place[i]] for i in block], dim=1)) for block in self.scope.blocks]

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Dropout off; BatchNorm by its statistics so far, or by the batch's without keeping them."""
        self.network.eval()
        norms = [m for m in self.network.modules() if isinstance(m, BatchNorm)] if self.coupled else []
        _track(norms, training=True)
        try:
            yield
        finally:
            _track(norms, training=False)
            self.network.train()


def _track(norms: list[BatchNorm], *, training: bool) -> None:
    for norm in norms:
        norm.train(training)
        norm.track_running_stats = not training
