"""Rows of the table of trials that are lost, made again from the other tables.

A trial that was committed has an event that says so, with its state and score; its plan is in the event of its handing
out, and its steps are in the table of evaluations. What is not to be had again is the traceback of a failure.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from raysearch.storage.run import Run, planned_trials
from raysearch.storage.states import EventName, TrialState

REBUILT = "rebuilt from events and evaluations, because its row was lost"


def lost_trials(run: Run) -> list[dict[str, Any]]:
    """Returns the rows of the trials that were committed and are not in the table of trials, in the order of events."""
    events = run.events()
    in_table = set(run.trials()["trial_id"].to_pylist())
    pairs = zip(events["event"].to_pylist(), events["trial_id"].to_pylist(), strict=True)
    committed = dict.fromkeys(trial_id for event, trial_id in pairs if event == EventName.COMMITTED)
    lost = [trial_id for trial_id in committed if trial_id not in in_table]
    if not lost:
        return []
    rows = events.to_pylist()
    plans, evaluations = planned_trials(events), run.evaluations()
    return [_row(trial_id, plans[trial_id], rows, evaluations) for trial_id in lost if trial_id in plans]


def _row(trial_id: str, plan: dict[str, Any], events: list[dict[str, Any]], evaluations: pa.Table) -> dict[str, Any]:
    ours = [event for event in events if event["trial_id"] == trial_id]
    by_name = {event["event"]: event for event in ours}  # the last one of each name
    details = {name: json.loads(event["detail"] or "{}") for name, event in by_name.items()}
    scored = [row for row in evaluations.to_pylist() if row["trial_id"] == trial_id and row["split"] != "test"]
    last = max(scored, key=lambda row: row["step"], default={"step": 0, "seconds": None})
    state, score = details[EventName.COMMITTED]["state"], details[EventName.COMMITTED]["score"]
    steps = [row["step"] for row in scored if row["score"] == score]
    starts = [event for event in ours if event["event"] == EventName.STARTED]
    why = details.get(EventName.FAILED, {}).get("why") if state == TrialState.FAILED else None
    return {
        "trial_id": trial_id,
        "arm": plan["arm"],
        "role": plan["role"],
        "number": plan["number"],
        "seed": plan["seed"],
        "state": state,
        "why": f"{REBUILT}: {why}" if why else REBUILT,
        "score": score,
        "best_step": min(steps, default=None),
        "steps": last["step"],
        "attempts": 1 + max((event["attempt"] for event in starts), default=0),
        "started": starts[0]["time"] if starts else None,
        "ended": by_name[EventName.COMMITTED]["time"],
        "seconds": last["seconds"] or 0.0,
        "workers": plan.get("workers", 1),
        "device": details.get(EventName.STARTED, {}).get("device", ""),
        "params": json.dumps(plan["params"], sort_keys=True),
        "plan": json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
    }
