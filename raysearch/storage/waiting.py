"""Why the trials of a run wait that were handed out and are not running, from its events."""

from __future__ import annotations

import json

import pyarrow as pa

from raysearch.storage.states import EventName

_BEGINS = (EventName.ASKED, EventName.RESUMED, EventName.LOST)  # from then on the trial waits for a worker group
_ENDS = (EventName.STARTED, EventName.COMMITTED)


def waiting_trials(events: pa.Table) -> list[dict[str, str]]:
    """Returns `trial_id` and `why` of each trial that waits, in the order in which they began to.

    A trial waits from the time that it is handed out, or has lost its worker group, until a worker group starts it. The
    last reason that the driver has recorded for it counts. An empty `trial_id` stands for the trials that the search
    does not hand out yet.
    """
    columns = (events[name].to_pylist() for name in ("event", "trial_id", "detail"))
    waiting: dict[str, str] = {}
    for event, trial_id, detail in zip(*columns, strict=True):
        if event in (EventName.OPENED, EventName.CLOSED):  # of an earlier session
            waiting.clear()
        elif event in _BEGINS:
            waiting.pop(trial_id, None)
            lost = json.loads(detail).get("why", "").strip().splitlines() if event == EventName.LOST else []
            waiting[trial_id] = f"its worker group is lost: {lost[-1]}" if lost else "handed out a moment ago"
            waiting.pop("", None)
        elif event in _ENDS:
            waiting.pop(trial_id, None)
        elif event == EventName.WAITS:
            waiting[trial_id] = json.loads(detail)["why"]
    return [{"trial_id": trial_id, "why": why} for trial_id, why in waiting.items()]
