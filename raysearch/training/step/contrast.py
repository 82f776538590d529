"""A step on pairs of labelled examples: vectors of one label are drawn together, those of two labels apart.

SetFit, Tunstall et al. 2022, section 3, https://arxiv.org/abs/2209.11055; the loss is that of their code.

    u_p, v_p   (F,) what the end task's last layer reads of the two examples of pair p
    y_p        1 for two examples of one label, 0 for examples of two labels
    loss       1/P sum_p (cos(u_p, v_p) - y_p)^2, of P pairs, half of each kind

All ranks draw the same pairs, and each takes its part of them. The paper lists all pairs beforehand; here each step
draws its own, from the seed and its number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812, torch's own habit
from torch import Generator, Tensor

from raysearch.gradients.flat import assign_gradient, flat_gradient
from raysearch.modalities.batch import labels_of
from raysearch.rng import stream
from raysearch.training.context import TrainingContext
from raysearch.training.step.task_forward import average_statistics


class ContrastStep:
    """Draws the pairs of a step, and computes the gradient of their loss."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context

    def __call__(self, number: int) -> None:
        """Sets the gradients of step `number` of the trial.

        Raises ValueError for a task without classes or an encoder without trained parameters, and ArithmeticError, on
        all ranks, if the loss is not finite.
        """
        context, group = self.context, self.context.process_group
        labels = self._labels()
        count = context.plan.method_settings("schedule").contrast_pairs
        pairs = draw_pairs(labels, count, stream(context.plan.seed, "contrast", number))
        same = (labels[pairs[0]] == labels[pairs[1]]).float()
        context.seed_dropout(number)
        loss = torch.zeros((), dtype=torch.float64, device=context.device)
        gradient = flat_gradient(torch.zeros(()), context.parameters)
        for part in range(context.training.micro_batches):
            share_rows = torch.arange(count)[group.rank :: group.world][part :: context.training.micro_batches]
            if len(share_rows):
                share = self._loss(pairs[:, share_rows], same[share_rows]) / count
                gradient += flat_gradient(share, context.parameters)
                loss += share.detach()
        if not bool(group.sum(loss).isfinite()):
            raise ArithmeticError(f"step {number}: the loss of the pairs is not finite; use a smaller contrast_lr")
        average_statistics(context)
        assign_gradient(group.sum(gradient), context.parameters)

    def _labels(self) -> Tensor:
        split, schedule = self.context.splits("train"), f"schedule {self.context.plan.schedule!r}"
        labels = labels_of(split, torch.arange(len(split)))
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(f"{schedule} contrasts classes, and the labels of this task are none")
        if not self.context.body:
            raise ValueError(f"{schedule} trains the encoder, and this one has no trained parameters")
        return labels

    def _loss(self, pairs: Tensor, same: Tensor) -> Tensor:
        """Returns the sum of the losses of pairs of examples (2, p)."""
        context = self.context
        batch = context.batches.end_task_batch(context.splits("train"), pairs.flatten()).to(context.device)
        with context.autocast():
            vectors = context.network.pooled(context.network.hidden(*batch.inputs), batch.targets.real)
        first, second = vectors.float().chunk(2)
        return (F.cosine_similarity(first, second) - same.to(first)).square().sum()


def draw_pairs(labels: Tensor, count: int, generator: Generator) -> Tensor:
    """Returns pairs of row numbers (2, count): the first half of one label each, the others of two.

    The first row of a pair is uniform over all rows (in the first half, over those whose label has another row), the
    second over all others that fit. Where no label has two rows, a row is paired with itself. Raises ValueError for
    rows of fewer than two labels.
    """
    sizes = labels.bincount()
    if int((sizes > 0).sum()) < 2:
        raise ValueError("pairs of two labels need examples of two labels")
    order = labels.argsort(stable=True)  # by label
    starts, place = sizes.cumsum(0) - sizes, torch.empty_like(order)
    place[order] = torch.arange(len(labels))

    def below(limits: Tensor) -> Tensor:
        return (torch.rand(len(limits), generator=generator, dtype=torch.float64) * limits).long()

    has_partner = (sizes[labels] > 1).nonzero()[:, 0]
    candidates = has_partner if len(has_partner) else torch.arange(len(labels))
    first = candidates[torch.randint(len(candidates), (count // 2,), generator=generator)]
    label = labels[first]
    at = below((sizes[label] - 1).clamp_min(1))
    at += (at >= place[first] - starts[label]) & (sizes[label] > 1)
    partner = order[starts[label] + at]
    other = torch.randint(len(labels), (count - count // 2,), generator=generator)
    label = labels[other]
    at = below(len(labels) - sizes[label])
    at += (at >= starts[label]) * sizes[label]
    return torch.stack([torch.cat([first, other]), torch.cat([partner, order[at]])])
