"""Reads a run's folder. It may be read while it is written, and needs neither ray nor torch.

    open_run("first").trials()         # pyarrow.Table; also evaluations(), weights(), predictions(),
                                       # events(), searches()
    open_run("first").best()           # the best trial, its plan and params parsed
    open_run("first").best_arm()       # the arms by their scores, the best first
    open_run("first").configurations() # all configurations, best first
    open_run("first").status()         # how far it is

A row that several attempts of a trial have written counts once: the last attempt's.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import RunError, did_you_mean
from raysearch.storage.arm_choice import ArmChoice, best_arm
from raysearch.storage.best import best_trial, columns_of_order, configurations
from raysearch.storage.cells import Cell, has_folds, search_cells
from raysearch.storage.journal import read_table
from raysearch.storage.lock import writer_pid
from raysearch.storage.schemas import ROW_KEYS
from raysearch.storage.states import (
    ENDED_STATES,
    ENSEMBLE_ARM,
    MAIN_ARM,
    SEARCH_PURPOSE,
    EventName,
    RunState,
    TrialState,
)
from raysearch.storage.waiting import waiting_trials


def open_run(name_or_path: str | Path, runs: str | Path = "runs") -> Run:
    """Returns the run of that name in the folder `runs`, or at that path. Raises RunError when there is none."""
    return Run(run_folder(name_or_path, runs))


def run_folder(name_or_path: str | Path, runs: str | Path = "runs") -> Path:
    """Returns the folder of the run of that name, or at that path. Raises RunError when there is none."""
    for folder in (Path(runs) / name_or_path, Path(name_or_path)):
        if (folder / "tables").is_dir():
            return folder
    raise RunError(f"no run {str(name_or_path)!r} in {runs}{did_you_mean(str(name_or_path), run_names(runs))}")


def run_names(runs: str | Path = "runs") -> list[str]:
    """Returns the runs of a folder, the one that was written last first."""
    folders = [tables.parent for tables in Path(runs).glob("*/tables") if not tables.parent.name.startswith(".")]
    return [folder.name for folder in sorted(folders, key=lambda folder: -_written_at(folder))]


def _written_at(folder: Path) -> float:
    log = folder / "log"
    return (log if log.is_dir() else folder / "tables").stat().st_mtime


@dataclass(frozen=True)
class Run:
    """The tables of a run, and how far it is. Every call reads the files again."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def search(self) -> dict[str, Any]:
        """The search as declared, with all defaults; empty until the run has begun."""
        specs = self.searches()["spec"].to_pylist()
        return json.loads(specs[-1]) if specs and specs[-1] else {}

    def searches(self) -> pa.Table:
        """Returns a row for each time that the search was declared: at its start, and when it was extended."""
        return read_table(self.path, "searches")

    def trials(self, *, params: bool = False) -> pa.Table:
        """Returns a row for every trial that has ended, in the order of their ends.

        With `params` there is a further column for each value that is drawn, named like its dimension; a name that the
        table has already begins with `params.`.
        """
        trials = read_table(self.path, "trials")
        return _with_params(trials) if params else trials

    def events(self) -> pa.Table:
        """Returns everything that happened, in order."""
        return read_table(self.path, "events")

    def evaluations(self, trial_id: str = "") -> pa.Table:
        """Returns every score of every trial, or of one trial, each once."""
        return self._rows_once("evaluations", trial_id)

    def weights(self, trial_id: str = "") -> pa.Table:
        """Returns the logged weights of objectives, primitives and tasks, of every trial or of one, each once."""
        return self._rows_once("weights", trial_id)

    def predictions(self, *trial_ids: str) -> pa.Table:
        """Returns what trials gave for the rows that scored them: of all that took all their steps, or of some."""
        return self._rows_once("predictions", *trial_ids)

    def _rows_once(self, table: str, *trial_ids: str) -> pa.Table:
        trials = self.trials()  # read before the rows: when a trial is there, so are its rows
        rows = read_table(self.path, table)
        if any(trial_ids):
            rows = rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(trial_ids, pa.string())))
        return rows_once(rows, table, trials)

    def best(self, arm: str = MAIN_ARM, number: int | None = None) -> dict[str, Any]:
        """Returns the row of the arm's best trial, its `plan` and `params` parsed; `storage.best` says which it is.

        With `number` it is the best trial of that configuration. Raises RunError when no trial has a score.
        """
        best = best_trial(self.trials(), self.cells, arm, number)
        if best is None:
            which = f"arm {arm!r}" if number is None else f"configuration {number} of arm {arm!r}"
            raise RunError(f"{self.path}: no trial of {which} has ended with a score")
        return best

    @property
    def arms(self) -> list[str]:
        """The arms in the order in which they are declared; an ensemble of them is the last."""
        return [MAIN_ARM, *_later_arms(self.search)]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The trainings by which every configuration is scored."""
        return search_cells(self.search)

    def dropped(self) -> set[tuple[str, int]]:
        """Returns arm and number of the configurations that the race gave no further fold."""
        if not has_folds(self.cells):
            return set()
        events = read_table(self.path, "events", ["trial_id", "event", "detail"])
        details = events["detail"].take(_rows_of(events, EventName.TOLD)).to_pylist()
        drops = (json.loads(detail).get("dropped") for detail in details)
        return {(drop["arm"], drop["number"]) for drop in drops if drop}

    def best_arm(self) -> ArmChoice | None:
        """Returns the arms by what they are compared by, the best first (see `storage.arm_choice`); None without."""
        return best_arm(self.trials(), self.cells, self.arms)

    def configurations(self) -> pa.Table:
        """Returns a row for every configuration of every arm, best first (see `storage.best.CONFIGURATIONS`)."""
        cells = self.cells
        return configurations(read_table(self.path, "trials", columns_of_order(cells)), cells, self.dropped())

    def seconds(self) -> float:
        """Returns the time spent on the search so far in s: the sum over its sessions."""
        return self._seconds(self.events())

    def _seconds(self, events: pa.Table) -> float:
        sessions, times = list(self._sessions(events)), events["time"]
        spent: float = sum(_seconds(times[last]) - _seconds(times[first]) for first, last in sessions)
        is_active = sessions and sessions[-1][1] == len(times) - 1 and writer_pid(self.path) is not None
        return spent + (time.time() - _seconds(times[-1]) if is_active else 0.0)

    @property
    def state(self) -> RunState:
        """Whether it is running, interrupted or finished."""
        if writer_pid(self.path) is not None:
            return RunState.RUNNING
        return RunState.FINISHED if self._is_finished(self.events()) else RunState.INTERRUPTED

    def status(self) -> dict[str, Any]:
        """Returns how far the run is, JSON-able.

        `state` is running, interrupted or finished. `arms` counts the trials of each arm: asked, running, interrupted,
        complete, stopped, failed. `left` is what remains of the budget: configurations of the search arm, and seconds.
        `age` is the time in s since the last event. `waiting` says of a running search why each trial that has no
        worker group waits (see `storage.waiting`).
        """
        search = self.search
        cells = search_cells(search)
        trials, events = read_table(self.path, "trials", columns_of_order(cells)), self.events()
        pid = writer_pid(self.path)
        if pid is not None:
            state, unfinished = RunState.RUNNING, TrialState.RUNNING
        else:
            state = RunState.FINISHED if self._is_finished(events) else RunState.INTERRUPTED
            unfinished = TrialState.INTERRUPTED
        best = best_trial(trials, cells, MAIN_ARM)
        budget, seconds = search.get("budget", {}), self._seconds(events)
        unfinished_plans = _unfinished_plans(trials, events)
        ours = zip(trials["number"].to_pylist(), trials["arm"].to_pylist(), strict=True)
        numbers = {number for number, arm in ours if arm == MAIN_ARM}
        drawn = len(numbers | {plan["number"] for plan in unfinished_plans if plan["arm"] == MAIN_ARM})
        left = {"trials": (budget.get("trials"), drawn), "seconds": (budget.get("seconds"), seconds)}
        return {
            "name": self.name,
            "path": str(self.path),
            "task": search.get("task", {}).get("name", ""),
            "state": str(state),
            "age": None if not len(events) else max(0.0, time.time() - _seconds(events["time"][-1])),
            "pid": pid,
            "arms": _count_trials(trials, unfinished_plans, _later_arms(search), unfinished),
            "best": best and {name: best[name] for name in ("trial_id", "score", "best_step", "params")},
            "metric": search.get("task", {}).get("metric", "score"),
            "waiting": waiting_trials(events) if pid is not None else [],
            "seconds": seconds,
            "left": {name: None if total is None else max(0, total - used) for name, (total, used) in left.items()},
        }

    def _sessions(self, events: pa.Table) -> Iterator[tuple[int, int]]:
        """Yields the first and the last event of each session that worked on the search."""
        starts = _rows_of(events, EventName.OPENED).to_pylist()
        for start, end in pairwise([*starts, len(events)]):
            if json.loads(events["detail"][start].as_py())["purpose"] == SEARCH_PURPOSE:
                yield start, end - 1

    def _is_finished(self, events: pa.Table) -> bool:
        """Says whether the last session of the search has done all that there was to do."""
        sessions = list(self._sessions(events))
        finished = _rows_of(events, EventName.FINISHED).to_pylist()
        return any(sessions[-1][0] <= row <= sessions[-1][1] for row in finished) if sessions else False


def _later_arms(search: dict[str, Any]) -> list[str]:
    """Returns the arms of a stored search beside that of the search proper."""
    return [*search.get("baselines", {}), *([ENSEMBLE_ARM] if search.get("ensemble") else [])]


def _rows_of(events: pa.Table, name: EventName) -> pa.Array:
    """Returns the numbers of the rows of one kind of event.

    By way of buffers, because pyarrow imports pandas when it compares a column with a value or makes a numpy array.
    """
    encoded = events["event"].combine_chunks().dictionary_encode()
    names, indices = encoded.dictionary.to_pylist(), encoded.indices
    code = names.index(name) if name in names else -1
    codes = np.frombuffer(indices.buffers()[1] or b"", np.int32)[indices.offset : indices.offset + len(indices)]
    rows = np.flatnonzero(codes == code).astype(np.int64)
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


def _seconds(moment: pa.TimestampScalar) -> float:
    """Returns a time as seconds since 1970; making a Python date of it, pyarrow would import pandas, in 0.2 s."""
    return float(moment.value) / 1e6


def _with_params(trials: pa.Table) -> pa.Table:
    """Returns the trials with a column for each dimension; values of several types are text."""
    drawn = [json.loads(params or "{}") for params in trials["params"].to_pylist()]
    for name in dict.fromkeys(name for params in drawn for name in params):
        values = [params.get(name) for params in drawn]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [value if value is None else float(value) for value in values]
        elif len(kinds) > 1:
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        trials = trials.append_column(f"params.{name}" if name in trials.column_names else name, pa.array(values))
    return trials


def planned_trials(events: pa.Table) -> dict[str, dict[str, Any]]:
    """Returns the plan of every trial that was ever handed out, by trial, in the order of handing out."""
    handed_out = events.select(["trial_id", "detail"]).take(_rows_of(events, EventName.ASKED))
    rows = zip(handed_out["trial_id"].to_pylist(), handed_out["detail"].to_pylist(), strict=True)
    return {trial_id: json.loads(detail)["plan"] for trial_id, detail in rows}


def _unfinished_plans(trials: pa.Table, events: pa.Table) -> list[dict[str, Any]]:
    """Returns the plans of the trials that were handed out and have no row in the table of trials."""
    rows, ended = _rows_of(events, EventName.ASKED), set(trials["trial_id"].to_pylist())
    names = events["trial_id"].take(rows).to_pylist()
    unfinished = {name: row for name, row in zip(names, rows.to_pylist(), strict=True) if name not in ended}
    return [json.loads(events["detail"][row].as_py())["plan"] for row in unfinished.values()]


def _count_trials(
    trials: pa.Table, unfinished_plans: list[dict[str, Any]], later_arms: list[str], unfinished: TrialState
) -> dict[str, dict[str, int]]:
    """Returns the number of trials of each arm by state; those that have not ended are `unfinished`."""
    arms: dict[str, Counter[str]] = {arm: Counter() for arm in (MAIN_ARM, *later_arms)}
    pairs = [*zip(trials["arm"].to_pylist(), trials["state"].to_pylist(), strict=True)]
    for arm, state in [*pairs, *((plan["arm"], unfinished) for plan in unfinished_plans)]:
        arms.setdefault(arm, Counter()).update([EventName.ASKED, state])
    columns = (EventName.ASKED, TrialState.RUNNING, TrialState.INTERRUPTED, *ENDED_STATES)
    return {arm: {str(name): count[name] for name in columns} for arm, count in arms.items()}


def rows_once(rows: pa.Table, table: str, trials: pa.Table) -> pa.Table:
    """Returns rows of a table, each once: the last attempt's, up to the step with which its trial was committed."""
    return _up_to_last_step(_last_attempts(rows, [key for key in ROW_KEYS[table] if key != "attempt"]), trials)


def _last_attempts(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Returns, of the rows with equal keys, the one of the last attempt, and of these the one that was written last."""
    total = len(rows)
    order = pc.add(pc.multiply(pc.cast(rows["attempt"], pa.int64()), max(total, 1)), pa.array(range(total), pa.int64()))
    last = rows.select(keys).append_column("_order", order).group_by(keys).aggregate([("_order", "max")])
    place = pc.subtract(last["_order_max"], pc.multiply(pc.divide(last["_order_max"], max(total, 1)), max(total, 1)))
    return rows.take(pc.take(place, pc.sort_indices(place)))


def _up_to_last_step(rows: pa.Table, trials: pa.Table) -> pa.Table:
    """Returns the rows without those after the step with which their trial was committed."""
    ends = pc.take(trials["steps"], pc.index_in(rows["trial_id"], value_set=trials["trial_id"].combine_chunks()))
    return rows.filter(pc.fill_null(pc.less_equal(rows["step"], ends), True))
