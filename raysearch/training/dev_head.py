"""The dev head phi* and the gradient through it that says what helps on meta-dev.

If the end task's own head were used, weighting the end task alone would always look best; a separate head, fitted on
meta-dev with the body held still, stops that (META-TARTAN, section 4.2; AANG, Appendix B). The head is fitted on one
part of meta-dev and the gradient taken on rows from the rest (META-TARTAN's code lets them overlap); or, as in AANG's
code, fitted on training rows, the same at every step. The body sees the rows that it is fitted on once a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from raysearch.methods.weighting import settings as s
from raysearch.modalities.losses import example_losses
from raysearch.models.heads import LabelHead


def parts(size: int, training: int, settings: s.DevHeadSettings) -> tuple[Tensor, Tensor]:
    """Row numbers for the head, of meta-dev or of `training` rows, and those of meta-dev for meta batches.

    If both are of meta-dev, they are disjoint where it has more than one row; where it is too small, each takes half.
    """
    if settings.dev_head_split == "train":
        return some_of(torch.arange(training), settings.dev_head_examples, _fixed()), torch.arange(size)
    wanted = settings.dev_head_examples + settings.meta_batch_size
    cut = settings.dev_head_examples if size >= wanted else max(1, size // 2)
    order = torch.randperm(size, generator=_fixed())
    return order[:cut], order[cut:] if size > cut else order


def _fixed() -> Generator:
    """What the head is fitted on does not change from step to step, nor with the seed."""
    return Generator().manual_seed(0)


def some_of(rows: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` of `rows` without replacement; all of them if there are no more."""
    if count >= len(rows):
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def fit(features: Tensor, labels: Tensor, classes: int, settings: s.DevHeadSettings, generator: Generator) -> LabelHead:
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


def left_out_errors(features: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Squared error (n,) of each of n rows by the least-squares head that the others give; depends on the body.

    features (n, H), labels (n,) numbers or classes (as 0 and 1 for each of `classes`), or (n, L) of 0 and 1. With
    X = [features, 1], A = (X^T X + n P)^-1 X^T and h_i = x_i A_i, the row's own error is (y_i - x_i A y) / (1 - h_i)
    (Allen, Technometrics 16, 1974). P has `ridge` times the features' mean square on its diagonal, 0 for the constant.
    """
    Y = labels[:, None] if labels.is_floating_point() and labels.ndim == 1 else labels
    Y = torch.nn.functional.one_hot(Y, classes) if Y.ndim == 1 else Y  # (n, C)
    n, H = features.shape
    X = torch.cat([features, features.new_ones(n, 1)], dim=1).double()  # (n, H + 1)
    P = features.detach().double().square().mean().clamp_min(1e-12) * ridge * torch.ones(H + 1, dtype=X.dtype)
    P = P.to(X.device)
    P[-1] = 0.0
    A = torch.linalg.solve(X.T @ X + n * torch.diag(P), X.T)  # (H + 1, n)
    leverage = (X * A.T).sum(dim=1)
    errors = (Y.double() - X @ (A @ Y.double())) / (1 - leverage).clamp_min(1e-6)[:, None]
    squared: Tensor = errors.square().sum(dim=1)
    return squared


# A split and rows -> hidden states at position 0 (n, H), labels.
Encode = Callable[[str, Tensor], tuple[Tensor, Tensor]]


def dev_loss(
    encode: Encode, fitted_on: Tensor, meta: Tensor, classes: int, settings: s.DevHeadSettings, seed: Generator
) -> Tensor:
    """L_dev of the `meta` rows through a head fitted on the rows `fitted_on`; depends on the body."""
    with torch.no_grad():
        features, labels = encode(settings.dev_head_split, fitted_on)
    head = fit(features.float(), labels, classes, settings, seed)
    hidden, targets = encode("meta_dev", meta)
    return example_losses(head(hidden.float()), targets).mean()
