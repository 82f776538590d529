"""Output primitives of text: what an objective predicts, and its loss.

    hidden (b, S, H)   the body's last layer for this objective's examples
    total              how many positions or examples the objective has over all ranks: losses are shares of the mean

An output predicts the original tokens at the selected positions, unless its declaration names another function that
returns what is to be predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, torch's own habit
from numpy.typing import NDArray
from torch import Tensor, nn

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Targets
from raysearch.modalities.losses import label_loss
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.primitives.token_statistics import token_statistics
from raysearch.modalities.text.primitives.transforms import View, Vocabulary
from raysearch.modalities.text.token_labels import NO_TAG
from raysearch.objectives.objective import Objective

Statistics = dict[str, dict[str, NDArray[np.float32]]]  # by data primitive and name, of every token of its split


# ---- losses ----


def denoise(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of the original tokens at the selected positions; 0 if none is selected."""
    logits = head(hidden[targets.selected])
    loss = F.cross_entropy(logits.float(), targets.original[targets.selected], reduction="sum")
    return loss / max(targets.selected_total, 1)


def end_task(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of the end task's labels, read at position 0 by the objective's own head."""
    return label_loss(hidden, targets, head)


def next_token(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of the token that is read next: to the right, or left under `right_to_left`.

    It is predicted at every position that does not see it. Each of these has V logits, so a large vocabulary may need
    `micro_batches`.
    """
    return denoise(hidden, targets, head)


def tf(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean squared error of each selected token's term frequency (AANG, section 3).

    Frequencies are standardised over the tokens of the data, so that predicting their mean has a loss of about 1.
    """
    error = head(hidden[targets.selected])[:, 0].float() - targets.original[targets.selected]
    loss: Tensor = error.square().sum() / max(targets.selected_total, 1)
    return loss


def tfidf(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean squared error of each selected token's tf-idf, standardised over the tokens of the data."""
    return tf(hidden, targets, head)


def real_synthetic(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean binary cross-entropy of whether a token was changed or one after it deleted, at all positions.

    This is ELECTRA's discriminator (Clark et al. 2020, https://arxiv.org/abs/2003.10555) without its generator: under
    `replace` the synthetic tokens are uniform, not drawn from a small language model.
    """
    logits = head(hidden[targets.selected])[:, 0].float()
    changed = targets.original[targets.selected].float()
    return F.binary_cross_entropy_with_logits(logits, changed, reduction="sum") / max(targets.selected_total, 1)


def extra_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of the extra data's labels, of texts or of words."""
    return label_loss(hidden, targets, head) if len(targets.labels) else denoise(hidden, targets, head)


# ---- what is to be predicted ----


@dataclass(frozen=True)
class TextExamples:
    """The transformed examples of an objective, of which an output predicts something."""

    objective: Objective
    split: Split
    rows: Tensor  # (b,) numbers of the examples in the split
    view: View
    visible: Tensor  # (b, S, S) bool
    vocabulary: Vocabulary
    statistics: Statistics = field(default_factory=dict)  # computed when they are first needed, then stored


Predicted = tuple[Tensor, Tensor]  # (b, S) what is to be predicted, and (b, S) bool where


def selected_tokens(examples: TextExamples) -> Predicted:
    """Returns the original tokens, at the selected positions."""
    view = examples.view
    return view.at_targets(view.source), view.selected


def next_tokens(examples: TextExamples) -> Predicted:
    """Returns the token that is read next, at the positions that do not see it."""
    step = -1 if examples.objective.representation == "right_to_left" else 1
    return following(examples.view, examples.visible, examples.vocabulary, step)


def following(view: View, visible: Tensor, vocabulary: Vocabulary, step: int) -> Predicted:
    """Returns the token `step` further on (b, S), and the positions (b, S) bool that have one and do not see it."""
    positions = torch.zeros_like(view.real)
    next_, visible_next = view.original.roll(-step, 1), visible.diagonal(step, 1, 2)
    if step > 0:
        positions[:, :-1] = view.real[:, :-1] & view.real[:, 1:] & ~visible_next
    else:
        positions[:, 1:] = view.real[:, 1:] & view.real[:, :-1] & ~visible_next
    return torch.where(positions, next_, vocabulary.pad), positions


def changed_tokens(examples: TextExamples) -> Predicted:
    """Returns 1 for a token that was changed, or after which one is missing, and 0 for others; at every position."""
    return examples.view.changed.long(), examples.view.real


def term_frequencies(examples: TextExamples) -> Predicted:
    """Returns the term frequency of each token, at the selected positions."""
    return _token_statistic(examples, "tf")


def tfidf_values(examples: TextExamples) -> Predicted:
    """Returns the tf-idf of each token, at the selected positions."""
    return _token_statistic(examples, "tfidf")


def extra_labels(examples: TextExamples) -> Predicted:
    """Returns the tags of words at their first tokens; for data with a label for each text, the selected tokens."""
    view, split = examples.view, examples.split
    if not isinstance(split, TextSplit) or split.tags is None:
        return selected_tokens(examples)
    width = view.tokens.shape[1]
    tags = align(split.tags, split, examples.rows.tolist(), width, NO_TAG).long().gather(1, view.place)
    return tags, view.real & (tags != NO_TAG)


def align(values: NDArray[Any], split: TextSplit, rows: Sequence[int], width: int, blank: float) -> Tensor:
    """Returns the values (b, width) of the tokens of `rows`, cut and padded as `pad_texts` does with tokens.

    Positions without a token have the value `blank`.
    """
    padded = np.full((len(rows), width), blank, dtype=values.dtype)
    for line, row in zip(padded, rows, strict=True):
        begin, end = (int(offset) for offset in split.offsets[row : row + 2])
        line[: end - begin] = values[begin : min(end, begin + width)]
        if end - begin > width:
            line[-1] = blank
    return torch.from_numpy(padded)


def _token_statistic(examples: TextExamples, name: str) -> Predicted:
    split, data, view = examples.split, examples.objective.data, examples.view
    assert isinstance(split, TextSplit)
    if data not in examples.statistics:
        examples.statistics[data] = token_statistics(split, examples.vocabulary)
    values = align(examples.statistics[data][name], split, examples.rows.tolist(), view.tokens.shape[1], 0.0)
    return view.at_targets(values), view.selected
