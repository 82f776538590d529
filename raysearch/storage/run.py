"""Run: a run's folder, read. It may be read while it is written, and needs neither ray nor torch.

    open_run("first").trials()         # pyarrow.Table; also evaluations(), weights(), events(), searches()
    open_run("first").best()           # the winning trial, its plan and params parsed
    open_run("first").status()         # how far it is

What another attempt said again is said once: of rows that are one of a kind the last attempt's stays.
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
from raysearch.storage.best import best_trial, configurations
from raysearch.storage.journal import read_table
from raysearch.storage.ledger import ROW_KEYS, writer_pid
from raysearch.storage.states import ENDED_STATES, MAIN_ARM, EventName, RunState, TrialState

_DATES = ["started", "ended"]  # pyarrow imports pandas, which takes 0.2 s, when it makes Python dates


def open_run(name_or_path: str | Path, runs: str | Path = "runs") -> Run:
    """The run of that name in the folder `runs`, or at that path; RunError when there is none."""
    for folder in (Path(runs) / name_or_path, Path(name_or_path)):
        if (folder / "tables").is_dir():
            return Run(folder)
    known = run_names(runs)
    raise RunError(f"no run {str(name_or_path)!r} in {runs}{did_you_mean(str(name_or_path), known)}")


def run_names(runs: str | Path = "runs") -> list[str]:
    """The runs of a folder, the one that was written last first."""
    found = [tables.parent for tables in Path(runs).glob("*/tables")]
    return [folder.name for folder in sorted(found, key=lambda folder: -(folder / "log").stat().st_mtime)]


@dataclass(frozen=True)
class Run:
    """A run's tables and where it stands; every call reads anew."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def search(self) -> dict[str, Any]:
        """The search as declared, resolved; empty until the run has begun."""
        specs = self.searches()["spec"].to_pylist()
        return json.loads(specs[-1]) if specs and specs[-1] else {}

    def searches(self) -> pa.Table:
        """A row each time that the search was declared: begun, or extended."""
        return read_table(self.path, "searches")

    def trials(self) -> pa.Table:
        """A row for every trial that has ended, in the order of their ends."""
        return read_table(self.path, "trials")

    def events(self) -> pa.Table:
        """Everything that happened, in order."""
        return read_table(self.path, "events")

    def evaluations(self, trial_id: str = "") -> pa.Table:
        """Every score of every trial, or of one, each once."""
        return self._said("evaluations", trial_id)

    def weights(self, trial_id: str = "") -> pa.Table:
        """The weights of objectives, primitives and tasks at every step of every trial, or of one, each once."""
        return self._said("weights", trial_id)

    def _said(self, table: str, trial_id: str) -> pa.Table:
        trials = self.trials()  # before the rows: a trial's rows are there when it is
        rows = read_table(self.path, table)
        if trial_id:
            rows = rows.filter(pc.equal(rows["trial_id"], trial_id))
        return _within(_last_attempts(rows, [key for key in ROW_KEYS[table] if key != "attempt"]), trials)

    def best(self, arm: str = MAIN_ARM) -> dict[str, Any]:
        """Returns the row of the arm's best trial, its `plan` and `params` parsed; `storage.best` defines which it is.

        Raises RunError when no trial of the arm has a score.
        """
        best = best_trial(self.trials(), self.search.get("seeds", []), arm)
        if best is None:
            raise RunError(f"{self.path}: no trial of arm {arm!r} has ended with a score")
        return best

    def configurations(self) -> pa.Table:
        """Returns a row for every configuration of every arm, best first (see `storage.best.CONFIGURATIONS`)."""
        return configurations(self.trials(), self.search.get("seeds", []))

    def seconds(self) -> float:
        """Time spent on the search so far, all sessions, in s; what lies between sessions does not count."""
        events = self.events()
        times = [moment / 1e6 for moment in pc.cast(events["time"], pa.int64()).to_pylist()]  # see _DATES
        sessions = list(self._sessions(events))
        spent: float = sum(times[last] - times[first] for first, last in sessions)
        at_work = sessions and sessions[-1][1] == len(times) - 1 and writer_pid(self.path) is not None
        return spent + (time.time() - times[-1] if at_work else 0.0)

    def status(self) -> dict[str, Any]:
        """Where the run stands, JSON-able.

        `state` is running, interrupted or finished; `arms` counts trials: asked, running, interrupted, complete,
        stopped, failed; `left` is what the budget has left: configurations of the search arm, and seconds.
        """
        search, trials, events = self.search, self.trials(), self.events()
        pid = writer_pid(self.path)
        if pid is not None:
            state, unfinished = RunState.RUNNING, TrialState.RUNNING
        else:
            state = RunState.FINISHED if self._finished(events) else RunState.INTERRUPTED
            unfinished = TrialState.INTERRUPTED
        arms = _count(trials, events, list(search.get("baselines", {})), unfinished)
        best = best_trial(trials.drop_columns(_DATES), search.get("seeds", []), MAIN_ARM)
        budget, seconds = search.get("budget", {}), self.seconds()
        asked = len({plan["number"] for plan in planned_trials(events).values() if plan["arm"] == MAIN_ARM})
        left = {"trials": (budget.get("trials"), asked), "seconds": (budget.get("seconds"), seconds)}
        return {
            "name": self.name,
            "path": str(self.path),
            "state": state,
            "pid": pid,
            "arms": arms,
            "best": best and {name: best[name] for name in ("trial_id", "score", "best_step", "params")},
            "metric": search.get("task", {}).get("metric", "score"),
            "seconds": seconds,
            "left": {name: None if total is None else max(0, total - used) for name, (total, used) in left.items()},
        }

    def _sessions(self, events: pa.Table) -> Iterator[tuple[int, int]]:
        """First and last event of each session of the search."""
        opened = [i for i, event in enumerate(events["event"].to_pylist()) if event == EventName.OPENED]
        for begin, end in pairwise([*opened, len(events)]):
            if json.loads(events["detail"][begin].as_py())["purpose"] == "search":
                yield begin, end - 1

    def _finished(self, events: pa.Table) -> bool:
        """Did the last session of the search do all that was to do?"""
        names, sessions = events["event"].to_pylist(), list(self._sessions(events))
        return bool(sessions) and EventName.FINISHED in names[sessions[-1][0] : sessions[-1][1] + 1]


def planned_trials(events: pa.Table) -> dict[str, dict[str, Any]]:
    """The plan of every trial that was ever handed out, by trial, in the order of asking."""
    # In Python, because pyarrow imports pandas when it compares a column with a value, too.
    rows = zip(*(events[name].to_pylist() for name in ("event", "trial_id", "detail")), strict=True)
    return {trial_id: json.loads(detail)["plan"] for event, trial_id, detail in rows if event == EventName.ASKED}


def _count(trials: pa.Table, events: pa.Table, baselines: list[str], unfinished: str) -> dict[str, dict[str, int]]:
    ended = dict(zip(trials["trial_id"].to_pylist(), trials["state"].to_pylist(), strict=True))
    of_arm = dict(zip(trials["trial_id"].to_pylist(), trials["arm"].to_pylist(), strict=True))
    of_arm |= {trial_id: plan["arm"] for trial_id, plan in planned_trials(events).items()}
    arms: dict[str, Counter[str]] = {arm: Counter() for arm in (MAIN_ARM, *baselines)}
    for trial_id, arm in of_arm.items():
        arms.setdefault(arm, Counter()).update([EventName.ASKED, ended.get(trial_id, unfinished)])
    columns = (EventName.ASKED, TrialState.RUNNING, TrialState.INTERRUPTED, *ENDED_STATES)
    return {arm: {str(name): count[name] for name in columns} for arm, count in arms.items()}


def _last_attempts(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Of the rows with equal keys the one of the last attempt, and of those the one that was written last."""
    total = len(rows)
    order = pc.add(pc.multiply(pc.cast(rows["attempt"], pa.int64()), max(total, 1)), pa.array(range(total), pa.int64()))
    last = rows.select(keys).append_column("_order", order).group_by(keys).aggregate([("_order", "max")])
    at = pc.subtract(last["_order_max"], pc.multiply(pc.divide(last["_order_max"], max(total, 1)), max(total, 1)))
    return rows.take(pc.take(at, pc.sort_indices(at)))


def _within(rows: pa.Table, trials: pa.Table) -> pa.Table:
    """The rows that are not past the steps with which their trial was committed."""
    ends = pc.take(trials["steps"], pc.index_in(rows["trial_id"], value_set=trials["trial_id"].combine_chunks()))
    return rows.filter(pc.fill_null(pc.less_equal(rows["step"], ends), True))
