"""Transform primitives: what happens to the selected tokens of an input (PAPERS: AANG, section 3 and Table 2).

    tokens (B, S) int64; selected (B, S) bool. Only selected positions may change; a transform returns a new tensor,
    in which GONE takes a token out and `noisy(token)` puts noise on its embedding.

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
    """The token ids that transforms need."""

    size: int
    pad: int
    cls: int
    sep: int
    mask: int

    @property
    def special(self) -> tuple[int, ...]:
        """Ids that are never selected."""
        return (self.pad, self.cls, self.sep, self.mask)


def vocabulary_of(metadata: Mapping[str, Any]) -> Vocabulary:
    """Returns the token ids that data.json holds."""
    tokens = metadata["tokens"]
    return Vocabulary(tokens["vocab_size"], tokens["pad"], tokens["cls"], tokens["sep"], tokens["mask"])


GONE = -1  # what a transform puts for a token that is to be taken out


def noisy(tokens: Tensor) -> Tensor:
    """What a transform puts for tokens whose embeddings are to get noise: below GONE; its own inverse."""
    return -2 - tokens


Transform = Callable[[Tensor, Tensor, Vocabulary, Generator], Tensor]


def select(tokens: Tensor, probability: float, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Positions (B, S) bool, each non-special token with `probability`."""
    draws = torch.rand(tokens.shape, generator=generator)
    special = torch.isin(tokens, torch.tensor(vocabulary.special))
    return (draws < probability) & ~special


def none(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """Nothing changes; a denoising objective then reconstructs its input."""
    del selected, vocabulary, generator
    return tokens.clone()


def replace(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """A uniform token of the whole vocabulary, special ones included (as the authors' code has it)."""
    drawn = torch.randint(vocabulary.size, tokens.shape, generator=generator)
    return torch.where(selected, drawn, tokens)


def mask(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """The mask token."""
    del generator
    return torch.where(selected, torch.full_like(tokens, vocabulary.mask), tokens)


def bert(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """BERT's mixture: 80 % the mask token, 10 % a uniform token, 10 % unchanged (Devlin et al. 2019)."""
    which = torch.rand(tokens.shape, generator=generator)
    masked = mask(tokens, selected & (which < 0.8), vocabulary, generator)
    return replace(masked, selected & (which >= 0.8) & (which < 0.9), vocabulary, generator)


def delete(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """GONE: the text closes up. What is asked for where is told by `View`.

    BART's token deletion (Lewis et al. 2020, https://arxiv.org/abs/1910.13461), whose decoder writes the whole text
    and so has to find out where something is missing; an encoder is asked at the token before each gap.
    """
    del vocabulary, generator
    return tokens.masked_fill(selected, GONE)


def noisy_embeds(tokens: Tensor, selected: Tensor, vocabulary: Vocabulary, generator: Generator) -> Tensor:
    """The same tokens, their embeddings to get Gaussian noise (named in AANG's Figure 2, and left out of its code)."""
    del vocabulary, generator
    return torch.where(selected, noisy(tokens), tokens)


@dataclass(frozen=True)
class View:
    """Texts as the encoder is to get them, and what they were before."""

    before: Tensor  # (B, S) the tokens that were given to the transform
    tokens: Tensor  # (B, S) ids, closed up where tokens are gone
    noise: Tensor  # (B, S) bool: positions whose embedding gets noise
    real: Tensor  # (B, S) bool: not padding
    kept: Tensor  # (B, S) the positions' own tokens before the transform
    selected: Tensor  # (B, S) bool: selected tokens that are there, and those before which selected ones are gone
    spoiled: Tensor  # (B, S) bool: another token, one with noise, or one after which a token is missing
    place: Tensor  # (B, S) the position before the transform
    asked: Tensor  # (B, S) the same, but of the first missing token where one is missing

    def moved(self, values: Tensor) -> Tensor:
        """Values (B, S) of the tokens before the transform, at the positions where they are asked for."""
        return values.gather(1, self.asked)


def viewed(tokens: Tensor, selected: Tensor, changed: Tensor, vocabulary: Vocabulary) -> View:
    """What a transform has made of `tokens`: gaps closed, noise told from tokens (all (B, S))."""
    real, place = tokens != vocabulary.pad, torch.arange(tokens.shape[1]).expand(tokens.shape)
    noise, gone = changed < GONE, changed == GONE
    ids = torch.where(noise, noisy(changed), changed)
    spoiled = (ids != tokens) | noise
    if not gone.any():
        return View(tokens, ids, noise, real, tokens, selected, spoiled, place, place)
    follows = torch.nn.functional.pad(gone[:, 1:], (0, 1))  # is the token after this one gone?
    order = gone.long().argsort(dim=1, stable=True)  # what is left moves up, what is gone goes behind it
    left, missing = (real & ~gone).gather(1, order), follows.gather(1, order)
    return View(
        before=tokens,
        tokens=ids.gather(1, order).masked_fill(~left, vocabulary.pad),
        noise=noise.gather(1, order) & left,
        real=left,
        kept=tokens.gather(1, order).masked_fill(~left, vocabulary.pad),
        selected=(selected.gather(1, order) | missing) & left,
        spoiled=(spoiled.gather(1, order) | missing) & left,
        place=order,
        asked=order + (missing & left).long(),
    )
