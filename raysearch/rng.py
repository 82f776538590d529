"""Named random streams: what is random at a step depends on the seed, the stream's name and the step alone."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator, Tensor


def number_of(seed: int, name: str, at: int) -> int:
    """Returns a 63-bit seed for place `at` of a named stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{at}".encode()).digest()[:8]) >> 1


def stream(seed: int, name: str, at: int) -> Generator:
    """Returns a CPU generator for place `at` of a named stream."""
    return Generator().manual_seed(number_of(seed, name, at))


class ShuffledRows:
    """An endless stream of row numbers, with every row once in each round. Any place can be read without state."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._round = -1
        self._order = torch.empty(0, dtype=torch.long)

    def rows(self, start: int, count: int) -> Tensor:
        """Returns the `count` row numbers from place `start` on, (count,)."""
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
