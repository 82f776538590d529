"""Sequence primitives: what happens to a sequence, what of it the encoder sees, and what is predicted.

values (b, L)    standardised
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit, Targets


@dataclass(frozen=True)
class View:
    """Sequences after a transform."""

    values: Tensor  # (b, L)
    is_reversed: Tensor  # (b,) bool


def end_task_sequences(open_split: OpenSplit) -> Split:
    """Opens the end task's training sequences."""
    return open_split("train")


def none(values: Tensor, generator: Generator) -> View:
    """Returns the sequences unchanged."""
    del generator
    return View(values, torch.zeros(len(values), dtype=torch.bool))


def jitter(values: Tensor, generator: Generator) -> View:
    """Adds Gaussian noise to every value."""
    return View(
        values + 0.3 * torch.randn(values.shape, generator=generator), torch.zeros(len(values), dtype=torch.bool)
    )


def reverse(values: Tensor, generator: Generator) -> View:
    """Reverses each sequence with probability 1/2."""
    is_reversed = torch.rand(len(values), generator=generator) < 0.5
    return View(torch.where(is_reversed[:, None], values.flip(1), values), is_reversed)


def full(values: Tensor, generator: Generator) -> Tensor:
    """Returns (b, L) bool: nothing is hidden."""
    del generator
    return torch.zeros(values.shape, dtype=torch.bool)


def prefix(values: Tensor, generator: Generator) -> Tensor:
    """Returns (b, L) bool: the second half is hidden."""
    hidden = full(values, generator)
    hidden[:, values.shape[1] // 2 :] = True
    return hidden


def restore(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean squared error of the original values."""
    error = (head(hidden[:, 0]).float() - targets.original).square().mean(dim=1)
    return error.sum() / max(targets.rows_total, 1)


def directions(view: View) -> Tensor:
    """Returns what `direction` predicts (b,)."""
    return view.is_reversed.long()
