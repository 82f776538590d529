"""Which configuration of an arm is best, and which of its trials: the one definition in the project.

Everything that names a best trial uses this order: the sampler's side, the live panel, `status`, the reports, the model
card, the export, and the recorder when it chooses which trained models to keep. Configurations are sorted by

1. whether they are complete on every cell of the search (each seed; with selection, each fold), then on at least one,
   then stopped, then failed;
2. the higher score: the mean over the complete trials, or without one the score of the best stopped trial;
3. the lower number, that is, the configuration that was drawn first.

The trials of a configuration are sorted by state (complete, stopped, failed), then the higher score, then the cell that
comes first in the search. A configuration whose trials have all failed has no score, whatever they reported before, and
is never the best. Trials that repeat a configuration on fresh seeds (role confirm) take no part, and none that trains
it on all labelled rows (role refit).

SQL reports see the same order in two views: `configurations` (schema CONFIGURATIONS, one row each, column `rank`) and
`best` (the row of `trials` of every arm's best trial).
"""

from __future__ import annotations

import bisect
import json
import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa

from raysearch.storage.cells import Cell, cell_of, has_folds, overlap_of
from raysearch.storage.schemas import column
from raysearch.storage.states import ENDED_STATES, TrialRole, TrialState

Row = Mapping[str, Any]  # of the table of trials: number, seed, state and score at least

CONFIGURATIONS = pa.schema(
    [
        column("rank", pa.int64(), "place among the configurations of all arms, from 1"),
        column("arm", pa.string(), "'search', or the baseline's name"),
        column("number", pa.int32(), "the configuration's number in its arm"),
        column("trial_id", pa.string(), "its best trial"),
        column(
            "state",
            pa.string(),
            "complete, stopped or failed; dropped, if the race gave it no further fold; running while any is missing",
        ),
        column("score", pa.float64(), "mean over its complete trials; without one, of the best stopped trial"),
        column("sd", pa.float64(), "sample standard deviation over its complete trials; null with fewer than two"),
        column(
            "error",
            pa.float64(),
            "standard error of the score over folds, see `fold_error`; null without selection or with fewer than two",
        ),
        column("seeds", pa.int64(), "trials that have ended"),
        column("best_step", pa.int64(), "the step of the best trial's score", unit="step"),
        column("steps", pa.int64(), "optimizer steps of its longest trial", unit="step"),
        column("seconds", pa.float64(), "time in training, all its trials", unit="s"),
        column("params", pa.string(), "the values drawn for it, JSON"),
    ]
)


_COLUMNS = ("trial_id", "arm", "role", "number", "seed", "state", "score", "best_step", "steps", "seconds", "params")
DROPPED = "dropped"  # the state of a configuration that the race gave no further fold
Dropped = Collection[tuple[str, int]]  # arm and number


def columns_of_order(cells: Sequence[Cell]) -> list[str]:
    """Returns the columns of the table of trials that the order needs: the plans, which are long, only with folds."""
    return [*_COLUMNS, *(["plan"] if has_folds(cells) else [])]


@dataclass(frozen=True)
class RankedConfiguration:
    """The trials of a configuration that have ended, best first."""

    number: int
    trials: tuple[Row, ...]
    cells: tuple[Cell, ...]  # on which the search runs every configuration

    @property
    def best_trial(self) -> Row:
        """Its best trial."""
        return self.trials[0]

    @cached_property
    def complete_scores(self) -> list[float]:
        """The scores of its complete trials."""
        return [trial["score"] for trial in self.trials if _is_complete(trial)]

    @cached_property
    def is_complete(self) -> bool:
        """Says whether it is complete on every cell of the search."""
        complete = {cell_of(trial) for trial in self.trials if _is_complete(trial)}
        return bool(complete) and complete.issuperset(self.cells)

    @cached_property
    def is_unfinished(self) -> bool:
        """Says whether every trial so far is complete, while others are missing."""
        return not self.is_complete and all(_is_complete(trial) for trial in self.trials)

    @property
    def state(self) -> str:
        """Failed or stopped if any of its trials is, complete if all cells are, else running."""
        states = {trial["state"] for trial in self.trials}
        for state in (TrialState.FAILED, TrialState.STOPPED):
            if state in states:
                return state
        return TrialState.COMPLETE if self.is_complete else TrialState.RUNNING

    @cached_property
    def score(self) -> float | None:
        """The mean over its complete trials; without one, the score of its best trial unless that has failed."""
        if scores := self.complete_scores:
            return math.fsum(scores) / len(scores)
        return None if self.best_trial["state"] == TrialState.FAILED else _score(self.best_trial)

    @cached_property
    def order(self) -> tuple[Any, ...]:
        """Sorts configurations of an arm, the best first."""
        best = self.best_trial
        state = TrialState.COMPLETE if _is_complete(best) else best["state"]
        return not self.is_complete, _place(state), _descending(self.score), self.number


class ArmRanking:
    """The configurations of one arm, to which trials are added one by one."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Ranks configurations that the search runs on `cells`."""
        self._cells = tuple(cells)
        self._configurations: dict[int, RankedConfiguration] = {}
        self._orders: list[tuple[Any, ...]] = []  # of all configurations, sorted; an order ends with the number
        self._unfinished: dict[int, RankedConfiguration] = {}

    def add(self, trial: Row) -> None:
        """Takes a trial of role search that has ended."""
        number = trial["number"]
        earlier = self._configurations.get(number)
        trials = sorted([*(earlier.trials if earlier else ()), trial], key=lambda row: _trial_order(row, self._cells))
        if earlier is not None:
            del self._orders[bisect.bisect_left(self._orders, earlier.order)]
        configuration = RankedConfiguration(number, tuple(trials), self._cells)
        self._configurations[number] = configuration
        bisect.insort(self._orders, configuration.order)
        self._unfinished.pop(number, None)
        if configuration.is_unfinished:
            self._unfinished[number] = configuration

    def __iter__(self) -> Iterator[RankedConfiguration]:
        return iter([self._configurations[order[-1]] for order in self._orders])

    def trials(self) -> Iterator[Row]:
        """Yields all trials, in no particular order."""
        for configuration in self._configurations.values():
            yield from configuration.trials

    def first(self, count: int) -> list[RankedConfiguration]:
        """Returns the best `count` configurations that have a score."""
        ranked = (self._configurations[order[-1]] for order in self._orders)
        return list(islice((configuration for configuration in ranked if configuration.score is not None), count))

    def unfinished(self) -> list[RankedConfiguration]:
        """Returns the configurations that are to run on further seeds or folds, and those that the race has dropped."""
        return list(self._unfinished.values())


def rank_configurations(trials: Iterable[Row], cells: Sequence[Cell]) -> list[RankedConfiguration]:
    """Returns the configurations of one arm, best first, given its trials of role search."""
    ranking = ArmRanking(cells)
    for trial in trials:
        ranking.add(trial)
    return list(ranking)


def best_trial(trials: pa.Table, cells: Sequence[Cell], arm: str, number: int | None = None) -> dict[str, Any] | None:
    """Returns the row of an arm's best trial, `plan` and `params` parsed; None when no trial has a score.

    With `number` it is the best trial of that configuration. With selection `score` is that of the configuration, the
    mean over its folds, because the best of them says how easy its rows are.
    """
    place = _best_place(trials, cells, arm, number)
    if place is None:
        return None
    best: dict[str, Any] = trials.slice(place[0], 1).to_pylist()[0]
    if has_folds(cells):
        best["score"] = place[1]
    return best | {name: json.loads(best[name] or "{}") for name in ("plan", "params") if name in best}


def _best_place(
    trials: pa.Table, cells: Sequence[Cell], arm: str, number: int | None = None
) -> tuple[int, float | None] | None:
    """Returns the row number of an arm's best trial and the score of its configuration; None without one."""
    columns = [trials[name].to_pylist() for name in ("arm", "role", "number")]
    rows = [
        row
        for row, (its_arm, role, its_number) in enumerate(zip(*columns, strict=True))
        if its_arm == arm and role == TrialRole.SEARCH and number in (None, its_number)
    ]
    needed = trials.select(columns_of_order(cells))
    ours = _leaders(needed if len(rows) == len(needed) else _take(needed, rows), cells)
    numbered = [row | {"place": rows[row["place"]]} for row in ours]
    chosen = next((each for each in rank_configurations(numbered, cells) if each.score is not None), None)
    return None if chosen is None else (chosen.best_trial["place"], chosen.score)


def _leaders(trials: pa.Table, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Returns the rows that may be the best of an arm, each with its place in the table.

    These are all, but where configurations have one cell: then the complete trials of the highest score, if any.
    """
    pairs = list(zip(trials["state"].to_pylist(), trials["score"].to_pylist(), strict=True))
    places: Sequence[int] = range(len(pairs))
    if len(cells) == 1 and set(trials["seed"].to_pylist()) <= {cells[0].seed} and not has_folds(cells):
        complete = {row: score for row, (state, score) in enumerate(pairs) if _counts(state, score)}
        highest = max(complete.values(), default=None)
        places = [row for row, score in complete.items() if score == highest] or places
    if len(places) < len(pairs):
        return [trials.slice(place, 1).to_pylist()[0] | {"place": place} for place in places]
    return [row | {"place": place} for place, row in enumerate(trials.to_pylist())]


def _counts(state: str, score: float | None) -> bool:
    return state == TrialState.COMPLETE and score is not None and math.isfinite(score)


def best_trials(trials: pa.Table, cells: Sequence[Cell]) -> pa.Table:
    """Returns the rows of `trials` that are the best of their arm: the view `best`."""
    places = [_best_place(trials, cells, arm) for arm in dict.fromkeys(trials["arm"].to_pylist())]
    return _take(trials, sorted(place[0] for place in places if place is not None))


def _take(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Returns rows of a table; by way of a buffer, because pyarrow imports pandas when it makes an array of a list."""
    places = pa.py_buffer(array("q", rows))
    return table.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, places]))


def configurations(trials: pa.Table, cells: Sequence[Cell], dropped: Dropped = ()) -> pa.Table:
    """Returns a row for every configuration of every arm, best first: the view `configurations`."""
    arms: dict[str, list[Row]] = {}
    for row in trials.select(columns_of_order(cells)).to_pylist():
        if row["role"] == TrialRole.SEARCH:
            arms.setdefault(row["arm"], []).append(row)
    ranked = [(arm, configuration) for arm, rows in arms.items() for configuration in rank_configurations(rows, cells)]
    ranked.sort(key=lambda pair: (*pair[1].order[:-1], pair[0], pair[1].number))
    rows = [
        {"rank": rank, "arm": arm, **_row(configuration, is_dropped=(arm, configuration.number) in dropped)}
        for rank, (arm, configuration) in enumerate(ranked, 1)
    ]
    return pa.Table.from_pylist(rows, schema=CONFIGURATIONS)


def fold_error(scores: Sequence[float], overlap: float) -> float | None:
    """Returns the standard error of the mean of scores on folds; None for fewer than two.

    Trainings that share rows are correlated, so that sd / sqrt(n) is too small: sd sqrt(1/n + overlap), overlap being
    the rows that score over those that train (Nadeau and Bengio, Machine Learning 52, 2003, section 3).
    """
    import statistics  # only reports need it, and `status` is to start quickly

    return statistics.stdev(scores) * math.sqrt(1 / len(scores) + overlap) if len(scores) > 1 else None


def _row(configuration: RankedConfiguration, *, is_dropped: bool) -> dict[str, Any]:
    import statistics  # only reports need it, and `status` is to start quickly

    best, scores = configuration.best_trial, configuration.complete_scores
    return {
        "number": configuration.number,
        "trial_id": best["trial_id"],
        "state": DROPPED if is_dropped else str(configuration.state),
        "score": configuration.score,
        "sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "error": fold_error(scores, overlap_of(best)) if has_folds(configuration.cells) else None,
        "seeds": len(configuration.trials),
        "best_step": best["best_step"],
        "steps": max((trial["steps"] for trial in configuration.trials if trial["steps"] is not None), default=None),
        "seconds": math.fsum(trial["seconds"] or 0.0 for trial in configuration.trials),
        "params": best["params"],
    }


def _score(trial: Row) -> float | None:
    score = trial["score"]
    return score if score is not None and math.isfinite(score) else None


def _is_complete(trial: Row) -> bool:
    return _counts(trial["state"], trial["score"])


def _place(state: str) -> int:
    return [str(ended) for ended in ENDED_STATES].index(state)


def _descending(score: float | None) -> float:
    return math.inf if score is None else -score


def _trial_order(trial: Row, cells: Sequence[Cell]) -> tuple[Any, ...]:
    cell = cell_of(trial)
    place = cells.index(cell) if cell in cells else len(cells)
    return _score(trial) is None, _place(trial["state"]), _descending(_score(trial)), place, cell
