"""The loss by which the end task trains: with smoothed labels and weighted classes, where the settings say so.

    L_i = c(y_i) [(1 - s) CE(z_i, y_i) + s/C sum_j CE(z_i, j)]    s = label_smoothing, C classes
    c(y) = n / (C' n_y) for class_weights 'balanced', else 1; n_y of n training examples have label y, C' labels occur

Of several labels at once each has two classes: its target is (1 - s) y + s/2, and c(y) is of this label. Evaluations,
and losses on meta-dev, are of plain labels. No example's loss depends on others, so that their gradients add up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, torch's own habit
from numpy.typing import NDArray
from torch import Tensor

from raysearch.modalities.losses import example_losses
from raysearch.training_settings import TrainingSettings


class EndTaskLoss:
    """The losses of end-task examples, each by itself."""

    def __init__(self, training: TrainingSettings, labels: NDArray[Any] | None, device: torch.device) -> None:
        """`labels` are those of the training split.

        Raises ValueError for labels that are numbers, if the settings smooth or weigh them.
        """
        self.smoothing, self.weights = training.label_smoothing, None
        is_plain = not self.smoothing and training.class_weights == "none"
        if labels is not None and labels.ndim == 1 and labels.dtype.kind == "f" and not is_plain:
            raise ValueError("label_smoothing and class_weights need classes, and this task predicts numbers")
        if training.class_weights == "balanced" and labels is not None:
            self.weights = balanced_weights(labels).to(device)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss of each example (b,), in nat, for logits (b, C)."""
        if not self.smoothing and self.weights is None:
            return example_losses(logits, labels)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if labels.ndim == 1:
            losses = F.cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")
            return losses if self.weights is None else losses * self.weights[labels]
        targets = labels.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
        of_labels = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.weights is not None:
            of_labels = of_labels * torch.where(labels > 0, self.weights[1], self.weights[0])
        return of_labels.mean(dim=1)


def balanced_weights(labels: NDArray[Any]) -> Tensor:
    """Returns c of each class (C,), of several labels (n, L) c of 0 and of 1, (2, L); 0 of those that do not occur."""
    if labels.ndim == 1:
        counts = np.bincount(labels.astype(np.int64)).astype(np.float64)
    else:
        counts = np.stack([(labels == value).sum(axis=0) for value in (0, 1)]).astype(np.float64)
    total = counts.sum(axis=0) / np.maximum((counts > 0).sum(axis=0), 1)
    weights = np.divide(total, counts, out=np.zeros_like(counts), where=counts > 0)
    return torch.from_numpy(weights.astype(np.float32))
