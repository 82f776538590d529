"""Table primitives: where rows come from, what happens to them, what the encoder sees and what it predicts.

AANG's taxonomy (Dery et al. 2023, section 3, footnote 2: it is not bound to text) for tables: features for tokens.

    features (b, d)    normalised, so that 0 is a feature's mean and 1 its standard deviation
    changed (b, d)     bool: features that a transform has replaced

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
    """Returns the rows unchanged."""
    del probability, generator
    return features, torch.zeros(features.shape, dtype=torch.bool)


def noise(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Adds Gaussian noise to every feature, half a standard deviation."""
    del probability
    drawn = torch.randn(features.shape, generator=generator)
    return features + NOISE * drawn, torch.ones(features.shape, dtype=torch.bool)


def mask(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Replaces features, each with `probability`, by their mean."""
    changed = torch.rand(features.shape, generator=generator) < probability
    return features.masked_fill(changed, 0.0), changed


def swap(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Replaces features, each with `probability`, by those of another row of the batch."""
    changed = torch.rand(features.shape, generator=generator) < probability
    others = torch.randint(len(features), features.shape, generator=generator)
    return torch.where(changed, features.gather(0, others), features), changed


def shuffle(features: Tensor, probability: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Replaces every feature by that of another row, which leaves a row's label and the features' distribution."""
    del probability
    others = torch.randint(len(features), features.shape, generator=generator)
    return features.gather(0, others), torch.ones(features.shape, dtype=torch.bool)


Representation = Callable[[Tensor, Generator], Tensor]


def full(features: Tensor, generator: Generator) -> Tensor:
    """Returns (b, d) bool: nothing is hidden."""
    del generator
    return torch.zeros(features.shape, dtype=torch.bool)


def half(features: Tensor, generator: Generator) -> Tensor:
    """Returns (b, d) bool: half of the features of each row are hidden, so that the encoder sees their mean."""
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
