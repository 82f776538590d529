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

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import RunError, did_you_mean
from raysearch.storage.arm_choice import ArmChoice, best_arm
from raysearch.storage.best import best_trial, configurations
from raysearch.storage.cells import Cell, search_cells
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

_DATES = ["started", "ended"]  # making Python dates of them, pyarrow imports pandas, which takes 0.2 s


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
        search = self.search
        ensemble = [ENSEMBLE_ARM] if search.get("ensemble") else []
        return [MAIN_ARM, *search.get("baselines", {}), *ensemble]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The trainings by which every configuration is scored."""
        return search_cells(self.search)

    def dropped(self) -> set[tuple[str, int]]:
        """Returns arm and number of the configurations that the race gave no further fold."""
        events = self.events()
        rows = zip(*(events[name].to_pylist() for name in ("event", "detail")), strict=True)
        drops = (json.loads(detail).get("dropped") for event, detail in rows if event == EventName.TOLD)
        return {(drop["arm"], drop["number"]) for drop in drops if drop}

    def best_arm(self) -> ArmChoice | None:
        """Returns the arms by what they are compared by, the best first (see `storage.arm_choice`); None without."""
        return best_arm(self.trials(), self.cells, self.arms)

    def configurations(self) -> pa.Table:
        """Returns a row for every configuration of every arm, best first (see `storage.best.CONFIGURATIONS`)."""
        return configurations(self.trials(), self.cells, self.dropped())

    def seconds(self) -> float:
        """Returns the time spent on the search so far in s: the sum over its sessions."""
        events = self.events()
        times = [moment / 1e6 for moment in pc.cast(events["time"], pa.int64()).to_pylist()]  # see _DATES
        sessions = list(self._sessions(events))
        spent: float = sum(times[last] - times[first] for first, last in sessions)
        is_active = sessions and sessions[-1][1] == len(times) - 1 and writer_pid(self.path) is not None
        return spent + (time.time() - times[-1] if is_active else 0.0)

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
        search, trials, events = self.search, self.trials(), self.events()
        pid = writer_pid(self.path)
        if pid is not None:
            state, unfinished = RunState.RUNNING, TrialState.RUNNING
        else:
            state = RunState.FINISHED if self._is_finished(events) else RunState.INTERRUPTED
            unfinished = TrialState.INTERRUPTED
        best = best_trial(trials.drop_columns(_DATES), self.cells, MAIN_ARM)
        budget, seconds = search.get("budget", {}), self.seconds()
        drawn = len({plan["number"] for plan in planned_trials(events).values() if plan["arm"] == MAIN_ARM})
        left = {"trials": (budget.get("trials"), drawn), "seconds": (budget.get("seconds"), seconds)}
        return {
            "name": self.name,
            "path": str(self.path),
            "task": search.get("task", {}).get("name", ""),
            "state": str(state),
            "age": None if not len(events) else max(0.0, time.time() - _seconds(events["time"][-1])),
            "pid": pid,
            "arms": _count_trials(trials, events, self.arms[1:], unfinished),
            "best": best and {name: best[name] for name in ("trial_id", "score", "best_step", "params")},
            "metric": search.get("task", {}).get("metric", "score"),
            "waiting": waiting_trials(events) if pid is not None else [],
            "seconds": seconds,
            "left": {name: None if total is None else max(0, total - used) for name, (total, used) in left.items()},
        }

    def _sessions(self, events: pa.Table) -> Iterator[tuple[int, int]]:
        """Yields the first and the last event of each session that worked on the search."""
        starts = [i for i, event in enumerate(events["event"].to_pylist()) if event == EventName.OPENED]
        for start, end in pairwise([*starts, len(events)]):
            if json.loads(events["detail"][start].as_py())["purpose"] == SEARCH_PURPOSE:
                yield start, end - 1

    def _is_finished(self, events: pa.Table) -> bool:
        """Says whether the last session of the search has done all that there was to do."""
        names, sessions = events["event"].to_pylist(), list(self._sessions(events))
        return bool(sessions) and EventName.FINISHED in names[sessions[-1][0] : sessions[-1][1] + 1]


def _seconds(moment: pa.TimestampScalar) -> float:
    """Returns a time as seconds since 1970, without a Python date: see _DATES."""
    return float(pc.cast(moment, pa.int64()).as_py()) / 1e6


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
    # In Python, because pyarrow imports pandas too when it compares a column with a value.
    rows = zip(*(events[name].to_pylist() for name in ("event", "trial_id", "detail")), strict=True)
    return {trial_id: json.loads(detail)["plan"] for event, trial_id, detail in rows if event == EventName.ASKED}


def _count_trials(
    trials: pa.Table, events: pa.Table, baselines: list[str], unfinished: TrialState
) -> dict[str, dict[str, int]]:
    """Returns the number of trials of each arm by state; those that have not ended are `unfinished`."""
    states = dict(zip(trials["trial_id"].to_pylist(), trials["state"].to_pylist(), strict=True))
    arm_of = dict(zip(trials["trial_id"].to_pylist(), trials["arm"].to_pylist(), strict=True))
    arm_of |= {trial_id: plan["arm"] for trial_id, plan in planned_trials(events).items()}
    arms: dict[str, Counter[str]] = {arm: Counter() for arm in (MAIN_ARM, *baselines)}
    for trial_id, arm in arm_of.items():
        arms.setdefault(arm, Counter()).update([EventName.ASKED, states.get(trial_id, unfinished)])
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
