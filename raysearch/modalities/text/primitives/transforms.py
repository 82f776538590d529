"""Transform primitives of text: what happens to the selected tokens of an input (AANG, section 3 and Table 2).

    tokens (B, S) int64; selected (B, S) bool. Only selected positions may change; a transform returns a new tensor,
    in which GONE deletes a token and `noisy(token)` adds noise to its embedding.

Every token that is neither special nor padding is selected with the same probability, and the loss of a denoising
objective is taken at the selected positions whatever the transform (the authors' "pure" mode).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The number of tokens, and the ids of special ones."""

    size: int
    pad: int
    cls: int
    sep: int
    mask: int

    @property
    def special(self) -> tuple[int, ...]:
        """The ids that are never selected."""
        return (self.pad, self.cls, self.sep, self.mask)


def vocabulary_of(metadata: Mapping[str, Any]) -> Vocabulary:
    """Returns the token ids that data.json holds."""
    tokens = metadata["tokens"]
    return Vocabulary(tokens["vocab_size"], tokens["pad"], tokens["cls"], tokens["sep"], tokens["mask"])


GONE = -1  # what a transform returns for a token that it deletes


def noisy(tokens: Tensor) -> Tensor:
    """Returns the numbers below GONE that mark tokens whose embeddings get noise; its own inverse."""
    return -2 - tokens


CUT = 0.25  # share of a text's tokens that `cut` takes out
Transform = Callable[[Tensor, Tensor, Vocabulary, Generator], Tensor]


def select(tokens: Tensor, probability: float, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Returns positions (B, S) bool, each token that is not special with `probability`."""
    draws = torch.rand(tokens.shape, generator=generator)
    special = torch.isin(tokens, torch.tensor(vocabulary.special))
    return (draws < probability) & ~special


def none(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Changes nothing; a denoising objective then reconstructs its input."""
    del selected, vocabulary, generator
    return tokens.clone()


def replace(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Puts a uniform token of the whole vocabulary, special ones included (as the authors' code does)."""
    drawn = torch.randint(vocabulary.size, tokens.shape, generator=generator)
    return torch.where(selected, drawn, tokens)


def mask(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Puts the mask token."""
    del generator
    return torch.where(selected, torch.full_like(tokens, vocabulary.mask), tokens)


def bert(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Puts BERT's mixture: 80 % the mask token, 10 % a uniform token, 10 % unchanged (Devlin et al. 2019)."""
    which = torch.rand(tokens.shape, generator=generator)
    masked = mask(tokens, selected & (which < 0.8), vocabulary, generator)
    return replace(masked, selected & (which >= 0.8) & (which < 0.9), vocabulary, generator)


def delete(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Deletes the selected tokens, without leaving gaps; `View` says which token is predicted where.

    This is BART's token deletion (Lewis et al. 2020, https://arxiv.org/abs/1910.13461). BART's decoder writes the whole
    text, and so has to find out where tokens are missing; an encoder predicts them at the token before each gap.
    """
    del vocabulary, generator
    return tokens.masked_fill(selected, GONE)


def dropout(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Changes nothing: two views of a text then differ in the dropout of the encoder alone (SimCSE, R-Drop)."""
    return none(tokens, selected, vocabulary, generator)


def delete_60(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Deletes the selected tokens, of which there are 60 % (TSDAE's noise)."""
    return delete(tokens, selected, vocabulary, generator)


def select_60(tokens: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Returns positions (B, S) bool, each token that is not special with probability .6."""
    return select(tokens, 0.6, vocabulary, generator)


def cut(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Cuts the selected span out of each text, without leaving a gap."""
    return delete(tokens, selected, vocabulary, generator)


def select_span(tokens: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Returns positions (B, S) bool: a span of each text, of CUT of its tokens, at a uniform place."""
    ordinary = ~torch.isin(tokens, torch.tensor(vocabulary.special))
    place = ordinary.cumsum(dim=1) - 1  # among the ordinary tokens
    count = ordinary.sum(dim=1, keepdim=True)
    length = (CUT * count).long()
    start = (torch.rand(len(tokens), 1, generator=generator) * (count - length + 1)).long()
    return ordinary & (place >= start) & (place < start + length)


def noisy_embeds(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Adds Gaussian noise to the tokens' embeddings (named in AANG's Figure 2, and not in its code)."""
    del vocabulary, generator
    return torch.where(selected, noisy(tokens), tokens)


@dataclass(frozen=True)
class View:
    """The texts as the encoder sees them, and as they were before the transform."""

    source: Tensor  # (B, S) the tokens before the transform, at their positions then
    tokens: Tensor  # (B, S) the tokens that the encoder sees, without gaps where tokens are deleted
    noise: Tensor  # (B, S) bool: positions whose embedding gets noise
    real: Tensor  # (B, S) bool: not padding
    original: Tensor  # (B, S) the token before the transform at each position
    selected: Tensor  # (B, S) bool: selected tokens that are left, and tokens before deleted ones
    changed: Tensor  # (B, S) bool: replaced, with noise, or before a deleted token
    place: Tensor  # (B, S) each position before the transform
    target_place: Tensor  # (B, S) the same, but of the first deleted token where one follows

    def at_targets(self, values: Tensor) -> Tensor:
        """Returns values (B, S) of the tokens before the transform, at the positions where they are predicted."""
        return values.gather(1, self.target_place)


def make_view(tokens: Tensor, selected: Tensor, transformed: Tensor, vocabulary: Vocabulary) -> View:
    """Returns the view of a transform's result, with deleted tokens removed and noise separate (all (B, S))."""
    real, place = tokens != vocabulary.pad, torch.arange(tokens.shape[1]).expand(tokens.shape)
    noise, gone = transformed < GONE, transformed == GONE
    ids = torch.where(noise, noisy(transformed), transformed)
    changed = (ids != tokens) | noise
    if not gone.any():
        return View(tokens, ids, noise, real, tokens, selected, changed, place, place)
    next_is_gone = torch.nn.functional.pad(gone[:, 1:], (0, 1))
    order = gone.long().argsort(dim=1, stable=True)  # deleted tokens move to the end, the others up
    left, missing = (real & ~gone).gather(1, order), next_is_gone.gather(1, order)
    return View(
        source=tokens,
        tokens=ids.gather(1, order).masked_fill(~left, vocabulary.pad),
        noise=noise.gather(1, order) & left,
        real=left,
        original=tokens.gather(1, order).masked_fill(~left, vocabulary.pad),
        selected=(selected.gather(1, order) | missing) & left,
        changed=(changed.gather(1, order) | missing) & left,
        place=order,
        target_place=order + (missing & left).long(),
    )
