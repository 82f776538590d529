"""Which arm of a run is best: the one definition in the project.

Where configurations were repeated on fresh seeds, arms are compared by their means over these alone, because the scores
that chose a configuration are too high, and the more so the more configurations an arm has tried. An arm without fresh
seeds then takes no part. Where nothing was repeated, arms are compared by the scores that chose their configurations.

    chosen   the configuration of an arm that stands for it: the one that was repeated last, else its best
    shared   the fresh seeds on which every repeated arm is complete; means are over these, so that they are paired

With selection a fresh seed is a fresh partition, and its score is the mean over all its folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raysearch.formatting import format_count
from raysearch.storage.best import rank_configurations
from raysearch.storage.cells import Cell, cell_of, overlap_of
from raysearch.storage.states import TrialRole, TrialState

Rows = list[dict[str, Any]]
_COLUMNS = ["trial_id", "arm", "role", "number", "seed", "state", "score", "plan"]


@dataclass(frozen=True)
class ArmScore:
    """What an arm is compared by."""

    arm: str
    number: int  # of the configuration that stands for the arm
    score: float  # the mean over `seeds`, or without fresh seeds the score that chose the configuration
    fresh: dict[int, float]  # score by fresh seed, of every complete repetition; with selection the mean over its folds
    seeds: tuple[int, ...]  # the fresh seeds that `score` is the mean over; empty without
    cells: dict[Cell, float] = field(default_factory=dict)  # the scores that `fresh` is made of
    overlap: float = 0.0  # with selection, the rows that score a fold over those that train


@dataclass(frozen=True)
class ArmChoice:
    """The arms of a run that have a score, best first; ties go to the arm that is declared first."""

    ranked: tuple[ArmScore, ...]
    unrepeated: tuple[str, ...] = ()  # arms that take no part, because only others have fresh seeds

    @property
    def best(self) -> ArmScore:
        """The arm to use."""
        return self.ranked[0]

    @property
    def is_fresh(self) -> bool:
        """Says whether the arms are compared on seeds that took no part in choosing."""
        return bool(self.best.seeds)

    def reason(self, metric: str, arm: str = "", why: str = "it was asked for") -> str:
        """Returns one sentence that says why this arm: the best one, or `arm` because of `why`."""
        chosen = next((each for each in self.ranked if each.arm == arm), None) if arm else self.best
        others = [each for each in self.ranked if each is not chosen]
        if chosen is None:
            best = f"; the best arm is {self.best.arm} with {self.best.score:.4f}"
            return f"Arm {arm} is exported because {why}; it has no score to compare{best}."
        basis = f"mean {metric} over {format_count(len(chosen.seeds), 'fresh seed')}"
        basis = basis if chosen.seeds else f"{metric} of its best configuration"
        scores = f"{basis}: {chosen.score:.4f}"
        rest = ", ".join(f"{each.arm} {each.score:.4f}" for each in others)
        if chosen is not self.best:
            return f"Arm {chosen.arm} is exported because {why}; {scores}, and {rest}."
        if not others:
            return f"Arm {chosen.arm} is exported, the only one with a score; {scores}."
        return f"Arm {chosen.arm} is exported because it has the highest {scores}; {rest}."


def best_arm(trials: pa.Table, cells: Sequence[Cell], arms: Sequence[str]) -> ArmChoice | None:
    """Returns the arms of a run by their scores; None when no trial has a score.

    `trials` is the table of trials in the order of their ends, `cells` are those of the search, `arms` are in the order
    in which they are declared.
    """
    rows: Rows = trials.select(_COLUMNS).to_pylist()
    fresh = {arm: repeated for arm in arms if (repeated := _repeated([row for row in rows if row["arm"] == arm]))}
    if fresh:
        shared = set.intersection(*(set(_by_seed(repeated)) for repeated in fresh.values()))
        scores = [_fresh_score(arm, repeated, shared) for arm, repeated in fresh.items()]
    else:
        scores = [score for arm in arms if (score := _search_score(arm, rows, cells))]
    if not scores:
        return None
    unrepeated = tuple(arm for arm in arms if fresh and arm not in fresh and _search_score(arm, rows, cells))
    return ArmChoice(tuple(sorted(scores, key=lambda each: -each.score)), unrepeated)


def _repeated(rows: Rows) -> Rows:
    """Returns the complete trials on fresh seeds of the configuration that the arm has repeated last."""
    complete = [
        row
        for row in rows
        if row["role"] == TrialRole.CONFIRM and row["state"] == TrialState.COMPLETE and _is_number(row["score"])
    ]
    last = [row for row in complete if row["number"] == complete[-1]["number"]]
    whole = _by_seed(last)
    return [row for row in last if row["seed"] in whole]


def _by_seed(repeated: Rows) -> dict[int, float]:
    """Returns the score of each seed, of those of which every fold is complete."""
    folds = len({cell_of(row).fold for row in repeated})
    scores: dict[int, list[float]] = {}
    for row in sorted(repeated, key=cell_of):
        scores.setdefault(row["seed"], []).append(row["score"])
    return {seed: math.fsum(each) / folds for seed, each in scores.items() if len(each) == folds}


def _fresh_score(arm: str, repeated: Rows, shared: set[int]) -> ArmScore:
    scores = _by_seed(repeated)
    seeds = tuple(seed for seed in scores if not shared or seed in shared)
    score = math.fsum(scores[seed] for seed in seeds) / len(seeds)
    by_cell = {cell_of(row): row["score"] for row in sorted(repeated, key=cell_of)}
    return ArmScore(arm, repeated[0]["number"], score, scores, seeds, by_cell, overlap_of(repeated[0]))


def _search_score(arm: str, rows: Rows, cells: Sequence[Cell]) -> ArmScore | None:
    ours = [row for row in rows if row["arm"] == arm and row["role"] == TrialRole.SEARCH]
    best = next((each for each in rank_configurations(ours, cells) if each.score is not None), None)
    return None if best is None or best.score is None else ArmScore(arm, best.number, best.score, {}, ())


def _is_number(score: float | None) -> bool:
    return score is not None and math.isfinite(score)
