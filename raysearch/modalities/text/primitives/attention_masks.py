"""Representation primitives of text: which positions each position attends to (AANG, section 3).

    real (B, S) bool: the position holds a token, not padding
    visible (B, S, S) bool: row = query, column = key; the same for all layers and heads

Padding is never visible. In the authors' code it is under `bidirectional` and `random_factorized`, which we take for a
mistake and do not copy. Every position sees at least itself, so that no row of the attention is empty.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Representation = Callable[[Tensor, Generator], Tensor]
KEEP = 0.6  # share of positions that a position sees under random_factorized (the authors' code)


def _keys(allowed: Tensor, real: Tensor) -> Tensor:
    """Returns `allowed` (S, S) without padding, for each example; a position left without any key sees itself."""
    visible = allowed[None] & real[:, None, :]
    blind = ~visible.any(dim=-1, keepdim=True)
    return visible | (blind & torch.eye(real.shape[1], dtype=torch.bool)[None])


def bidirectional(real: Tensor, generator: Generator) -> Tensor:
    """Returns a mask under which each position sees all: BERT's."""
    del generator
    length = real.shape[1]
    return _keys(torch.ones(length, length, dtype=torch.bool), real)


def left_to_right(real: Tensor, generator: Generator) -> Tensor:
    """Returns a mask under which each position sees itself and those before: GPT's."""
    del generator
    length = real.shape[1]
    return _keys(torch.ones(length, length, dtype=torch.bool).tril(), real)


def right_to_left(real: Tensor, generator: Generator) -> Tensor:
    """Returns a mask under which each position sees itself and those after."""
    del generator
    length = real.shape[1]
    return _keys(torch.ones(length, length, dtype=torch.bool).triu(), real)


def random_factorized(real: Tensor, generator: Generator) -> Tensor:
    """Returns a mask of a random 60 % of the other positions, one for the whole batch: the authors' XLNet-style mask.

    The published numbers come from it. It is not a permutation order, and a token still sees itself through other
    positions.
    """
    length = real.shape[1]
    visible = torch.rand(length, length, generator=generator) < KEEP
    return _keys(visible & ~torch.eye(length, dtype=torch.bool), real)


def permutation(real: Tensor, generator: Generator) -> Tensor:
    """Returns a mask under which each position sees itself and those before it in a random order of each example.

    XLNet (Yang et al. 2019, https://arxiv.org/abs/1906.08237) has two streams: its query stream knows the position of
    the token to be predicted, but not the token. An encoder has one stream, in which a position always knows its own
    token. An unchanged token is therefore visible to `denoise`, and `next_token` is what learns a factorisation: a
    position predicts its neighbour to the right where that comes later in the order, and so is not visible.
    """
    order = torch.rand(real.shape, generator=generator).argsort(dim=1).argsort(dim=1)  # (B, S) place of each position
    before = order[:, None, :] <= order[:, :, None]  # (B, S, S)
    return before & real[:, None, :] | torch.eye(real.shape[1], dtype=torch.bool)[None]
