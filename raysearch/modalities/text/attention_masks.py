"""Representation primitives: which positions a position may look at (AANG, section 3).

    real (B, S) bool: the position holds a token, not padding
    visible (B, S, S) bool: row = query, column = key; the same for all layers and heads

Padding is never visible: the authors' code lets it be seen under `bidirectional` and `random_factorized`, a slip
that we leave out. Every position sees at least itself, so that no row of the attention is empty.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Representation = Callable[[Tensor, Generator], Tensor]
KEEP = 0.6  # share of positions that a position sees under random_factorized (the authors' code)


def _keys(allowed: Tensor, real: Tensor) -> Tensor:
    """Hide padding from `allowed` (S, S); a position left without any key sees itself."""
    visible = allowed[None] & real[:, None, :]
    blind = ~visible.any(dim=-1, keepdim=True)
    return visible | (blind & torch.eye(real.shape[1], dtype=torch.bool)[None])


def bidirectional(real: Tensor, generator: Generator) -> Tensor:
    """Everything: BERT's."""
    del generator
    length = real.shape[1]
    return _keys(torch.ones(length, length, dtype=torch.bool), real)


def left_to_right(real: Tensor, generator: Generator) -> Tensor:
    """What came before, and itself: GPT's."""
    del generator
    length = real.shape[1]
    return _keys(torch.ones(length, length, dtype=torch.bool).tril(), real)


def right_to_left(real: Tensor, generator: Generator) -> Tensor:
    """What comes after, and itself."""
    del generator
    length = real.shape[1]
    return _keys(torch.ones(length, length, dtype=torch.bool).triu(), real)


def random_factorized(real: Tensor, generator: Generator) -> Tensor:
    """A random 60 % of the other positions, the same for the whole batch: the authors' XLNet-style mask.

    It is what the published numbers come from; it is not a permutation order, and a token still sees itself
    through other positions.
    """
    length = real.shape[1]
    kept = torch.rand(length, length, generator=generator) < KEEP
    return _keys(kept & ~torch.eye(length, dtype=torch.bool), real)


def permutation(real: Tensor, generator: Generator) -> Tensor:
    """Itself and what comes before it in a random order, drawn for each example: a true factorisation order.

    XLNet (Yang et al. 2019, https://arxiv.org/abs/1906.08237) has two streams: its query stream knows where the token
    to be predicted stands, but not the token. An encoder has one stream, in which a position always carries its own
    token: `denoise` of an unchanged token is then seen, and `next_token` is what learns a factorisation. It asks a
    position for its neighbour to the right where that comes later in the order, which nothing it sees has seen.
    """
    order = torch.rand(real.shape, generator=generator).argsort(dim=1).argsort(dim=1)  # (B, S) place of each position
    before = order[:, None, :] <= order[:, :, None]  # (B, S, S)
    return before & real[:, None, :] | torch.eye(real.shape[1], dtype=torch.bool)[None]
