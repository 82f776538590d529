"""A teacher whose guesses are known before the first step: a table of probabilities, and which of them are used.

    R      the rows of a split that the teacher has looked at
    U      (R, C) its probabilities of them
    trust  (R,) 1 for a guess that is used, else 0

A labelled training example is no guess: its label is certain. Rows are drawn among those whose guess is used, a class
in proportion to the square root of how many of its guesses are: between all of them, where the most frequent class
takes the batch, and equal classes, where the least pure one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.guessing import Guesses


@dataclass(frozen=True)
class GuessTable:
    """The guesses of a split's rows."""

    rows: NDArray[np.int64]  # (R,) numbers in the split
    probabilities: NDArray[np.float64]  # (R, C)
    trust: NDArray[np.float64]  # (R,)

    @property
    def draw_weights(self) -> Tensor:
        """The weights (R,) by which rows are drawn; all rows alike where no guess is used."""
        is_used = self.trust > 0
        if not is_used.any():
            return torch.ones(len(self.rows), dtype=torch.float64)
        guesses = self.probabilities.argmax(axis=1)
        counts = np.bincount(guesses[is_used], minlength=self.probabilities.shape[1])
        return torch.from_numpy(np.where(is_used, 1 / np.sqrt(np.maximum(counts[guesses], 1)), 0.0))


class TableTeacher:
    """Gives the guesses of tables, one for each split."""

    def __init__(self, tables: list[tuple[Split, GuessTable]]) -> None:
        self._splits = [split for split, _ in tables]  # held, so that their ids stay theirs
        self._tables: dict[int, GuessTable] = {id(split): table for split, table in tables}
        self._weights = {key: table.draw_weights for key, table in self._tables.items()}
        self._places: dict[int, Any] = {key: place_of(table.rows) for key, table in self._tables.items()}

    def draw(self, split: Split, count: int, generator: Generator) -> Tensor:
        """Returns the numbers (count,) of examples whose guesses are used, drawn with replacement."""
        places = torch.multinomial(self._weights[id(split)], count, replacement=True, generator=generator)
        return torch.from_numpy(self._tables[id(split)].rows)[places]

    def guess(self, split: Split, rows: Tensor) -> Guesses:
        """Returns the guesses of rows that `draw` has returned."""
        table, place = self._tables[id(split)], self._places[id(split)]
        places = np.array([place[row] for row in rows.tolist()])
        return Guesses(
            torch.from_numpy(table.probabilities[places]).float(), torch.from_numpy(table.trust[places]).float()
        )


def place_of(rows: NDArray[np.int64]) -> dict[int, int]:
    """Returns the place in `rows` of each row."""
    return {row: place for place, row in enumerate(rows.tolist())}


def certain_table(labels: NDArray[Any], classes: int) -> GuessTable:
    """Returns the table of labelled rows, whose classes are certain."""
    rows = np.arange(len(labels))
    return GuessTable(rows, np.eye(classes)[labels], np.ones(len(labels)))
