"""Broker: hands trials out to worker groups, takes what they say, passes stop flags on.

One for a search; plain asyncio here, an actor in `fleet`. A group is a set of ranks that take one trial after another:
every rank asks for its group's n-th trial, and all get the same. A group that is begun again, after the loss of a
rank, comes with a new epoch; what it was running is handed out again, until it has brought down too many groups.

What groups say is kept for two readers: `read_events` gives all of it, in order, to the driver, which records it;
`read_scores` gives a trial's scores to whoever schedules it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

NAMESPACE = "raysearch"  # of the actor
DEATHS = 2  # groups that a trial may bring down; then it has failed
BROKEN = 3  # times in a row that a group may come down without a trial to blame
LEAVE_SECONDS = 15.0  # ranks leave a trial together; one that waits longer for the others is not of one mind with them
ABSENT_SECONDS = 60.0  # a group that stays away for longer loses its trial to others
GROWTH = 2 << 30  # bytes that a rank's process may grow by before it is made anew

Kind = Literal["started", "reports", "lost", "ended", "broken"]


@dataclass(frozen=True)
class TrialEvent:
    """Something for the driver to record."""

    kind: Kind
    trial_id: str
    attempt: int
    time: float  # seconds since the epoch, by the broker's clock
    device: str = ""
    reports: tuple[Report, ...] = ()
    state: str = ""  # complete, stopped or failed
    why: str = ""


@dataclass(frozen=True)
class IntermediateScore:
    """A score for the scheduler."""

    step: int
    score: float  # the best so far
    replayed: bool


@dataclass(frozen=True)
class WorkerInfo:
    """One rank of a group, as it presents itself."""

    group: str
    epoch: str  # the same on all ranks, new each time that the group is begun
    rank: int
    world: int
    device: str
    plans: int  # how many trials its processes are good for


@dataclass(frozen=True)
class TrialOutcome:
    """How a rank saw the end of a trial."""

    state: TrialState  # complete, stopped or failed
    why: str
    error: str = ""  # what was raised, and where; alike on all ranks, or they cannot go on together


@dataclass
class Job:
    """A trial between `submit` and its end."""

    trial_id: str
    plan: str  # JSON
    attempt: int
    only: str  # the group that it is for; any if empty
    state: TrialState = TrialState.QUEUED
    stop: bool = False
    deaths: int = 0
    marks: list[IntermediateScore] = field(default_factory=list)
    endings: dict[int, TrialOutcome] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Is it still to end?"""
        return self.state in (TrialState.QUEUED, TrialState.RUNNING)


@dataclass
class Group:
    """Ranks that take one trial after another."""

    epoch: str
    device: str
    plans: int
    world: int
    handed: list[tuple[str, str, int]] = field(default_factory=list)  # trial_id, plan and attempt, in order
    at: Job | None = None
    memory: dict[int, int] = field(default_factory=dict)  # bytes of each rank when it came
    grown: bool = False


class Broker:
    """See the module; its methods wait without holding each other up."""

    def __init__(self) -> None:
        self._news = asyncio.Condition()
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._groups: dict[str, Group] = {}
        self._past: set[str] = set()  # epochs of groups that are no more
        self._failures: dict[str, int] = {}  # of each group, in a row, with no trial to blame
        self._notes: dict[str, str] = {}  # what is known of a group's loss
        self._said: deque[TrialEvent] = deque()
        self._taken = 0  # what the driver has seen, and is no longer in `_said`
        self._closed = False
        self._absent: set[asyncio.Task[None]] = set()

    # ---- the driver ----

    async def submit(self, trial_id: str, plan: str, attempt: int = 0, only: str = "") -> None:
        """Queue a trial, for any group or for one."""
        async with self._news:
            job = self._jobs[trial_id] = Job(trial_id, plan, attempt, only)
            self._queue.append(job)
            self._news.notify_all()

    async def stop(self, trial_id: str) -> None:
        """Have a trial leave at its next report."""
        async with self._news:
            if trial_id in self._jobs:
                self._jobs[trial_id].stop = True

    async def read_events(self, seen: int, patience: float = 1.0) -> list[TrialEvent]:
        """All that has been said after the first `seen` things; waits up to `patience` seconds for some."""
        async with self._news:
            while self._taken < seen:
                self._said.popleft()
                self._taken += 1
            await self._wait(lambda: bool(self._said), patience)
            return list(self._said)

    async def read_scores(self, trial_id: str, seen: int) -> tuple[list[IntermediateScore], str]:
        """A trial's marks after the first `seen`, and its state; waits until there is news.

        Tune's side of a trial may ask before the driver's `submit` has come, and then waits for that too. The state is
        queued or running, complete, stopped or failed, and "closed" when there will be no more news.
        """
        async with self._news:
            await self._wait(lambda: trial_id in self._jobs or self._closed)
            if trial_id not in self._jobs:
                return [], "closed"
            job = self._jobs[trial_id]
            await self._wait(lambda: len(job.marks) > seen or not job.open or self._closed)
            return job.marks[seen:], "closed" if job.open and self._closed else job.state

    async def close(self) -> None:
        """Have every group leave its trial unfinished at the next report, and end."""
        async with self._news:
            self._closed = True
            self._news.notify_all()

    # ---- the ranks ----

    async def next_trial(self, worker: WorkerInfo, place: int, memory: int) -> tuple[str, str, int] | None:
        """The group's trial number `place` as trial_id, plan and attempt; None when its processes are to end.

        `memory`: what this rank's process takes now, in bytes.
        """
        async with self._news:
            if worker.epoch in self._past:
                return None
            group = self._groups.get(worker.group)
            if group is None or group.epoch != worker.epoch:
                group = self._begin(worker)
            group.grown |= memory - group.memory.setdefault(worker.rank, memory) > GROWTH
            await self._wait(lambda: worker.epoch in self._past or self._decided(worker.group, group, place))
            return group.handed[place] if place < len(group.handed) and worker.epoch not in self._past else None

    def _begin(self, worker: WorkerInfo) -> Group:
        """A group that has come up; what it was running before it went down is handed out again."""
        self._lose(worker.group)
        group = Group(worker.epoch, worker.device, worker.plans, worker.world)
        self._groups[worker.group] = group
        return group

    def _decided(self, name: str, group: Group, place: int) -> bool:
        """Is it clear what the group's trial number `place` is, if any? Makes it clear when it can be."""
        if place < len(group.handed):
            return True
        if group.at is not None:
            return False
        if self._closed or group.grown or len(group.handed) >= group.plans:
            return True
        job = next((job for job in self._queue if job.only in ("", name)), None)
        if job is None:
            return name in self._jobs and not self._jobs[name].open  # a group of one trial, which has ended
        self._queue.remove(job)
        job.state, job.endings, group.at = TrialState.RUNNING, {}, job
        group.handed.append((job.trial_id, job.plan, job.attempt))
        self._failures[name] = 0
        self._say("started", job, device=group.device)
        return True

    async def add_reports(self, trial_id: str, attempt: int, reports: list[Report]) -> bool:
        """Take reports of a trial; is it to leave?"""
        async with self._news:
            job = self._jobs.get(trial_id)
            if job is None or job.attempt != attempt or job.state != TrialState.RUNNING:
                return True
            self._say("reports", job, reports=tuple(reports))
            for report in reports:
                score = report.evaluation.get("score")
                if score is not None and math.isfinite(score):
                    best = report.evaluation.get("best")
                    job.marks.append(IntermediateScore(report.step, score if best is None else best, report.replayed))
            return job.stop or self._closed

    async def finish_trial(self, worker: WorkerInfo, trial_id: str, attempt: int, ending: TrialOutcome) -> bool:
        """A rank is through with a trial; waits for the others. False if they are not of one mind: the group ends."""
        async with self._news:
            group, job = self._groups.get(worker.group), self._jobs.get(trial_id)
            if group is None or job is None or group.epoch != worker.epoch or job.attempt != attempt:
                return False
            endings = job.endings
            endings[worker.rank] = ending
            self._news.notify_all()
            await self._wait(lambda: len(endings) == group.world or worker.epoch in self._past, LEAVE_SECONDS)
            if len(endings) < group.world or len({ending.error for ending in endings.values()}) > 1:
                return False
            if group.at is job:
                self._through(group, job, endings[0])
            return True

    def _through(self, group: Group, job: Job, ending: TrialOutcome) -> None:
        """All ranks have left the trial alike."""
        group.at = None
        if ending.state == TrialState.STOPPED and not job.stop:
            job.state = TrialState.QUEUED  # the search was closed: a later driver goes on with it
        else:
            self._end(job, ending.state, ending.why)
        self._news.notify_all()

    # ---- groups that are lost ----

    async def report_group_failure(self, name: str, why: str) -> None:
        """A group has lost a rank, or could not begin; it is being begun again."""
        async with self._news:
            group = self._groups.get(name)
            if group is not None and group.at is not None:
                self._notes[name] = why
                away = asyncio.create_task(self._take_back(name, group))
                self._absent.add(away)
                away.add_done_callback(self._absent.discard)
                return
            self._failures[name] = self._failures.get(name, 0) + 1
            if self._failures[name] >= BROKEN and not self._closed:
                self._said.append(TrialEvent("broken", "", 0, time.time(), why=why))
                self._news.notify_all()

    async def _take_back(self, name: str, group: Group) -> None:
        """Give the trial of a group that stays away to others."""
        await asyncio.sleep(ABSENT_SECONDS)
        async with self._news:
            if self._groups.get(name) is group:
                self._lose(name)

    def _lose(self, name: str) -> None:
        """The group is no more: its trial goes to the head of the queue, or has failed."""
        group = self._groups.pop(name, None)
        if group is None:
            return
        self._past.add(group.epoch)
        job, note = group.at, self._notes.pop(name, "a worker was lost")
        if job is not None:
            why = next((ending.why for ending in job.endings.values() if ending.error), note)
            job.deaths += 1
            self._say("lost", job, why=why)
            if job.deaths >= DEATHS:
                self._end(
                    job, TrialState.FAILED, f"brought down its worker group {job.deaths} times; the last time: {why}"
                )
            else:
                job.attempt, job.state = job.attempt + 1, TrialState.QUEUED
                self._queue.appendleft(job)
        self._news.notify_all()

    # ---- saying and waiting ----

    def _end(self, job: Job, state: TrialState, why: str) -> None:
        job.state = state
        self._say("ended", job, state=state, why=why)

    def _say(self, kind: Kind, job: Job, **what: Any) -> None:
        self._said.append(TrialEvent(kind, job.trial_id, job.attempt, time.time(), **what))
        self._news.notify_all()

    async def _wait(self, known: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until `known`, or for so long."""
        try:
            await asyncio.wait_for(self._news.wait_for(known), seconds)
        except TimeoutError:
            return
