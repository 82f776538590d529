"""The scores of an end task, from logits and labels; higher is better.

classes           labels (n,), logits (n, C)
several labels    labels (n, L) of 0 and 1, logits (n, L)
numbers           labels (n,), predictions (n, 1) in place of logits
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score
from torch import Tensor


def score(metric: str, labels: Tensor, logits: Tensor) -> float:
    """Returns accuracy, macro_f1 (over all training classes, with 0 for absent ones), micro_f1, mean_auc or r2.

    Of several labels, those with a logit above 0 are predicted.
    """
    y, z = labels.cpu().numpy(), logits.detach().float().cpu().numpy()
    if metric == "r2":
        return float(r2_score(y.astype(np.float64), z[:, 0].astype(np.float64)))
    has_several = y.ndim == 2
    if metric == "mean_auc":
        return mean_auc(y if has_several else np.eye(z.shape[1], dtype=int)[y], z if has_several else _shares(logits))
    p = (z > 0).astype(int) if has_several else z.argmax(1)
    if metric == "accuracy":
        return float(accuracy_score(y, p))
    average = metric.removesuffix("_f1")
    return float(f1_score(y, p, labels=list(range(z.shape[1])), average=average, zero_division=0))


def mean_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean area under the ROC curve over the labels that some examples have and others do not.

    Returns 0.5, the area of a guess, if there is no such label.
    """
    areas = [
        float(roc_auc_score(labels[:, i], scores[:, i]))
        for i in range(labels.shape[1])
        if 0 < labels[:, i].sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else 0.5


def _shares(logits: Tensor) -> np.ndarray:
    shares: np.ndarray = torch.softmax(logits.detach().float(), dim=1).cpu().numpy()
    return shares
