"""The dev head phi* and the gradient through it that says what helps on meta-dev.

If the end task's own head were used, weighting the end task alone would always look best; a separate head, fitted on
meta-dev with the body held still, stops that (META-TARTAN, section 4.2; AANG, Appendix B). The head is fitted on one
part of meta-dev and the gradient taken on rows from the rest (the authors' code lets them overlap).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from raysearch import settings as s
from raysearch.model import LabelHead
from raysearch.primitives.output import example_losses


def parts(size: int, settings: s.DevHead) -> tuple[Tensor, Tensor]:
    """Row numbers of meta-dev for the head, and those that meta batches are drawn from; disjoint if size > 1.

    When meta-dev is too small for both, each takes half.
    """
    wanted = settings.dev_head_examples + settings.meta_batch_size
    cut = settings.dev_head_examples if size >= wanted else max(1, size // 2)
    order = torch.randperm(size, generator=Generator().manual_seed(0))
    return order[:cut], order[cut:] if size > cut else order


def draw(rows: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` of `rows` without replacement; all of them if there are no more."""
    if count >= len(rows):
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def fit(features: Tensor, labels: Tensor, classes: int, settings: s.DevHead, generator: Generator) -> LabelHead:
    """A new head fitted full-batch on `features` (n, H) that the body gave once; AdamW as in the authors' code."""
    head = LabelHead(features.shape[1], classes, nn.Tanh, dropout=0.0)
    initialise(head, generator)
    head.to(features.device)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.dev_head_lr, weight_decay=settings.dev_head_decay, betas=(0.9, 0.98)
    )
    last = float("inf")
    for _ in range(settings.dev_head_steps):
        loss = example_losses(head(features), labels).mean()
        if abs(last - loss.item()) < settings.dev_head_tolerance:
            break
        last = loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.requires_grad_(False)


def initialise(head: LabelHead, generator: Generator) -> None:
    """Uniform in +-1/sqrt(fan in), from `generator`: torch's default law, without touching the global generator."""
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            bound = 1 / layer.in_features**0.5
            with torch.no_grad():
                for parameter in (layer.weight, layer.bias):
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)


Encode = Callable[[Tensor], tuple[Tensor, Tensor]]  # meta-dev rows -> hidden states at position 0 (n, H), labels


def dev_loss(
    encode: Encode, fitted_on: Tensor, meta: Tensor, classes: int, settings: s.DevHead, seed: Generator
) -> Tensor:
    """L_dev of the `meta` rows through a head fitted on the rows `fitted_on`; depends on the body."""
    with torch.no_grad():
        features, labels = encode(fitted_on)
    head = fit(features.float(), labels, classes, settings, seed)
    hidden, targets = encode(meta)
    return example_losses(head(hidden.float()), targets).mean()
