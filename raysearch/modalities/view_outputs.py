"""Output primitives that compare: views of one example, examples of a batch, a network with a teacher or with itself.

    hidden (b, S, H)   the body's last layer; where there are two views of each of n examples, b = 2 n, and the views of
                       an example follow one another
    head               the end task's own head (`models.heads.BorrowedHead`): what these outputs teach, it learns
    p, q (b, C)        the head's probabilities, and a teacher's
    z (b, H)           the examples' vectors, which the head reads

What a teacher says and where the encoder was before training stand in the batch's targets: they are numbers, through
which no gradient passes. Losses are shares of a mean over all ranks' examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

if TYPE_CHECKING:
    from raysearch.modalities.batch import Targets

TEXT_TEMPERATURE = 0.05  # of same_text (SimCSE, section 3)
LABEL_TEMPERATURE = 0.1  # of same_label (SupCon, section 4)


def pseudo_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of the class that the teacher finds most probable, each times the guess's trust.

    Lee, Pseudo-Label (2013); FixMatch, Sohn et al. 2020, equation 4, https://arxiv.org/abs/2001.07685.
    """
    guesses, trust = _guesses(targets)
    losses = F.cross_entropy(head(hidden, targets.real).float(), guesses.argmax(dim=1), reduction="none")
    return (losses * trust).sum() / max(targets.rows_total, 1)


def soft_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean divergence KL(q | p) of the network from the teacher, each times the guess's trust.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, at temperature 1.
    """
    guesses, trust = _guesses(targets)
    log_p = head(hidden, targets.real).float().log_softmax(dim=1)
    losses = F.kl_div(log_p, guesses, reduction="none").sum(dim=1)
    loss: Tensor = (losses * trust).sum() / max(targets.rows_total, 1)
    return loss


def agree(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean of (KL(p | p') + KL(p' | p)) / 2 of an example's two views; of numbers, the squared difference.

    R-Drop, Liang et al. 2021, equation 2, https://arxiv.org/abs/2106.14448, there with dropout as the transform. The
    gradient passes through both views. With several labels at once it is the mean over them.
    """
    logits = head(hidden, targets.real).float()
    first, second = logits[0::2], logits[1::2]
    if targets.labels.ndim == 1 and targets.labels.is_floating_point() and len(targets.labels):
        losses = (first - second).square().mean(dim=1)
    elif targets.labels.ndim == 2:
        losses = ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(dim=1) / 2
    else:
        log_p, log_q = first.log_softmax(dim=1), second.log_softmax(dim=1)
        losses = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1) / 2
    mean: Tensor = losses.sum() / max(targets.rows_total, 1)
    return mean


def same_text(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of finding an example's second view among those of the batch, by cosine.

    SimCSE, Gao et al. 2021, equation 1, https://arxiv.org/abs/2104.08821, without its further layer.
    """
    z = F.normalize(head.vectors(hidden, targets.real).float(), dim=1)  # type: ignore[operator]
    logits = z[0::2] @ z[1::2].T / TEXT_TEMPERATURE
    places = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, places, reduction="sum") / max(targets.rows_total, 1)


def same_label(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean over examples and their partners, those of the same label, of the partner's cross-entropy.

    Supervised contrast, Khosla et al. 2020, equation 2, https://arxiv.org/abs/2004.11362: a partner is to be found by
    cosine among all other examples of the batch. An example without a partner counts as 0.
    """
    z = F.normalize(head.vectors(hidden, targets.real).float(), dim=1)  # type: ignore[operator]
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / LABEL_TEMPERATURE).masked_fill(itself, float("-inf")).log_softmax(dim=1)
    partners = (targets.labels[:, None] == targets.labels[None, :]) & ~itself
    of_each = -log_p.masked_fill(~partners, 0.0).sum(dim=1) / partners.sum(dim=1).clamp_min(1)
    return of_each.sum() / max(targets.rows_total, 1)


def anchor(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean of 1 - cos(z, a), a the vector that the encoder gave the unchanged example before training.

    Knowledge distillation from the encoder itself, as against forgetting (Li and Hoiem 2016,
    https://arxiv.org/abs/1606.09282), on vectors instead of outputs.
    """
    assert targets.anchors is not None
    z = head.vectors(hidden, targets.real).float()  # type: ignore[operator]
    return (1 - F.cosine_similarity(z, targets.anchors)).sum() / max(targets.rows_total, 1)


def _guesses(targets: Targets) -> tuple[Tensor, Tensor]:
    assert targets.guesses is not None
    assert targets.trust is not None
    return targets.guesses, targets.trust
