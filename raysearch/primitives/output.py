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

    tokens: Tensor  # (b, S) original tokens
    selected: Tensor  # (b, S) bool
    labels: Tensor  # (b,) end-task labels; empty where the data has none
    selected_total: int  # selected positions over all ranks
    rows_total: int  # rows over all ranks


Output = Callable[[Tensor, Targets, nn.Module], Tensor]


def denoise(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the original tokens at the selected positions; 0 when none was selected."""
    logits = head(hidden[targets.selected])
    loss = F.cross_entropy(logits.float(), targets.tokens[targets.selected], reduction="sum")
    return loss / max(targets.selected_total, 1)


def end_task(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the end task's labels, read at position 0 by the objective's own head."""
    loss = F.cross_entropy(head(hidden[:, 0]).float(), targets.labels, reduction="sum")
    return loss / max(targets.rows_total, 1)


OUTPUTS: dict[str, Output] = {"denoise": denoise, "end_task": end_task}
