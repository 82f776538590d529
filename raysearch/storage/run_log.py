"""What happened in a run, a line an event: from the tables, so that it needs no process and no text file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import RunError, did_you_mean
from raysearch.formatting import format_duration
from raysearch.storage.states import EventName, TrialState

if TYPE_CHECKING:
    from raysearch.storage.run import Run


def log_lines(run: Run, trial_id: str = "") -> list[str]:
    """Returns a line for every event, in order; with `trial_id` those of one trial, its scores and why it ended.

    Raises RunError for a trial that the run does not have.
    """
    trials = {row["trial_id"]: row for row in run.trials().drop_columns(["started", "ended"]).to_pylist()}
    events = _rows(run.events())
    if not trial_id:
        return [_line(event, trials) for event in events if event["event"] != EventName.TOLD]
    known = {event["trial_id"] for event in events} - {""}
    if trial_id not in known:
        raise RunError(f"{run.name} has no trial {trial_id!r}{did_you_mean(trial_id, known)}")
    lines = [(event["time"], _line(event, trials)) for event in events if event["trial_id"] == trial_id]
    lines += [(row["time"], _score_line(row)) for row in _rows(run.evaluations(trial_id))]
    lines.sort(key=lambda entry: entry[0])
    return [line for _, line in lines] + list(_traceback(trials.get(trial_id)))


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Returns a table's rows; times are seconds since 1970, because Python dates would import pandas."""
    times = [(moment or 0) / 1e6 for moment in pc.cast(table["time"], pa.int64()).to_pylist()]
    return [row | {"time": time} for row, time in zip(table.drop_columns(["time"]).to_pylist(), times, strict=True)]


def _line(event: dict[str, Any], trials: dict[str, Any]) -> str:
    detail = json.loads(event["detail"] or "{}")
    words = [_time(event["time"]), event["event"], event["trial_id"], _explain(event, detail, trials)]
    return "  ".join(word for word in words if word)


def _explain(event: dict[str, Any], detail: dict[str, Any], trials: dict[str, Any]) -> str:
    """Returns what a reader wants to know of an event beyond its name."""
    row = trials.get(event["trial_id"])
    if event["event"] == EventName.COMMITTED and row:
        score = "no score" if row["score"] is None else f"{row['score']:.4f} at step {row['best_step']}"
        return f"{row['state']}: {score}, {format_duration(row['seconds'])}"
    if event["event"] == EventName.ASKED:
        params = detail.get("plan", {}).get("params", {})
        return " ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
        )
    if event["event"] == EventName.OPENED:
        return f"by process {detail.get('pid', '?')} on {detail.get('host', '?')}"
    return str(detail.get("why") or detail.get("device") or "")


def _score_line(row: dict[str, Any]) -> str:
    score = "-" if row["score"] is None else f"{row['score']:.4f}"
    loss = "" if row["train_loss"] is None else f", training loss {row['train_loss']:.4g}"
    return f"{_time(row['time'])}  step {row['step']}  {row['split']} {row['metric']} {score}{loss}"


def _traceback(row: dict[str, Any] | None) -> Iterator[str]:
    if row is not None and row["state"] == TrialState.FAILED:
        yield from str(row["why"]).rstrip().splitlines()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
