"""The gradients of meta-dev's loss that objectives are compared with, by the name that a weighting asks for.

    dev_head    through a head that is fitted anew, the body held still (META-TARTAN, AANG)
    own_head    through the end task's own head as it stands (DGA)
    left_out    of rows of meta-dev and of train, each scored by the least-squares head of the others (gates)

All ranks draw the same rows and come to the same gradient (D,). Dropout is off.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from raysearch.data.prepared import Splits
from raysearch.distributed import ProcessGroup
from raysearch.gradients.flat import flat_gradient
from raysearch.modalities.batch import BatchBuilder
from raysearch.modalities.losses import example_losses
from raysearch.models.network import Network
from raysearch.plan import TrialPlan
from raysearch.rng import stream
from raysearch.training.dev_head import dev_loss, left_out_errors, parts, some_of


class DevGradients:
    """What a plan's weighting compares with."""

    def __init__(
        self,
        plan: TrialPlan,
        network: Network,
        splits: Splits,
        batches: BatchBuilder,
        classes: int,
        process_group: ProcessGroup,
        arithmetic: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.plan, self.network, self.splits, self.batches = plan, network, splits, batches
        self.classes, self.process_group, self.arithmetic = classes, process_group, arithmetic

    def __call__(self, name: str, step: int) -> Tensor | None:
        """The gradient v (D,) at a step; None for a name that is none of these."""
        losses = {"dev_head": self._dev_head, "own_head": self._own_head, "left_out": self._left_out}
        if name not in losses:
            return None
        self.network.eval()
        v = flat_gradient(losses[name](step), self.network.body_parameters())
        self.network.train()
        return v

    def _dev_head(self, step: int) -> Tensor:
        settings, generator = self.plan.method_settings("weighting"), stream(self.plan.seed, "meta", step)
        fitted_on, rest = parts(len(self.splits("meta_dev")), len(self.splits("train")), settings)
        meta = some_of(rest, settings.meta_batch_size, generator)
        return dev_loss(self._encode, fitted_on, meta, self.classes, settings, generator)

    def _own_head(self, step: int) -> Tensor:
        settings, generator = self.plan.method_settings("weighting"), stream(self.plan.seed, "meta", step)
        rows = some_of(torch.arange(len(self.splits("meta_dev"))), settings.meta_batch_size, generator)
        group = self.batches.end_task_batch(self.splits("meta_dev"), rows).to(self.process_group.device)
        with self.arithmetic():
            logits = self.network.end_task(self.network.hidden(*group.inputs))
            return example_losses(logits, group.targets.labels).mean()

    def left_out(self, step: int) -> Tensor:
        """Squared error (n,) of each of a step's rows that are left out in turn."""
        self.network.eval()
        with torch.no_grad():
            errors = self._left_out_errors(step)
        self.network.train()
        return errors

    def _left_out(self, step: int) -> Tensor:
        return self._left_out_errors(step).mean()

    def _left_out_errors(self, step: int) -> Tensor:
        settings, generator = self.plan.method_settings("weighting"), stream(self.plan.seed, "meta", step)
        found = []
        for split, count in (("train", settings.gate_train_rows), ("meta_dev", settings.meta_batch_size)):
            if count:
                found.append(self._encode(split, some_of(torch.arange(len(self.splits(split))), count, generator)))
        features, labels = (torch.cat(both) for both in zip(*found, strict=True))
        return left_out_errors(features.float(), labels, self.classes, settings.gate_ridge)

    def _encode(self, split: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states at position 0 (n, H) and labels of rows of a split."""
        group = self.batches.end_task_batch(self.splits(split), rows).to(self.process_group.device)
        with self.arithmetic():
            return self.network.hidden(*group.inputs)[:, 0], group.targets.labels
