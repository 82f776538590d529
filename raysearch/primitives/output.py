"""Output primitives: what an objective predicts, and its loss.

hidden (b, S, H)   the body's last layer for this objective's rows
total              how many positions or rows the objective has over all ranks: losses are shares of the mean
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812, torch's own habit
from torch import Tensor, nn


@dataclass(frozen=True)
class Targets:
    """What the rows of one objective are to be predicted as."""

    original: Tensor  # (b, ...) inputs before the transform: tokens (b, S), or pixels (b, C, H, W)
    selected: Tensor  # (b, S) or (b, H, W) bool: what the transform may have changed
    labels: Tensor  # (b,) classes, or (b, L) of 0 and 1 for several labels at once; empty where the data has none
    selected_total: int  # selected positions over all ranks
    rows_total: int  # rows over all ranks


Output = Callable[[Tensor, Targets, nn.Module], Tensor]


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each row's loss (b,), nat: cross-entropy of its class, or the mean of its labels' binary cross-entropies."""
    if labels.ndim == 1:
        return F.cross_entropy(logits.float(), labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").mean(dim=1)


def denoise(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the original tokens at the selected positions; 0 when none was selected."""
    logits = head(hidden[targets.selected])
    loss = F.cross_entropy(logits.float(), targets.original[targets.selected], reduction="sum")
    return loss / max(targets.selected_total, 1)


def end_task(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the end task's labels, read at position 0 by the objective's own head."""
    return example_losses(head(hidden[:, 0]), targets.labels).sum() / max(targets.rows_total, 1)


def auxiliary_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean loss of the auxiliary images' own labels, by a head of the objective's own."""
    return end_task(hidden, targets, head)


def rotation(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of how many quarter turns an image was rotated (Gidaris et al. 2018)."""
    return end_task(hidden, targets, head)


def reconstruct(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean over images of the squared error at the pixels asked for, in variances of a channel."""
    error = (head(hidden[:, 0]).float() - targets.original).square().mean(dim=1)  # (b, H, W)
    asked = targets.selected.to(error.dtype)
    each: Tensor = (error * asked).sum((1, 2)) / asked.sum((1, 2))  # (b,)
    return each.sum() / max(targets.rows_total, 1)


OUTPUTS: dict[str, Output] = {
    "denoise": denoise,
    "end_task": end_task,
    "auxiliary_label": auxiliary_label,
    "rotation": rotation,
    "reconstruct": reconstruct,
}
