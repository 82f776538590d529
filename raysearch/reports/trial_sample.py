"""The search's configurations as a sample: what was drawn for each, and a response by which they are compared.

    n, C        configurations; cells (seeds, with selection folds) of the search
    S (n, C)    scores of complete trials, NaN where there is none
    y (n,)      the response: the mean score, or `beaten`
    beaten      share of the other configurations that one beats, each pair compared where both were: on their common
                cells, and at the last step that both trials took

The response is the score if every configuration has its final score on every cell. Otherwise it is `beaten`: a trial
that the scheduler stopped has no final score, and what it had then is compared with what the others had at that step
(the scores of Gehan's test for censored observations, Biometrika 52, 1965). A configuration that the race gave no
further fold is compared on the folds that it has. Failed trials have no score that counts and are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysearch.storage.cells import Cell, cell_of
from raysearch.storage.states import MAIN_ARM, TrialRole, TrialState

MOST = 1000  # configurations that are looked at; of more, so many are drawn at random
LEAST = 8  # configurations without which nothing is estimated
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Configurations of the search that have a response."""

    trial_ids: list[str]  # a trial of each
    params: list[dict[str, Any]]  # the drawn values of each
    plans: list[str]  # the plan of that trial, JSON
    S: Numbers  # (n, C)
    y: Numbers  # (n,)
    is_score: bool  # whether the response is the score
    total: int  # configurations of which these were drawn
    stopped: int  # of them, those that were not complete
    failed: int  # configurations that are left out

    def __len__(self) -> int:
        return len(self.y)

    def responses(self, v: Numbers) -> Numbers:
        """Returns the responses (B, n) where the cells count v (B, C) times; seeds change scores only."""
        if not self.is_score or self.S.shape[1] == 1:
            return np.broadcast_to(self.y, (len(v), len(self.y)))
        means: Numbers = (v @ self.S.T) / v.sum(axis=1, keepdims=True)
        return means


@dataclass(frozen=True)
class _Trial:
    """A trial that is complete or was stopped."""

    cell: Cell
    score: float
    steps: int
    is_complete: bool


def sample_configurations(trials: pa.Table, evaluations: pa.Table, cells: Sequence[Cell]) -> Sample | None:
    """Returns the search's configurations; None if fewer than LEAST have a response."""
    mask = pc.and_(pc.equal(trials["arm"], str(MAIN_ARM)), pc.equal(trials["role"], str(TrialRole.SEARCH)))
    rows = (
        trials.filter(mask)
        .select(["trial_id", "number", "seed", "state", "score", "steps", "params", "plan"])
        .to_pylist()
    )
    by_number: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_number.setdefault(row["number"], []).append(row)
    scored = {
        number: ended for number, each in by_number.items() if (ended := [row for row in each if _has_score(row)])
    }
    failed = len(by_number) - len(scored)
    numbers = sorted(scored)
    if len(numbers) > MOST:
        numbers = sorted(np.random.default_rng(0).choice(numbers, MOST, replace=False).tolist())
    if len(numbers) < LEAST:
        return None
    of_number = [{row["trial_id"]: _trial(row) for row in scored[number]} for number in numbers]
    S = _scores(of_number, cells)
    is_whole = not np.isnan(S).any()
    y = S.mean(axis=1) if is_whole else _beaten(of_number, S, evaluations)
    first = [scored[number][0] for number in numbers]
    return Sample(
        [row["trial_id"] for row in first],
        [json.loads(row["params"] or "{}") for row in first],
        [row["plan"] or "{}" for row in first],
        S,
        y,
        is_whole,
        len(scored),
        int(np.isnan(S).any(axis=1).sum()),
        failed,
    )


def _has_score(row: Mapping[str, Any]) -> bool:
    is_ended = row["state"] in (TrialState.COMPLETE, TrialState.STOPPED)
    return is_ended and row["score"] is not None and math.isfinite(row["score"])


def _trial(row: Mapping[str, Any]) -> _Trial:
    return _Trial(cell_of(row), row["score"], row["steps"] or 0, row["state"] == TrialState.COMPLETE)


def _scores(of_number: Sequence[Mapping[str, _Trial]], cells: Sequence[Cell]) -> Numbers:
    """Returns S, over the cells of the search and any others that trials have."""
    others = sorted({trial.cell for trials in of_number for trial in trials.values()} - set(cells))
    place = {cell: i for i, cell in enumerate([*cells, *others])}
    S = np.full((len(of_number), len(place)), np.nan)
    for i, trials in enumerate(of_number):
        for trial in trials.values():
            if trial.is_complete:
                S[i, place[trial.cell]] = trial.score
    return S[:, ~np.isnan(S).all(axis=0)] if not np.isnan(S).all() else S[:, :1]


def _beaten(of_number: Sequence[Mapping[str, _Trial]], S: Numbers, evaluations: pa.Table) -> Numbers:
    """Returns the share of the others that each configuration beats; a tie counts half."""
    known = ~np.isnan(S)
    filled = np.where(known, S, 0.0)
    common = known.astype(np.float64)
    lead = filled @ common.T - common @ filled.T  # summed over the cells on which both are complete
    met = common @ common.T
    for cell, stopped in _stopped_by_cell(of_number).items():
        _compare_stopped(lead, met, cell, stopped, of_number, evaluations)
    np.fill_diagonal(met, 0)
    wins = np.where(met > 0, (np.sign(np.round(lead, 12)) + 1) / 2, 0.0)
    pairs = (met > 0).sum(axis=1)
    share: Numbers = np.divide(wins.sum(axis=1), pairs, out=np.full(len(S), 0.5), where=pairs > 0)
    return share


def _stopped_by_cell(of_number: Sequence[Mapping[str, _Trial]]) -> dict[Cell, list[int]]:
    """Returns the configurations with a stopped trial, by that trial's cell."""
    stopped: dict[Cell, list[int]] = {}
    for i, trials in enumerate(of_number):
        for trial in trials.values():
            if not trial.is_complete:
                stopped.setdefault(trial.cell, []).append(i)
    return stopped


def _compare_stopped(
    lead: Numbers,
    met: Numbers,
    cell: Cell,
    stopped: Sequence[int],
    of_number: Sequence[Mapping[str, _Trial]],
    evaluations: pa.Table,
) -> None:
    """Adds to `lead` and `met` (n, n) the pairs of a cell of which one was stopped, at the step that both reached."""
    on_cell = {
        i: (name, each) for i, trials in enumerate(of_number) for name, each in trials.items() if each.cell == cell
    }
    curves = _curves(evaluations, {name for name, _ in on_cell.values()})
    ends = {i: min(trial.steps, curves[name][0][-1]) for i, (name, trial) in on_cell.items() if name in curves}
    for step in sorted({ends[i] for i in stopped if i in ends}):
        ended = [i for i in stopped if ends.get(i) == step]
        reached = [i for i, end in ends.items() if end > step or i in ended]
        values = np.array([_at(curves[on_cell[i][0]], step) for i in reached])
        for i in ended:
            difference = values[reached.index(i)] - values
            lead[i, reached] += difference
            met[i, reached] += 1
            later = [place for place, j in enumerate(reached) if j not in ended]
            lead[np.array(reached)[later], i] -= difference[later]
            met[np.array(reached)[later], i] += 1


def _curves(evaluations: pa.Table, trial_ids: set[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Returns steps and best scores so far of each trial on select_dev."""
    rows = evaluations.filter(
        pc.and_(
            pc.is_in(evaluations["trial_id"], value_set=pa.array(sorted(trial_ids), pa.string())),
            pc.equal(evaluations["split"], "select_dev"),
        )
    )
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for name, step, best in zip(*(rows[name].to_pylist() for name in ("trial_id", "step", "best")), strict=True):
        if best is not None and math.isfinite(best):
            steps, scores = curves.setdefault(name, ([], []))
            steps.append(step)
            scores.append(best)
    return {name: _in_order(*curve) for name, curve in curves.items()}


def _in_order(steps: list[int], scores: list[float]) -> tuple[list[int], list[float]]:
    order = sorted(range(len(steps)), key=lambda i: steps[i])
    return [steps[i] for i in order], [scores[i] for i in order]


def _at(curve: tuple[list[int], list[float]], step: int) -> float:
    """Returns the best score until a step; that of the first evaluation if it came later."""
    steps, scores = curve
    return scores[max(0, int(np.searchsorted(steps, step, side="right")) - 1)]
