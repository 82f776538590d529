"""What workers, broker and driver tell each other. Imports neither ray nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

NAMESPACE = "raysearch"  # Ray's namespace of the broker
CLOSED = "closed"  # what `Broker.read_scores` returns as the state of a trial that this session will not end


class EventKind(StrEnum):
    """What a TrialEvent says."""

    STARTED = "started"  # a worker group has started the trial
    REPORTS = "reports"  # the trial was evaluated
    LOST = "lost"  # the worker group that ran the trial is lost
    ENDED = "ended"
    BROKEN = "broken"  # the search cannot continue: worker groups fail again and again, or the disk is full
    HOST_LOST = "host_lost"
    HOST_JOINED = "host_joined"
    GROUP_FAILED = "group_failed"  # a worker group has failed while it had no trial
    WAITS = "waits"  # a trial has no worker group, or the search hands out none; `why` says what for


CLUSTER_EVENTS = (EventKind.HOST_LOST, EventKind.HOST_JOINED, EventKind.GROUP_FAILED, EventKind.WAITS)


@dataclass(frozen=True)
class TrialEvent:
    """Something that the driver records."""

    kind: EventKind
    trial_id: str
    attempt: int
    time: float  # seconds since 1970, by the clock of the process that made the event
    device: str = ""
    reports: tuple[Report, ...] = ()
    state: str = ""  # how the trial ended: complete, stopped or failed
    why: str = ""


@dataclass(frozen=True)
class IntermediateScore:
    """A score of a running trial, for the scheduler."""

    step: int
    score: float  # the best so far
    replayed: bool  # reported before an interruption too


@dataclass(frozen=True)
class WorkerInfo:
    """One rank of a worker group, as it introduces itself to the broker."""

    group: str
    epoch: str  # the same on all ranks, and new each time that the group starts
    rank: int
    world: int
    device: str
    max_trials: int  # after so many trials the group's processes are replaced
    node: str = ""  # Ray's identifier of its host


@dataclass(frozen=True)
class TrialOutcome:
    """How one rank saw a trial end."""

    state: TrialState  # complete, stopped or failed
    why: str
    error: str = ""  # type and place of an exception; ranks whose errors differ cannot continue together
    obstacle: str = (
        ""  # what stops every trial, and not this one alone: the search ends, and this trial is resumed later
    )


class Assignment(NamedTuple):
    """A trial that a worker group is to run."""

    trial_id: str
    plan: str  # JSON
    attempt: int
