"""What a step's batch is made of, whatever the kind of task: groups of rows, one for each task within the batch.

All ranks draw the same global batch from the same generator, and each keeps every world-th row: sums over ranks are
then the sums of one rank alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from raysearch.objective import Objective
from raysearch.primitives.output import Targets
from raysearch.tasks import Split

Open = Callable[[str], Split]


def number_of(seed: int, name: str, at: int) -> int:
    """A 63-bit number for place `at` of a named stream: what is random at a step depends on nothing before it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{at}".encode()).digest()[:8]) >> 1


def stream(seed: int, name: str, at: int) -> Generator:
    """A CPU generator for place `at` of a named stream."""
    return Generator().manual_seed(number_of(seed, name, at))


@dataclass(frozen=True)
class Group:
    """The rows of one task within a batch."""

    inputs: tuple[Tensor, ...]  # what the body takes, each (b, ...)
    targets: Targets

    def __len__(self) -> int:
        return len(self.inputs[0])

    def slice(self, rank: int, world: int) -> Group:
        """Every world-th row, beginning with `rank`; the totals stay those of the whole group."""
        if world == 1:
            return self
        return self._each(lambda rows: rows[rank::world])

    def to(self, device: torch.device) -> Group:
        """The same rows on `device`."""
        return self._each(lambda rows: rows.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Group:
        t = self.targets
        targets = replace(t, original=change(t.original), selected=change(t.selected), labels=change(t.labels))
        return Group(tuple(change(rows) for rows in self.inputs), targets)


class Batches(Protocol):
    """A kind of task's way from row numbers to groups."""

    def plain(self, split: Split, rows: Tensor) -> Group:
        """`rows` (b,) of a split as they are: the end task's own batch."""

    def objective(self, objective: Objective, count: int, generator: Generator) -> Group:
        """`count` examples drawn with replacement for `objective`, transformed and masked as it says."""

    def size(self, objective: Objective) -> int:
        """How many rows the objective's examples are drawn from."""

    def stack(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """The inputs of all groups, one after another, for one forward."""


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


def labels_of(split: Split, rows: Tensor) -> Tensor:
    """Labels (b,) of `rows`: whole numbers for classes, float where they are numbers; empty for a split without."""
    if split.labels is None:
        return torch.empty(0, dtype=torch.long)
    found = np.asarray(split.labels)[rows.numpy()]
    return torch.from_numpy(found if found.dtype == np.float32 else found.astype(np.int64))
