"""The race of an arm's configurations over the folds: which of them earns another fold.

All configurations have the same cells (folds, seeds) in the same order, and take them one at a time. When a
configuration has scored its first m cells, it is compared with the leader on these same cells:

    d (m,)   its scores less the leader's, cell by cell, so that how hard the rows of a fold are cancels out

It gets cell m + 1 if the mean of d is above 0; on its first cell, which says little, if it is behind by no more than
the standard deviation of the leader's scores over its cells. Otherwise it is dropped. A tie from the second cell on is
a drop, so that configurations that are all alike, such as those that predict one class, cost two cells each. The
leader is the configuration that is furthest; of several, the one with the highest mean.

This is the intensification of SMAC (Hutter, Hoos and Leyton-Brown, LION 5, 2011) with folds for instances: a challenger
is given up as soon as it is no better than the incumbent on what both were run on. The tolerance on the first fold is
ours. docs/results/selection.md has figures of other rules.

The race is a function of the scores in the order in which they were committed, and is rebuilt from them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Drop:
    """Why a configuration gets no further fold."""

    arm: str
    number: int  # of the configuration
    leader: int  # of the configuration that it was compared with
    cells: int  # that both have scores on
    difference: float  # mean over these cells, the configuration's score less the leader's

    def to_dict(self) -> dict[str, Any]:
        """Returns the values that JSON can hold."""
        return asdict(self)


class Race:
    """The scores of an arm's configurations, cell by cell, and which of them were dropped."""

    def __init__(self, arm: str, cells: int, *, drops: bool) -> None:
        """Begins a race over so many cells; with `drops` False every configuration gets all of them."""
        self.arm, self.cells, self.drops = arm, cells, drops
        self.dropped: dict[int, Drop] = {}  # by number
        self._scores: dict[int, list[float]] = {}  # of configurations that may still win, by number

    def take(self, number: int, score: float | None) -> Drop | None:
        """Takes the next score of a configuration, None if it failed; returns the drop that follows from it."""
        if not self.drops:
            return None
        if score is None:
            self._scores.pop(number, None)
            return None
        scores = self._scores.setdefault(number, [])
        scores.append(score)
        leader = self._leader(number, len(scores))
        if leader is None or len(scores) == self.cells:
            return None
        leading = self._scores[leader]
        difference = _mean([a - b for a, b in zip(scores, leading, strict=False)])
        if difference > 0 or (len(scores) == 1 and difference >= -_spread(leading)):
            return None
        del self._scores[number]
        self.dropped[number] = drop = Drop(self.arm, number, leader, len(scores), difference)
        return drop

    def _leader(self, number: int, cells: int) -> int | None:
        """Returns the other configuration to compare with on the first `cells` cells; None while there is none."""
        others = [(len(s), _mean(s), -n) for n, s in self._scores.items() if n != number and len(s) >= cells]
        return -max(others)[2] if others else None


def _spread(scores: Sequence[float]) -> float:
    """Returns what a configuration may be behind on its first cell: without two scores of the leader, anything."""
    return statistics.stdev(scores) if len(scores) > 1 else math.inf


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
