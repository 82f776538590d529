"""The broker hands trials to worker groups, collects what they report, and passes on requests to stop.

A search has one. It is plain asyncio, and an actor in `worker_groups`. Every rank of a worker group asks for the
group's n-th trial, and all ranks get the same. The states of trials and groups are in `trial_queue`.

Two readers get what the groups report: `read_events` gives all events, in order, to the driver, which records them;
`read_scores` gives the scores of one trial to the scheduler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from raysearch.executors.capacity import QueueOverview
from raysearch.executors.messages import (
    CLOSED,
    Assignment,
    EventKind,
    IntermediateScore,
    TrialEvent,
    TrialOutcome,
    WorkerInfo,
)
from raysearch.executors.trial_queue import GroupEntry, TrialEntry, TrialQueue, overview_of
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

FINISH_SECONDS = 15.0  # ranks finish a trial together; one that waits longer for the others ends its group
ABSENT_SECONDS = 60.0  # a worker group that stays away for longer loses its trial to another group
RELEASE_SECONDS = 5.0  # the same, if it has lost a host; its other ranks have ended by then


class Broker:
    """See the module. A method that waits holds up no other."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._queue = TrialQueue(self._changed.notify_all)
        self._absences: set[asyncio.Task[None]] = set()

    # ---- for the driver and the scheduler ----

    async def submit(self, trial_id: str, plan: str, attempt: int = 0, only_group: str = "") -> None:
        """Queues a trial, for any worker group or for one."""
        async with self._changed:
            self._queue.submit(TrialEntry(trial_id, plan, attempt, only_group))

    async def stop(self, trial_id: str) -> None:
        """Makes a trial stop at its next report."""
        async with self._changed:
            if trial_id in self._queue.trials:
                self._queue.trials[trial_id].is_to_stop = True

    async def read_events(self, received: int, patience: float = 1.0) -> list[TrialEvent]:
        """Returns all events after the first `received`; waits up to `patience` seconds for one."""
        async with self._changed:
            self._queue.events.acknowledge(received)
            await self._wait(lambda: bool(self._queue.events), patience)
            return self._queue.events.pending()

    async def read_scores(self, trial_id: str, received: int) -> tuple[list[IntermediateScore], str]:
        """Returns a trial's scores after the first `received`, and its state; waits until there is something new.

        The scheduler may ask before the driver has submitted the trial, and then waits for that too. The state is a
        TrialState, or CLOSED when nothing new will come.
        """
        async with self._changed:
            queue = self._queue
            await self._wait(lambda: trial_id in queue.trials or queue.is_closed)
            if trial_id not in queue.trials:
                return [], CLOSED
            trial = queue.trials[trial_id]
            await self._wait(lambda: len(trial.scores) > received or trial.has_ended or queue.is_closed)
            is_over = queue.is_closed and not trial.has_ended
            return trial.scores[received:], CLOSED if is_over else trial.state

    async def close(self) -> list[str]:
        """Makes every worker group stop its trial, unfinished, at the next report, and end; returns the groups."""
        async with self._changed:
            self._queue.close()
            return [name for name, group in self._queue.groups.items() if not group.is_lost]

    # ---- for the ranks ----

    async def next_trial(self, worker: WorkerInfo, place: int, memory: int) -> Assignment | None:
        """Returns the group's trial number `place`, or None when the group's processes are to end.

        `memory`: bytes that this rank's process uses now.
        """
        async with self._changed:
            queue = self._queue
            if worker.epoch in queue.ended_epochs:
                return None
            group = queue.register(worker, memory)
            await self._wait(lambda: worker.epoch in queue.ended_epochs or queue.is_decided(worker.group, group, place))
            is_known = place < len(group.assignments) and worker.epoch not in queue.ended_epochs
            return group.assignments[place] if is_known else None

    async def add_reports(self, trial_id: str, attempt: int, reports: list[Report]) -> bool:
        """Takes reports of a trial; returns True when it is to stop."""
        async with self._changed:
            trial = self._queue.trials.get(trial_id)
            if trial is None or trial.attempt != attempt or trial.state != TrialState.RUNNING:
                return True
            self._queue.add_reports(trial, reports)
            return trial.is_to_stop or self._queue.is_closed

    async def finish_trial(self, worker: WorkerInfo, trial_id: str, attempt: int, outcome: TrialOutcome) -> bool:
        """Takes a rank's outcome of a trial and waits for the other ranks.

        Returns False if they do not come in time or report another error; the worker group must then restart.
        """
        async with self._changed:
            queue = self._queue
            group, trial = queue.groups.get(worker.group), queue.trials.get(trial_id)
            if group is None or trial is None or group.epoch != worker.epoch or trial.attempt != attempt:
                return False
            outcomes = trial.outcomes
            outcomes[worker.rank] = outcome
            self._changed.notify_all()
            await self._wait(lambda: len(outcomes) == group.world or worker.epoch in queue.ended_epochs, FINISH_SECONDS)
            return queue.settle(group, trial, outcomes)

    async def note_hang(self, name: str, why: str) -> None:
        """Takes note that a worker group ends its processes because its trial hangs."""
        async with self._changed:
            self._queue.note_loss(name, why)

    async def report_group_failure(self, name: str, why: str) -> None:
        """Takes note that a worker group has lost a rank or could not start; Ray Train starts it again afterwards.

        Returns after a pause if the group fails again and again.
        """
        async with self._changed:
            group = self._queue.groups.get(name)
            if group is None or group.current_trial is None:
                pause = self._queue.count_failure(name, why)
                await self._wait(lambda: self._queue.is_closed, pause)
                return
            self._queue.note_loss(name, why)
            self._expect(name, group, ABSENT_SECONDS)

    # ---- for what watches the cluster ----

    async def lose_host(self, node: str, host: str) -> None:
        """Takes note that a host is lost: trials that had a rank there go on elsewhere."""
        async with self._changed:
            for name, group in self._queue.lose_node(node, host):
                self._expect(name, group, RELEASE_SECONDS)
            self._changed.notify_all()

    async def tell(self, kind: EventKind, why: str, trial_id: str = "", attempt: int = 0) -> None:
        """Passes an event of the cluster to the driver."""
        async with self._changed:
            self._queue.events.add(TrialEvent(kind, trial_id, attempt, time.time(), why=why))
            self._changed.notify_all()

    async def overview(self) -> QueueOverview:
        """Returns what tells why trials wait."""
        async with self._changed:
            return overview_of(self._queue)

    def _expect(self, name: str, group: GroupEntry, patience: float) -> None:
        """Gives the trial of a worker group to another one, unless the group is back after `patience` seconds."""
        absence = asyncio.create_task(self._remove_if_absent(name, group, patience))
        self._absences.add(absence)
        absence.add_done_callback(self._absences.discard)

    async def _remove_if_absent(self, name: str, group: GroupEntry, patience: float) -> None:
        await asyncio.sleep(patience)
        async with self._changed:
            if self._queue.groups.get(name) is group:
                self._queue.remove_group(name)

    async def _wait(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Waits until `condition` holds, or for so many seconds."""
        try:
            await asyncio.wait_for(self._changed.wait_for(condition), seconds)
        except TimeoutError:
            return
