"""One batch for everything that a step needs: end task and all sampled objectives side by side.

A representation is only a mask of who sees whom, a transform only other token ids, so one forward serves all. All
ranks draw the same global batch from the same generator, and each keeps every world-th row: sums over ranks are
then the sums of one rank alone.

    tokens (b, S) int64, after the transforms; visible (b, S, S) bool; b rows of this rank
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.plan import Objective
from raysearch.primitives.data import DATA
from raysearch.primitives.output import Targets
from raysearch.primitives.representation import REPRESENTATIONS
from raysearch.primitives.transform import TRANSFORMS, Vocabulary, select
from raysearch.tasks import Split


def number_of(seed: int, name: str, at: int) -> int:
    """A 63-bit number for place `at` of a named stream: what is random at a step depends on nothing before it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{at}".encode()).digest()[:8]) >> 1


def stream(seed: int, name: str, at: int) -> Generator:
    """A CPU generator for place `at` of a named stream."""
    return Generator().manual_seed(number_of(seed, name, at))


@dataclass(frozen=True)
class Group:
    """The rows of one task within a batch."""

    tokens: Tensor  # (b, S) after the transform
    visible: Tensor  # (b, S, S)
    targets: Targets

    def slice(self, rank: int, world: int) -> Group:
        """Every world-th row, beginning with `rank`; the totals stay those of the whole group."""
        if world == 1:
            return self
        t = self.targets
        targets = replace(
            t, tokens=t.tokens[rank::world], selected=t.selected[rank::world], labels=t.labels[rank::world]
        )
        return Group(self.tokens[rank::world], self.visible[rank::world], targets)

    def to(self, device: torch.device) -> Group:
        """The same rows on `device`."""
        t = self.targets
        targets = replace(t, tokens=t.tokens.to(device), selected=t.selected.to(device), labels=t.labels.to(device))
        return Group(self.tokens.to(device), self.visible.to(device), targets)


class Shuffled:
    """An endless stream of row numbers, every row once in each round; any place in it can be found without state."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._round = -1
        self._order = torch.empty(0, dtype=torch.long)

    def rows(self, start: int, count: int) -> Tensor:
        """The `count` row numbers from place `start` on, (count,)."""
        drawn: list[Tensor] = []
        while count > 0:
            number, at = divmod(start, self.size)
            if number != self._round:
                self._round = number
                self._order = torch.randperm(self.size, generator=stream(self.seed, "order", number))
            part = self._order[at : at + count]
            drawn.append(part)
            start += len(part)
            count -= len(part)
        return torch.cat(drawn)


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


def labels_of(split: Split, rows: Tensor) -> Tensor:
    """Labels (b,) of `rows`; empty for a split without."""
    if split.labels is None:
        return torch.empty(0, dtype=torch.long)
    return torch.from_numpy(np.asarray(split.labels)[rows.numpy()].astype(np.int64))


def plain_group(split: Split, rows: Tensor, vocabulary: Vocabulary, longest: int) -> Group:
    """`rows` as they are, each position seeing all others: the end task's own batch."""
    tokens = padded(split, rows.tolist(), vocabulary, longest)
    real = tokens != vocabulary.pad
    visible = REPRESENTATIONS["bidirectional"](real, Generator())
    nothing = torch.zeros_like(real)
    return Group(tokens, visible, Targets(tokens, nothing, labels_of(split, rows), 0, len(rows)))


def objective_group(
    objective: Objective,
    count: int,
    open_split: Callable[[str], Split],
    vocabulary: Vocabulary,
    longest: int,
    probability: float,
    generator: Generator,
) -> Group:
    """`count` examples drawn with replacement for `objective`, transformed and masked as it says."""
    split = DATA[objective.data](open_split)
    rows = torch.randint(len(split), (count,), generator=generator)
    tokens = padded(split, rows.tolist(), vocabulary, longest)
    selected = select(tokens, probability, vocabulary, generator)
    changed = TRANSFORMS[objective.transform](tokens, selected, vocabulary, generator)
    visible = REPRESENTATIONS[objective.representation](tokens != vocabulary.pad, generator)
    targets = Targets(tokens, selected, labels_of(split, rows), int(selected.sum()), count)
    return Group(changed, visible, targets)


def stack(groups: Sequence[Group], vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """All groups' tokens (b, S) and masks (b, S, S), padded to the longest; padding sees only itself."""
    width = max(group.tokens.shape[1] for group in groups)
    tokens, masks = [], []
    for group in groups:
        rows, length = group.tokens.shape
        more = width - length
        tokens.append(torch.nn.functional.pad(group.tokens, (0, more), value=vocabulary.pad))
        visible = torch.nn.functional.pad(group.visible, (0, more, 0, more))
        if more:
            visible[:, range(length, width), range(length, width)] = True
        masks.append(visible)
        assert len(visible) == rows
    return torch.cat(tokens), torch.cat(masks)
