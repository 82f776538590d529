"""Losses that outputs of all modalities share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812, torch's own habit
from torch import Tensor, nn

from raysearch.models.heads import LabelHead

if TYPE_CHECKING:
    from raysearch.modalities.batch import Targets


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the loss of each example (b,).

    For classes it is the cross-entropy in nat, for several labels at once the mean of their binary cross-entropies,
    for a number the squared error.
    """
    if labels.ndim == 1 and labels.is_floating_point():
        return (logits[:, 0].float() - labels).square()
    if labels.ndim == 1:
        return F.cross_entropy(logits.float(), labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").mean(dim=1)


def label_loss(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean loss of the examples' labels, read by the objective's own head.

    It reads the examples' pooled vectors, and position 0 if it has no pooling.
    """
    vectors = head.vectors(hidden, targets.real) if isinstance(head, LabelHead) else hidden[:, 0]
    return example_losses(head(vectors), targets.labels).sum() / max(targets.rows_total, 1)
