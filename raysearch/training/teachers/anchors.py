"""Anchors: the vectors that the encoder gave unchanged examples before training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from raysearch.data.prepared import Split


class StoredAnchors:
    """Gives the vectors of some rows of each of several splits, and draws among these rows."""

    def __init__(self, tables: list[tuple[Split, NDArray[np.int64], NDArray[np.float32]]]) -> None:
        """Each split with the numbers (R,) of its rows and their vectors (R, H)."""
        self._splits = [split for split, _, _ in tables]  # held, so that their ids stay theirs
        self._rows = {id(split): torch.from_numpy(rows) for split, rows, _ in tables}
        self._vectors = {id(split): torch.from_numpy(np.array(vectors)) for split, _, vectors in tables}

    def draw(self, split: Split, count: int, generator: Generator) -> Tensor:
        """Returns the numbers (count,) of rows that have a vector, drawn with replacement."""
        rows = self._rows[id(split)]
        return rows[torch.randint(len(rows), (count,), generator=generator)]

    def vectors(self, split: Split, rows: Tensor) -> Tensor:
        """Returns the vectors (b, H) of rows that `draw` has returned."""
        return self._vectors[id(split)][torch.searchsorted(self._rows[id(split)], rows)]
