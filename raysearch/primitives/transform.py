"""Transform primitives: what happens to the selected tokens of an input (PAPERS: AANG, section 3 and Table 2).

    tokens (B, S) int64; selected (B, S) bool. Only selected positions may change; a transform returns a new tensor.

Every token that is neither special nor padding is selected with the same probability, and the loss of a denoising
objective is taken at the selected positions whatever the transform (the authors' "pure" mode).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


TRANSFORMS: dict[str, Transform] = {"none": none, "replace": replace, "mask": mask, "bert": bert}
