"""The trials and worker groups of a search, and every change of their state. `broker` adds the waiting.

A trial goes through these states (TrialState):

    from      what happens                                              to
    (new)     the driver submits it                                     queued
    queued    a worker group takes it                                   running
    running   all ranks report the same outcome                         complete, stopped or failed
    running   all ranks stopped only because the session closes         queued, for the next session
    running   its worker group is lost                                  queued, at the head, as the next attempt
    running   a host of its worker group is lost                        the same, however often
    running   its worker group is lost for the MAX_LOSSES-th time       failed
    running   the disk is full                                          queued, for the next session

A worker group keeps its name for the whole search. Each time that its processes start it gets a new epoch, under which
it registers with its first request; a request under an epoch that has ended gets no trial.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysearch.executors.capacity import QueueOverview
from raysearch.executors.messages import (
    Assignment,
    EventKind,
    IntermediateScore,
    TrialEvent,
    TrialOutcome,
    WorkerInfo,
)
from raysearch.formatting import format_count
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

MAX_LOSSES = 2  # worker groups that a trial may lose; then it has failed
MAX_FAILURES = 3  # times in a row that a worker group may fail while it has no trial, if no other one is up
LONGEST_PAUSE = 60.0  # seconds before a group that fails again and again is started again
MEMORY_GROWTH = 2 << 30  # bytes that a rank's process may grow by before the group's processes are replaced


@dataclass
class TrialEntry:
    """A trial, from `submit` on."""

    trial_id: str
    plan: str  # JSON
    attempt: int
    only_group: str  # the worker group that it is for; empty: any
    state: TrialState = TrialState.QUEUED
    is_to_stop: bool = False
    losses: list[frozenset[str]] = field(default_factory=list)  # nodes of the worker groups that were lost with it
    reported_step: int = -1  # of the last report of this attempt
    scores: list[IntermediateScore] = field(default_factory=list)
    outcomes: dict[int, TrialOutcome] = field(default_factory=dict)  # of this attempt, by rank

    @property
    def has_ended(self) -> bool:
        """Says whether it will not run again."""
        return self.state not in (TrialState.QUEUED, TrialState.RUNNING)


@dataclass
class GroupEntry:
    """A worker group between its start and its loss."""

    epoch: str
    device: str
    max_trials: int
    world: int
    assignments: list[Assignment] = field(default_factory=list)  # in order
    current_trial: TrialEntry | None = None
    memory: dict[int, int] = field(default_factory=dict)  # bytes of each rank's process when the group started
    has_grown: bool = False
    nodes: set[str] = field(default_factory=set)  # of its ranks
    is_lost: bool = False  # it has failed, and is not back yet: it gets no further trial


class EventLog:
    """Events in order, kept until the reader says that it has them."""

    def __init__(self) -> None:
        self._events: deque[TrialEvent] = deque()
        self._acknowledged = 0

    def add(self, event: TrialEvent) -> None:
        """Appends an event."""
        self._events.append(event)

    def acknowledge(self, count: int) -> None:
        """Drops the first `count` events ever added."""
        while self._acknowledged < count:
            self._events.popleft()
            self._acknowledged += 1

    def __len__(self) -> int:
        return len(self._events)

    def pending(self) -> list[TrialEvent]:
        """Returns the events that are not acknowledged."""
        return list(self._events)


def last_line(text: str) -> str:
    """Returns what a traceback ends with."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class TrialQueue:
    """Assigns trials to worker groups. Not thread-safe: the broker calls it under its lock."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` whenever something changes that a caller may be waiting for."""
        self._on_change = on_change
        self.trials: dict[str, TrialEntry] = {}
        self.groups: dict[str, GroupEntry] = {}
        self.events = EventLog()
        self.ended_epochs: set[str] = set()
        self.is_closed = False
        self._waiting: deque[TrialEntry] = deque()
        self._failures: Counter[str] = Counter()  # of each group, in a row, while it had no trial
        self._failure_reasons: dict[str, str] = {}
        self._loss_reasons: dict[str, str] = {}
        self._lost_nodes: dict[str, str] = {}  # names of hosts, by node

    def submit(self, trial: TrialEntry) -> None:
        """Queues a trial; one that was submitted before is not queued again."""
        if trial.trial_id in self.trials:
            return
        self.trials[trial.trial_id] = trial
        self._waiting.append(trial)
        self._on_change()

    def close(self) -> None:
        """Assigns nothing from now on."""
        self.is_closed = True
        self._on_change()

    def register(self, worker: WorkerInfo, memory: int) -> GroupEntry:
        """Returns the entry of a rank's group, new if it has just started; `memory` in bytes is what the rank uses."""
        group = self.groups.get(worker.group)
        if group is None or group.epoch != worker.epoch:
            self.remove_group(worker.group)  # what it ran before is assigned again
            group = self.groups[worker.group] = GroupEntry(worker.epoch, worker.device, worker.max_trials, worker.world)
        group.nodes.update([worker.node] if worker.node else [])
        group.has_grown |= memory - group.memory.setdefault(worker.rank, memory) > MEMORY_GROWTH
        return group

    def is_decided(self, name: str, group: GroupEntry, place: int) -> bool:
        """Says whether it is known what the group's trial number `place` is, if any; assigns one if one waits."""
        if place < len(group.assignments):
            return True
        if group.current_trial is not None:
            return False
        if self.is_closed or group.is_lost or group.has_grown or len(group.assignments) >= group.max_trials:
            return True
        trial = next((trial for trial in self._waiting if trial.only_group in ("", name)), None)
        if trial is None:
            return name in self.trials and self.trials[name].has_ended  # a group of one trial, which has ended
        self._waiting.remove(trial)
        trial.state, trial.outcomes, trial.reported_step = TrialState.RUNNING, {}, -1
        group.current_trial = trial
        group.assignments.append(Assignment(trial.trial_id, trial.plan, trial.attempt))
        self._failures.pop(name, None)
        self._add_event(EventKind.STARTED, trial, device=group.device)
        return True

    def add_reports(self, trial: TrialEntry, reports: list[Report]) -> None:
        """Passes on what a running trial reports; steps that it has reported before in this attempt count once."""
        reports = [report for report in reports if report.step > trial.reported_step]
        if not reports:
            return
        trial.reported_step = reports[-1].step
        self._add_event(EventKind.REPORTS, trial, reports=tuple(reports))
        for report in reports:
            score = report.evaluation.get("score")
            if score is not None and math.isfinite(score):
                best = report.evaluation.get("best")
                trial.scores.append(IntermediateScore(report.step, score if best is None else best, report.replayed))

    def settle(self, group: GroupEntry, trial: TrialEntry, outcomes: dict[int, TrialOutcome]) -> bool:
        """Ends a trial with the outcomes of its ranks; returns False when some are missing or their errors differ."""
        if len(outcomes) < group.world or len({outcome.error for outcome in outcomes.values()}) > 1:
            return False
        if group.current_trial is trial:
            group.current_trial = None
            if obstacle := _obstacle(outcomes):
                self._end_search(trial, obstacle)
            elif outcomes[0].state == TrialState.STOPPED and not trial.is_to_stop:
                trial.state = TrialState.QUEUED  # the session closes: a later one resumes the trial
            else:
                self._end(trial, outcomes[0].state, outcomes[0].why)
            self._on_change()
        return True

    def count_failure(self, name: str, why: str) -> float:
        """Counts a failure of a worker group that has no trial; returns the seconds before it is started again."""
        group = self.groups.pop(name, None)
        if group is not None:
            self.ended_epochs.add(group.epoch)
        if self.is_closed or (group is not None and self._lost_host(group.nodes)):
            return 0.0
        self._failures[name] += 1
        reason = self._failure_reasons[name] = last_line(why)
        times = self._failures[name]
        if times >= MAX_FAILURES and all(other.is_lost for other in self.groups.values()):
            self.events.add(TrialEvent(EventKind.BROKEN, "", 0, time.time(), why=reason))
        else:
            count = format_count(times, "time")
            again = f"worker group {name} has failed ({count} in a row) and starts again: {reason}"
            self.events.add(TrialEvent(EventKind.GROUP_FAILED, "", 0, time.time(), why=again))
        self._on_change()
        return min(LONGEST_PAUSE, 2.0 ** (times - 1)) if times > 1 else 0.0

    def note_loss(self, name: str, why: str) -> None:
        """Remembers why a worker group is lost, until it is removed; the first reason is the cause of the others."""
        self._loss_reasons.setdefault(name, why)
        if name in self.groups:
            self.groups[name].is_lost = True

    def lose_node(self, node: str, host: str) -> list[tuple[str, GroupEntry]]:
        """Takes note that a node is lost, which is no fault of a trial; returns the groups that had a rank there."""
        self._lost_nodes[node] = host
        groups = [(name, group) for name, group in self.groups.items() if node in group.nodes]
        for name, _ in groups:
            self._loss_reasons[name] = f"host {host} is lost"
            self.groups[name].is_lost = True
        return groups

    def _lost_host(self, nodes: Iterable[str]) -> str:
        return next((self._lost_nodes[node] for node in nodes if node in self._lost_nodes), "")

    def remove_group(self, name: str) -> None:
        """Ends the group's epoch; its trial returns to the head of the queue, or has failed."""
        group = self.groups.pop(name, None)
        if group is None:
            return
        self.ended_epochs.add(group.epoch)
        trial, reason = group.current_trial, self._loss_reasons.pop(name, "a worker was lost")
        if trial is not None:
            if obstacle := _obstacle(trial.outcomes):
                self._end_search(trial, obstacle)
                return
            why = next((outcome.why for outcome in trial.outcomes.values() if outcome.error), reason)
            why = reason if self._lost_host(group.nodes) else why
            trial.losses.append(frozenset(group.nodes))
            self._add_event(EventKind.LOST, trial, why=why)
            losses = sum(not self._lost_host(nodes) for nodes in trial.losses)
            if losses >= MAX_LOSSES:
                why = f"brought down its worker group {losses} times; the last time: {why}"
                self._end(trial, TrialState.FAILED, why)
            else:
                trial.attempt, trial.state = trial.attempt + 1, TrialState.QUEUED
                self._waiting.appendleft(trial)
        self._on_change()

    def _end_search(self, trial: TrialEntry, why: str) -> None:
        trial.state = TrialState.QUEUED  # a later session resumes it
        self._add_event(EventKind.LOST, trial, why=why)
        self._add_event(EventKind.BROKEN, trial, why=why)

    def _end(self, trial: TrialEntry, state: TrialState, why: str) -> None:
        trial.state = state
        self._add_event(EventKind.ENDED, trial, state=state, why=why)

    def _add_event(self, kind: EventKind, trial: TrialEntry, **details: Any) -> None:
        self.events.add(TrialEvent(kind, trial.trial_id, trial.attempt, time.time(), **details))
        self._on_change()


def _obstacle(outcomes: Mapping[int, TrialOutcome]) -> str:
    """Returns what stops every trial, if a rank has met with it."""
    return next((outcome.obstacle for outcome in outcomes.values() if outcome.obstacle), "")


def overview_of(queue: TrialQueue) -> QueueOverview:
    """Returns what tells why trials wait."""
    up = [group for group in queue.groups.values() if not group.is_lost]
    return QueueOverview(
        waiting=tuple((trial.trial_id, trial.attempt) for trial in queue._waiting),
        absent=tuple(
            (group.current_trial.trial_id, group.current_trial.attempt, last_line(queue._loss_reasons.get(name, "")))
            for name, group in queue.groups.items()
            if group.is_lost and group.current_trial is not None
        ),
        groups=len(up),
        busy=sum(group.current_trial is not None for group in up),
        failures={name: (times, queue._failure_reasons.get(name, "")) for name, times in queue._failures.items()},
    )
