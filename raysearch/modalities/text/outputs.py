"""Output primitives: what an objective predicts, and its loss.

hidden (b, S, H)   the body's last layer for this objective's rows
total              how many positions or rows the objective has over all ranks: losses are shares of the mean
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812, torch's own habit
from torch import Tensor, nn

from raysearch.objectives.user_primitives import functions_of
from raysearch.plan import TrialPlan


@dataclass(frozen=True)
class Targets:
    """What the rows of one objective are to be predicted as."""

    original: Tensor  # (b, ...) inputs before the transform, or what else is asked for: (b, S), or pixels (b, C, H, W)
    selected: Tensor  # (b, S) or (b, H, W) bool: what is asked for; most often what the transform may have changed
    labels: (
        Tensor  # (b,) classes or float numbers, or (b, L) of 0 and 1 for several at once; empty where there are none
    )
    selected_total: int  # selected positions over all ranks
    rows_total: int  # rows over all ranks


Output = Callable[[Tensor, Targets, nn.Module], Tensor]


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each row's loss (b,): a class: cross-entropy, nat; several labels: their mean; a number: squared error."""
    if labels.ndim == 1 and labels.is_floating_point():
        return (logits[:, 0].float() - labels).square()
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


def next_token(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the token that is read next: to the right, or to the left under `right_to_left`.

    Asked at every position that does not see it, the last of the text for the separator; V logits for each of them,
    so a large vocabulary may need `micro_batches`.
    """
    return denoise(hidden, targets, head)


def tf(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean squared error of the term frequency of each selected token (AANG, section 3: "the TF-IDF of a token").

    Frequencies are in standard deviations of the data's own tokens, so that the loss of guessing their mean is about 1.
    """
    error = head(hidden[targets.selected])[:, 0].float() - targets.original[targets.selected]
    loss: Tensor = error.square().sum() / max(targets.selected_total, 1)
    return loss


def tfidf(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean squared error of each selected token's tf-idf, in standard deviations of the data's own tokens."""
    return tf(hidden, targets, head)


def real_synthetic(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean binary cross-entropy, over all positions, of whether a token was changed or one after it is missing.

    ELECTRA's discriminator (Clark et al. 2020, https://arxiv.org/abs/2003.10555) without its generator: under
    `replace` the synthetic tokens are uniform ones, not those that a small language model finds likely.
    """
    logits = head(hidden[targets.selected])[:, 0].float()
    wanted = targets.original[targets.selected].float()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / max(targets.selected_total, 1)


def extra_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of the extra data's own labels: of texts at position 0, or of words at their first token."""
    return end_task(hidden, targets, head) if len(targets.labels) else denoise(hidden, targets, head)


def auxiliary_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean loss of the auxiliary images' own labels, by a head of the objective's own."""
    return end_task(hidden, targets, head)


def rotation(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean cross-entropy of how many quarter turns an image was rotated (Gidaris et al. 2018)."""
    return end_task(hidden, targets, head)


def above_mean(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean binary cross-entropy of whether the extra data's own number is above its mean."""
    return example_losses(head(hidden[:, 0]), (targets.labels > 0)[:, None]).sum() / max(targets.rows_total, 1)


def restore(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean over rows of the squared error at the features asked for, in variances of a feature."""
    error = (head(hidden[:, 0]).float() - targets.original).square()  # (b, d)
    asked = targets.selected.to(error.dtype)
    each: Tensor = (error * asked).sum(1) / asked.sum(1)  # (b,)
    return each.sum() / max(targets.rows_total, 1)


def reconstruct(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Mean over images of the squared error at the pixels asked for, in variances of a channel."""
    error = (head(hidden[:, 0]).float() - targets.original).square().mean(dim=1)  # (b, H, W)
    asked = targets.selected.to(error.dtype)
    each: Tensor = (error * asked).sum((1, 2)) / asked.sum((1, 2))  # (b,)
    return each.sum() / max(targets.rows_total, 1)


# The head of a text output: the vocabulary's, the classes of a label, or so many numbers for a hidden state.
HEADS: dict[str, str | int] = {
    "denoise": "vocabulary",
    "next_token": "vocabulary",
    "end_task": "labels",
    "extra_label": "labels",
    "tf": 1,
    "tfidf": 1,
    "real_synthetic": 1,
}
OUTPUTS: dict[str, Output] = {
    "denoise": denoise,
    "end_task": end_task,
    "next_token": next_token,
    "tf": tf,
    "tfidf": tfidf,
    "real_synthetic": real_synthetic,
    "extra_label": extra_label,
    "auxiliary_label": auxiliary_label,
    "rotation": rotation,
    "reconstruct": reconstruct,
    "above_mean": above_mean,
    "restore": restore,
}


def outputs_of(plan: TrialPlan) -> dict[str, Output]:
    """All outputs that the plan's objectives can have, the user's own among them."""
    return {**OUTPUTS, **functions_of(plan.primitives).get("output", {})}
