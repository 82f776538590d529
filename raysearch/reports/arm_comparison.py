"""Each arm of a run compared with another one, on the fresh seeds that both were repeated on.

    scores   by arm, then by seed; with selection by seed and fold
    d        (n,) the differences of two arms, one per common seed, or fold
    overlap  see `statistics`; 0 without selection

The same intervals and verdicts as in the report `arms`, which compares the search with each baseline, but for any arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from raysearch.reports import statistics
from raysearch.storage.arm_choice import ArmChoice
from raysearch.storage.cells import Cell, cell_of
from raysearch.storage.states import TrialRole, TrialState

Scores = Mapping[str, Mapping[Cell, float]]
LEAST_SEEDS = 3  # common seeds without which nothing is concluded from an interval
MOST_SEEDS = 40  # more are not proposed


@dataclass(frozen=True)
class Comparison:
    """How the first of two arms differs from the second."""

    d: tuple[float, ...]  # first minus second, by seed; empty without a common seed
    low: float | None = None  # of the 95 % interval, for all comparisons together; None for fewer than two seeds
    high: float | None = None
    better: int = 0  # 1 if the first arm is shown to be better, -1 if the second is, else 0
    leans: int = 0  # the same by the 95 % interval of this comparison alone
    overlap: float = 0.0

    @property
    def difference(self) -> float:
        """The mean difference; 0 without a common seed."""
        return fmean(self.d) if self.d else 0.0

    def reversed(self) -> Comparison:
        """Returns how the second arm differs from the first."""
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        return Comparison(tuple(-each for each in self.d), low, high, -self.better, -self.leans, self.overlap)

    @property
    def folds(self) -> int:
        """The number of folds of a partition; 0 without selection."""
        return round(1 / self.overlap) + 1 if self.overlap else 0


def overlap_between(choice: ArmChoice) -> float:
    """Returns the rows that score a fold over those that train; 0 without selection."""
    return max(each.overlap for each in choice.ranked)


def repeated_scores(choice: ArmChoice, trials: Iterable[Mapping[str, Any]]) -> dict[str, dict[Cell, float]]:
    """Returns the scores of each arm's configuration on seeds that took no part in choosing it.

    Without fresh seeds these are its own seeds, if every arm had one configuration only and no folds; else there are
    none.
    """
    if choice.is_fresh:
        return {each.arm: dict(each.cells) for each in choice.ranked}
    ours = [row for row in trials if row["role"] == TrialRole.SEARCH]
    is_chosen = len({(row["arm"], row["number"]) for row in ours}) > len({row["arm"] for row in ours})
    if is_chosen or any(cell_of(row)[1] >= 0 for row in ours):
        return {}
    scores: dict[str, dict[Cell, float]] = {}
    for row in ours:
        if row["state"] == TrialState.COMPLETE and row["score"] is not None:
            scores.setdefault(row["arm"], {})[cell_of(row)] = row["score"]
    return scores


def compare(scores: Scores, first: str, overlap: float = 0.0) -> dict[str, Comparison]:
    """Returns how the arm `first` differs from each other arm; its comparisons are judged together."""
    differences = {
        arm: tuple(scores[first][seed] - score for seed, score in sorted(of_arm.items()) if seed in scores[first])
        for arm, of_arm in scores.items()
        if arm != first
    }
    tested = {arm: d for arm, d in differences.items() if len(d) > 1}
    p_holm = statistics.holm([statistics.difference_p(d, overlap) or 0.0 for d in tested.values()])
    compared = {
        arm: _comparison(d, p, len(tested), overlap) for (arm, d), p in zip(tested.items(), p_holm, strict=True)
    }
    return {arm: compared.get(arm, Comparison(d, overlap=overlap)) for arm, d in differences.items()}


def _comparison(d: tuple[float, ...], p_holm: float, together: int, overlap: float) -> Comparison:
    low, high = statistics.paired_interval(d, together, overlap) or (0.0, 0.0)
    low_alone, high_alone = statistics.paired_interval(d, 1, overlap) or (0.0, 0.0)
    leans = int(low_alone > 0) - int(high_alone < 0) if len(d) >= LEAST_SEEDS else 0
    better = statistics.judge(d, p_holm, together, overlap)
    return Comparison(d, low, high, better, better or leans, overlap)


def seeds_to_show(d: tuple[float, ...], together: int, overlap: float = 0.0) -> int | None:
    """Returns about how many seeds would show a difference like this one; None if more than MOST_SEEDS.

    That is the smallest number of seeds at which the interval of a mean of `d`, with their standard deviation, excludes
    0, for `together` comparisons. With selection it is a number of folds, and often there is none: more partitions of
    the same rows do not make up for few rows.
    """
    if len(d) < 2:
        return None
    from scipy.stats import t

    mean, deviation = abs(fmean(d)), float(np.std(d, ddof=1))
    for seeds in range(len(d) + 1, MOST_SEEDS + 1):
        error = deviation * (1 / seeds + overlap) ** 0.5
        if mean > float(t.ppf(1 - statistics.ALPHA / (2 * together), seeds - 1)) * error:
            return seeds
    return None
