"""Where the states of a split's texts lie, in files that are mapped into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class StoredStates:
    """The states of the texts of one file, mapped from disk."""

    values: NDArray[Any]  # (tokens, H), or (n, H) of pooled texts
    offsets: NDArray[np.int64]  # (n + 1,) between which the states of each text lie


@dataclass(frozen=True)
class SplitStates:
    """Where the states of a split's texts lie."""

    files: dict[int, StoredStates]
    places: Mapping[int, tuple[int, int]]  # of each text that has states: its file, and its number there
    is_pooled: bool

    def read(self, rows: Tensor, width: int) -> Tensor:
        """Returns the states of texts (b, width, H), 0 where a text is shorter; or of pooled ones (b, 1, H)."""
        parts = []
        for row in rows.tolist():
            file, number = self.places[row]
            begin, end = self.files[file].offsets[number : number + 2]
            parts.append(self.files[file].values[begin:end])
        states = np.zeros((len(parts), 1 if self.is_pooled else width, parts[0].shape[1]), dtype=parts[0].dtype)
        for line, part in zip(states, parts, strict=True):
            line[: len(part)] = part
        return torch.from_numpy(states)
