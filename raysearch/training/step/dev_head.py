"""The dev head phi*, through which the gradient of meta-dev's loss is taken.

With the end task's own head, weighting the end task alone would always look best. A separate head, fitted to meta-dev
with the body fixed, avoids that (META-TARTAN, section 4.2; AANG, Appendix B). The head is fitted to one part of
meta-dev, and the gradient is taken on examples of the rest (in META-TARTAN's code they may overlap); or, as in AANG's
code, it is fitted to training examples. They are the same at every step, or fresh ones as in the code of both. The
body encodes the fitting examples once a step; in the code it does so at each iteration of a fit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from raysearch.methods.weighting import settings as s
from raysearch.modalities.losses import example_losses
from raysearch.models.heads import LabelHead


def split_dev_rows(
    size: int, training: int, settings: s.DevHeadSettings, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the rows for fitting the head, of meta-dev or of the training split, and those for meta batches.

    meta-dev has `size` rows, the training split has `training`. If both parts are of meta-dev, they are disjoint where
    it has more than one row; where it is too small, each takes half. With `dev_head_rows: fresh` they are drawn from
    `generator`, the step's.
    """
    is_fresh = settings.dev_head_rows == "fresh" and generator is not None
    chance = generator if is_fresh and generator is not None else _fixed_generator()
    if settings.dev_head_split == "train":
        rows = sample_rows(torch.arange(training), settings.dev_head_examples, chance)
        return rows, torch.arange(size)
    needed = settings.dev_head_examples + (settings.meta_batch_size or 1)
    cut = settings.dev_head_examples if size >= needed else max(1, size // 2)
    order = torch.randperm(size, generator=chance)
    return order[:cut], order[cut:] if size > cut else order


def _fixed_generator() -> Generator:
    """Returns a generator that does not depend on the step or on the seed, so the fitting rows stay the same."""
    return Generator().manual_seed(0)


def sample_rows(rows: Tensor, count: int, generator: Generator) -> Tensor:
    """Returns `count` of `rows` without replacement, or all of them if there are no more or `count` is 0."""
    if count >= len(rows) or not count:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    settings: s.DevHeadSettings,
    generator: Generator,
    dropout: float = 0.0,
) -> LabelHead:
    """Returns a new head, fitted to all `features` (n, H) at once by AdamW, as in the authors' code."""
    head = LabelHead(features.shape[1], classes, nn.Tanh, dropout)
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
    """Draws the parameters uniformly from +-1/sqrt(fan in), torch's default, without the global generator."""
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            bound = 1 / layer.in_features**0.5
            with torch.no_grad():
                for parameter in (layer.weight, layer.bias):
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)


def leave_one_out_errors(features: Tensor, labels: Tensor, classes: int, ridge: float) -> Tensor:
    """Returns the squared error (n,) of each of n examples by the least-squares head of the others.

    features (n, H), labels (n,) numbers or classes (as 0 and 1 for each of `classes`), or (n, L) of 0 and 1. With
    X = [features, 1], A = (X^T X + n P)^-1 X^T and h_i = x_i A_i, the error of example i is (y_i - x_i A y) / (1 - h_i)
    (Allen, Technometrics 16, 1974). P has `ridge` times the features' mean square on its diagonal, 0 for the constant.
    The errors depend on the body through the features.
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


# Takes a split and rows; returns hidden states at position 0 (n, H), and labels.
Encode = Callable[[str, Tensor], tuple[Tensor, Tensor]]


def dev_loss(
    encode: Encode,
    fitting_rows: Tensor,
    meta_rows: Tensor,
    classes: int,
    settings: s.DevHeadSettings,
    generator: Generator,
    dropout: float = 0.0,
) -> Tensor:
    """Returns the mean loss of the meta rows through a head fitted to the fitting rows; it depends on the body.

    `dropout` is the head's.
    """
    with torch.no_grad():
        features, labels = encode(settings.dev_head_split, fitting_rows)
    head = fit(features.float(), labels, classes, settings, generator, dropout)
    hidden, targets = encode("meta_dev", meta_rows)
    return example_losses(head(hidden.float()), targets).mean()
