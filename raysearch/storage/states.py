"""The words that a run's tables store: states and roles of trials, names of events, the arm of the search.

Each is its own stored string, so that a value read from a table compares equal to the member. Imports nothing.
"""

from __future__ import annotations

from enum import StrEnum

MAIN_ARM = "search"  # the arm of the search proper; every other arm is a baseline
ENSEMBLE_ARM = "ensemble"  # the models of several arms averaged; it has rows in the tables, but trains nothing
SEARCH_PURPOSE = "search"  # of a session that works on the search; an export, for instance, has another purpose


class TrialState(StrEnum):
    """The state of a trial; the table of trials holds the last three."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # started, but no process works on it now
    COMPLETE = "complete"
    STOPPED = "stopped"  # by the scheduler
    FAILED = "failed"


ENDED_STATES = (TrialState.COMPLETE, TrialState.STOPPED, TrialState.FAILED)


class TrialRole(StrEnum):
    """What a trial is for."""

    SEARCH = "search"  # to compare configurations
    CONFIRM = "confirm"  # to repeat an arm's best configuration on a fresh seed
    REFIT = "refit"  # to train an arm's best configuration on all labelled rows, for export; it has no score


class RunState(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


class EventName(StrEnum):
    """What happened; the column `event` of the table of events."""

    OPENED = "opened"  # a process began to write to the run
    CLOSED = "closed"
    FINISHED = "finished"  # a session of the search did all that was left to do
    ASKED = "asked"  # a trial was handed out for the first time
    RESUMED = "resumed"  # a trial that an earlier session left unfinished was handed out again
    STARTED = "started"  # a worker group began the trial
    LOST = "lost"  # a worker group that ran the trial was lost
    WAITS = "waits"  # the trial, or the search, has waited for some seconds; the detail says what for
    HOST_LOST = "host_lost"  # a host of the cluster was lost
    HOST_JOINED = "host_joined"  # a host joined the cluster
    GROUP_FAILED = "group_failed"  # a worker group has failed while it had no trial, and was started again
    RESTARTED = "anew"  # a trial could not use its checkpoint and restarted from its first step
    COMMITTED = "committed"  # the trial's row was written
    FAILED = "failed"
    TOLD = "told"  # the trial's result was reported to the sampler
    OPENED_TEST = "opened_test"  # the test split was read to score the trial
