"""Table primitives: what happens to a row of numbers, and what of it the encoder sees.

AANG's taxonomy (Dery et al. 2023, section 3, footnote 2: it is not bound to text) for tables: features for tokens.

    features (b, d)    normalised, so that 0 is a feature's mean and 1 its standard deviation
    changed (b, d)     bool: features that a transform has put something else for

`mask` and `swap` are VIME's two halves (Yoon et al., NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit, Targets
from raysearch.modalities.losses import example_losses

NOISE = 0.5  # standard deviation of the noise, in standard deviations of a feature
HIDDEN = 0.5  # share of features that `half` keeps from the encoder

Transform = Callable[[Tensor, float, Generator], tuple[Tensor, Tensor]]


def end_task_rows(open_split: OpenSplit) -> Split:
    """Opens the end task's training rows."""
    return open_split("train")


def none(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """The rows as they are."""
    del probability, generator
    return features, torch.zeros(features.shape, dtype=torch.bool)


def noise(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Gaussian noise on every feature, half a standard deviation."""
    del probability
    drawn = torch.randn(features.shape, generator=generator)
    return features + NOISE * drawn, torch.ones(features.shape, dtype=torch.bool)


def mask(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Features, each with `probability`, become their mean."""
    changed = torch.rand(features.shape, generator=generator) < probability
    return features.masked_fill(changed, 0.0), changed


def swap(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Features, each with `probability`, become those of another row of the batch."""
    changed = torch.rand(features.shape, generator=generator) < probability
    others = torch.randint(len(features), features.shape, generator=generator)
    return torch.where(changed, features.gather(0, others), features), changed


def shuffle(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Every feature becomes that of another row: of a row only its label and the features' distribution are left."""
    del probability
    others = torch.randint(len(features), features.shape, generator=generator)
    return features.gather(0, others), torch.ones(features.shape, dtype=torch.bool)


Representation = Callable[[Tensor, Generator], Tensor]


def full(features: Tensor, generator: Generator) -> Tensor:
    """Nothing is hidden (b, d)."""
    del generator
    return torch.zeros(features.shape, dtype=torch.bool)


def half(features: Tensor, generator: Generator) -> Tensor:
    """Half of the features, drawn for each row, are hidden from the encoder: it sees their mean."""
    return torch.rand(features.shape, generator=generator) < HIDDEN


def restore(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean over rows of the squared error at the selected features, in variances of a feature."""
    error = (head(hidden[:, 0]).float() - targets.original).square()  # (b, d)
    selected = targets.selected.to(error.dtype)
    each: Tensor = (error * selected).sum(1) / selected.sum(1)  # (b,)
    return each.sum() / max(targets.rows_total, 1)


def above_mean(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean binary cross-entropy of whether the extra data's number is above its mean."""
    return example_losses(head(hidden[:, 0]), (targets.labels > 0)[:, None]).sum() / max(targets.rows_total, 1)
