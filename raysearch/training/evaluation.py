"""Evaluation of a network on a split of the end task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysearch.data.prepared import Split
from raysearch.distributed import ProcessGroup
from raysearch.modalities.batch import BatchBuilder
from raysearch.modalities.losses import example_losses
from raysearch.models.network import Network
from raysearch.training.metrics import score

EVALUATION_BATCH = 64  # examples


@dataclass(frozen=True)
class Evaluation:
    """What a network gives for a split."""

    score: float  # the metric
    loss: float  # mean, nat
    outputs: Tensor  # (n, C) float32 on the CPU, in the order of the split
    labels: Tensor  # (n, ...) as the loss takes them, in the order of the split


def evaluate(
    network: Network, split: Split, batches: BatchBuilder, metric: str, process_group: ProcessGroup | None = None
) -> tuple[float, float]:
    """Returns the metric and the mean loss (nat) of `network` on a split, see `predict`."""
    evaluation = predict(network, split, batches, metric, process_group)
    return evaluation.score, evaluation.loss


def predict(
    network: Network, split: Split, batches: BatchBuilder, metric: str, process_group: ProcessGroup | None = None
) -> Evaluation:
    """Returns the outputs of `network` on a split, with the metric and the mean loss.

    The ranks of a process group share the work, and all of them get the same. Raises ArithmeticError, on all ranks, if
    an output or the mean loss is not finite: what such a network predicts is no result.
    """
    process_group = process_group or ProcessGroup()
    examples = torch.arange(len(split))[process_group.rank :: process_group.world]
    by_length = examples[np.argsort(split.lengths[examples.numpy()], kind="stable")]
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    network.eval()
    with torch.no_grad():
        for rows in by_length.split(EVALUATION_BATCH):
            batch = batches.end_task_batch(split, rows).to(process_group.device)
            logits.append(network.logits(network.hidden(*batch.inputs), batch.targets.real).float())
            labels.append(batch.targets.labels)
    network.train()
    all_logits = process_group.gather_rows(torch.cat(logits))
    all_labels = process_group.gather_rows(torch.cat(labels))
    order = process_group.gather_rows(by_length.to(process_group.device)).argsort()
    loss = float(example_losses(all_logits, all_labels).mean())
    broken = int((~all_logits.isfinite().all(dim=1)).sum())
    if broken or not math.isfinite(loss):
        problem = f"outputs on {broken} of {len(all_logits)} dev examples are not finite, mean loss {loss}"
        raise ArithmeticError(f"{problem}; use a smaller lr")
    value = score(metric, all_labels, all_logits)
    return Evaluation(value, loss, all_logits[order].cpu(), all_labels[order].cpu())
