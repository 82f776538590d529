"""Records what happens to the cluster of a search, for `raysearch status` and for the user of the launch."""

from __future__ import annotations

from collections.abc import Callable

from raysearch.executors.messages import EventKind, TrialEvent
from raysearch.storage.ledger import Ledger
from raysearch.storage.states import EventName


def record_cluster_event(ledger: Ledger, event: TrialEvent, tell: Callable[[str], None]) -> None:
    """Writes an event of the cluster to the table of events, and tells the user unless it only says why a trial waits.

    It is on disk at once: whoever asks why a trial waits asks from another terminal.
    """
    name = EventName(event.kind.value)
    ledger.event(name, event.trial_id, event.attempt, {"why": event.why}, durable=True)
    if event.kind != EventKind.WAITS:
        tell(event.why)
