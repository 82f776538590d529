"""Takes the broker's events, in order, into the recorder, and flushes the ledger once a second. Knows no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from raysearch.errors import RunError
from raysearch.executors.messages import CLUSTER_EVENTS, EventKind, TrialEvent
from raysearch.search.cluster_events import record_cluster_event
from raysearch.search.recorder import Recorder

FLUSH_SECONDS = 1.0  # events are on disk after so long


class EventIntake:
    """What a driver does with the events that it reads from the broker."""

    def __init__(
        self, recorder: Recorder, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` is called with what happens to the cluster; `clock` says in s when to flush."""
        self._recorder, self._tell, self._clock = recorder, tell, clock
        self._flushed = clock()
        self.received = 0  # events so far, which the broker need not send again

    def take(self, events: Iterable[TrialEvent]) -> None:
        """Records events, the next ones after `received`. Raises RunError when the search cannot continue."""
        for event in events:
            self.received += 1
            if event.kind == EventKind.BROKEN:
                is_of_trial = event.trial_id != ""  # which has met with what stops every trial
                raise RunError(event.why if is_of_trial else f"the worker groups fail again and again: {event.why}")
            if event.kind in CLUSTER_EVENTS:
                record_cluster_event(self._recorder.ledger, event, self._tell)
            else:
                self._recorder.handle(event)
        if self._clock() - self._flushed > FLUSH_SECONDS:
            self._recorder.ledger.flush()
            self._flushed = self._clock()
