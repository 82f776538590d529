"""Files of states: arrays that are mapped into memory, with a checksum at their end."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHECKSUM_BYTES = 4  # a CRC-32, little-endian


@dataclass(frozen=True)
class StoredStates:
    """The states of the texts of one file, mapped from disk."""

    values: NDArray[Any]  # (tokens, H), or (n, H) of pooled texts
    offsets: NDArray[np.int64]  # (n + 1,) between which the states of each text lie


@dataclass(frozen=True)
class SplitStates:
    """Where the states of a split's texts lie."""

    files: dict[int, StoredStates]
    places: Sequence[tuple[int, int]]  # of each text: its file, and its number there
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


checked: set[str] = set()  # files whose checksum this process has compared, or has written


def read_array(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Maps an array from a file that `StateCache` wrote; None if there is none, or it is damaged."""
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.shape != shape or values.dtype != dtype:
            return None
        if str(path) not in checked:
            with path.open("rb") as file:
                file.seek(-CHECKSUM_BYTES, os.SEEK_END)
                if checksum_of(values) != int.from_bytes(file.read(CHECKSUM_BYTES), "little"):
                    return None
            checked.add(str(path))
    except (OSError, ValueError, EOFError):
        return None
    return values


def checksum_of(values: NDArray[Any]) -> int:
    """Returns the CRC-32 of an array's bytes."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data)
