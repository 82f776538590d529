"""Batches of text: end task and all sampled objectives side by side.

A representation is only a mask of who sees whom, a transform only other token ids, so one forward serves all.

    tokens (b, S) int64, after the transforms; visible (b, S, S) bool; b rows of this rank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.batches import Group, Open, labels_of
from raysearch.plan import Objective
from raysearch.primitives.data import DATA
from raysearch.primitives.output import Targets
from raysearch.primitives.representation import REPRESENTATIONS
from raysearch.primitives.transform import TRANSFORMS, Vocabulary, select
from raysearch.tasks import Split


def padded(split: Split, rows: Sequence[int], vocabulary: Vocabulary, longest: int) -> Tensor:
    """Tokens (b, S) of `rows`, cut to `longest` (the last token stays the separator) and padded alike."""
    texts = [split.row(int(row)) for row in rows]
    width = min(max(len(text) for text in texts), longest)
    tokens = torch.full((len(texts), width), vocabulary.pad, dtype=torch.long)
    for i, text in enumerate(texts):
        kept = torch.from_numpy(np.asarray(text[:width], dtype=np.int64))
        tokens[i, : len(kept)] = kept
        if len(text) > width:
            tokens[i, -1] = vocabulary.sep
    return tokens


@dataclass(frozen=True)
class TextBatches:
    """Groups whose inputs are tokens (b, S) and who sees whom, visible (b, S, S)."""

    open_split: Open
    vocabulary: Vocabulary
    longest: int  # tokens kept of a text
    probability: float  # that a token is selected by a transform

    def plain(self, split: Split, rows: Tensor) -> Group:
        """`rows` as they are, each position seeing all others."""
        tokens = padded(split, rows.tolist(), self.vocabulary, self.longest)
        real = tokens != self.vocabulary.pad
        visible = REPRESENTATIONS["bidirectional"](real, Generator())
        nothing = torch.zeros_like(real)
        return Group((tokens, visible), Targets(tokens, nothing, labels_of(split, rows), 0, len(rows)))

    def objective(self, objective: Objective, count: int, generator: Generator) -> Group:
        """`count` examples drawn with replacement for `objective`, transformed and masked as it says."""
        split = DATA[objective.data](self.open_split)
        rows = torch.randint(len(split), (count,), generator=generator)
        tokens = padded(split, rows.tolist(), self.vocabulary, self.longest)
        selected = select(tokens, self.probability, self.vocabulary, generator)
        changed = TRANSFORMS[objective.transform](tokens, selected, self.vocabulary, generator)
        visible = REPRESENTATIONS[objective.representation](tokens != self.vocabulary.pad, generator)
        targets = Targets(tokens, selected, labels_of(split, rows), int(selected.sum()), count)
        return Group((changed, visible), targets)

    def stack(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        """All groups' tokens and masks, padded to the longest; padding sees only itself."""
        width = max(group.inputs[0].shape[1] for group in groups)
        tokens, masks = [], []
        for group in groups:
            own, seen = group.inputs
            length = own.shape[1]
            more = width - length
            tokens.append(torch.nn.functional.pad(own, (0, more), value=self.vocabulary.pad))
            visible = torch.nn.functional.pad(seen, (0, more, 0, more))
            if more:
                visible[:, range(length, width), range(length, width)] = True
            masks.append(visible)
        return torch.cat(tokens), torch.cat(masks)
