"""The gradients of meta-dev's loss that tasks are compared with, by the name in `GradientQuery.compare`.

    dev_head        through a head that is fitted to the fixed body (META-TARTAN, AANG)
    cross_fitted    through a head in closed form, on one fold of meta-dev; it is fitted on the other folds
    own_head        through the end task's own current head (DGA)
    left_out        of the leave-one-out error: meta-dev and training examples, each scored by the least-squares head of
                    the others (gates)

All ranks draw the same examples and get the same gradient (D,). Dropout is off, unless `dev_dropout` is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.layer_rules import BatchNorm
from raysearch.modalities.losses import example_losses
from raysearch.models.network import READ_TOGETHER
from raysearch.rng import number_of, stream
from raysearch.training.context import TrainingContext
from raysearch.training.step.closed_form import fit, fold_rows
from raysearch.training.step.dev_head import dev_loss, leave_one_out_errors, sample_rows, split_dev_rows


class DevGradients:
    """Computes the gradients that a plan's weighting compares with, by the weighting's settings."""

    def __init__(self, context: TrainingContext) -> None:
        self.context, self.settings = context, context.plan.method_settings("weighting")

    def compute(self, name: str, step: int, fold: int = 0) -> Tensor | None:
        """Returns the gradient v (D,) at a step; None if `name` is not one of these. `fold` is for `cross_fitted`."""
        losses = {
            "dev_head": self._dev_head_loss,
            "cross_fitted": lambda step: self._cross_fitted_loss(step, fold),
            "own_head": self._own_head_loss,
            "left_out": self._left_out_loss,
        }
        if name not in losses:
            return None
        has_dropout = name == "dev_head" and self.settings.dev_dropout
        with self._dropout_on(step) if has_dropout else self._everything_off():
            return flat_gradient(losses[name](step), self.context.body)

    @contextmanager
    def _everything_off(self) -> Iterator[None]:
        self.context.network.eval()
        yield
        self.context.network.train()

    @contextmanager
    def _dropout_on(self, step: int) -> Iterator[None]:
        """Leaves dropout on, with the same masks on all ranks; BatchNorm uses its running statistics."""
        context = self.context
        statistics = [module for module in context.network.modules() if isinstance(module, BatchNorm)]
        for module in statistics:
            module.eval()
        context.process_group.seed(number_of(context.plan.seed, "dev dropout", step))
        yield
        context.seed_dropout(step)
        for module in statistics:
            module.train()

    def leave_one_out_errors(self, step: int, *, held_out: bool = False) -> Tensor:
        """Returns the squared error (n,) of each example of a step, by the head of the others; without gradients.

        With `held_out` the examples are meta-dev's only.
        """
        self.context.network.eval()
        with torch.no_grad():
            errors = self._left_out_errors(step, held_out=held_out)
        self.context.network.train()
        return errors

    def _dev_head_loss(self, step: int) -> Tensor:
        splits, generator = self.context.splits, stream(self.context.plan.seed, "meta", step)
        sizes, training = (len(splits("meta_dev")), len(splits("train"))), self.context.training
        fitting_rows, meta_rows = split_dev_rows(*sizes, self.settings, generator)
        meta_rows = sample_rows(meta_rows, self.settings.meta_batch_size, generator)
        of_heads = training.dropout if training.head_dropout < 0 else training.head_dropout
        dropout = of_heads if self.settings.dev_dropout else 0.0
        classes = self.context.classes
        return dev_loss(self._encode, fitting_rows, meta_rows, classes, self.settings, generator, dropout)

    def _cross_fitted_loss(self, step: int, fold: int) -> Tensor:
        settings, generator = self.settings, stream(self.context.plan.seed, "meta", step)
        folds = self._folds
        number = fold % len(folds)
        others = torch.cat([*folds[:number], *folds[number + 1 :]] or folds)
        fitting_rows = sample_rows(others, settings.dev_fit_examples, generator)
        with torch.no_grad():
            parts = [self._encode("meta_dev", rows) for rows in fitting_rows.split(READ_TOGETHER)]
        features, labels = (torch.cat(each) for each in zip(*parts, strict=True))
        head = fit(features.float(), labels, self.context.classes, settings.dev_head_ridge)
        hidden, targets = self._encode("meta_dev", sample_rows(folds[number], settings.meta_batch_size, generator))
        return example_losses(head(hidden.float()), targets).mean()

    @cached_property
    def _folds(self) -> list[Tensor]:
        """The rows of each fold of meta-dev."""
        return fold_rows(torch.tensor(np.array(self.context.splits("meta_dev").labels)), self.settings.dev_folds)

    def _own_head_loss(self, step: int) -> Tensor:
        split, generator = self.context.splits("meta_dev"), stream(self.context.plan.seed, "meta", step)
        rows = sample_rows(torch.arange(len(split)), self.settings.meta_batch_size, generator)
        batch = self.context.batches.end_task_batch(split, rows).to(self.context.device)
        network = self.context.network
        with self.context.autocast():
            logits = network.logits(network.hidden(*batch.inputs), batch.targets.real)
            return example_losses(logits, batch.targets.labels).mean()

    def _left_out_loss(self, step: int) -> Tensor:
        return self._left_out_errors(step).mean()

    def _left_out_errors(self, step: int, *, held_out: bool = False) -> Tensor:
        settings, generator = self.settings, stream(self.context.plan.seed, "meta", step)
        encoded = []
        for name, count in (
            ("train", None if held_out or not settings.gate_train_rows else settings.gate_train_rows),
            ("meta_dev", settings.meta_batch_size),
        ):
            if count is not None:
                rows = sample_rows(torch.arange(len(self.context.splits(name))), count, generator)
                encoded.append(self._encode(name, rows))
        features, labels = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return leave_one_out_errors(features.float(), labels, self.context.classes, settings.gate_ridge)

    def _encode(self, split: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the vectors (n, H) and the labels of examples of a split."""
        context = self.context
        batch = context.batches.end_task_batch(context.splits(split), rows).to(context.device)
        with context.autocast():
            hidden = context.network.hidden(*batch.inputs)
            return context.network.vectors(hidden, batch.targets.real), batch.targets.labels
