"""Follows the hosts of the cluster while a search runs, and says why trials wait.

A thread of the driver looks once a second. A host that is lost is told to the broker, so that the trials that had a
rank there go on elsewhere; where more worker groups fit than before, they are started. What the user should know goes
through the broker into the run's events, where `raysearch status` finds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from raysearch.config.sections import Resources
from raysearch.executors.capacity import (
    Host,
    QueueOverview,
    describe_needs,
    describe_room,
    fitting_groups,
    waiting_reasons,
)
from raysearch.executors.hosts import alive_hosts, free_amounts, has_unplaced_groups
from raysearch.executors.messages import EventKind
from raysearch.formatting import format_count

PERIOD = 1.0  # seconds
TELL_AFTER = 3.0  # seconds that a trial has waited, or waited for another reason, before it is told


class ClusterWatch:
    """Watches the cluster from `start` to `stop`."""

    def __init__(self, resources: Resources, broker: Any, start_groups: Callable[[int], None]) -> None:
        """Tells the `broker`, an actor, what happens, and starts as many groups as fit."""
        self._resources, self._broker, self._start_groups = resources, broker, start_groups
        self._hosts = {host.node: host for host in alive_hosts()}
        self._last_lost = ""
        self._reasons: dict[tuple[str, int], tuple[str, float, bool]] = {}  # why, since when, whether it was told
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hosts", daemon=True)

    @property
    def groups(self) -> int:
        """How many worker groups fit now."""
        return fitting_groups(self._resources, self._hosts.values())

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watching, soon."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD):
            try:
                self._follow_hosts()
                self._tell_waiting(ray.get(self._broker.overview.remote()))
            except Exception:  # the cluster, or the broker, is gone: the search ends for that reason
                if self._over.is_set() or not ray.is_initialized():
                    return

    def _follow_hosts(self) -> None:
        """Compares the hosts that are alive with those of the last time."""
        before, self._hosts = self._hosts, {host.node: host for host in alive_hosts()}
        for node in before.keys() - self._hosts.keys():
            self._last_lost = str(before[node])
            ray.get(self._broker.lose_host.remote(node, self._last_lost))
            self._tell(EventKind.HOST_LOST, f"host {self._last_lost} is lost; {self._describe_groups()}")
        for node in self._hosts.keys() - before.keys():
            self._last_lost = ""
            self._tell(EventKind.HOST_JOINED, f"host {self._hosts[node]} has joined; {self._describe_groups()}")
        if self._hosts.keys() != before.keys():
            self._start_groups(self.groups)

    def _describe_groups(self) -> str:
        if self.groups:
            return f"{format_count(self.groups, 'worker group')} fit on {format_count(len(self._hosts), 'host')}"
        room = describe_room(self._resources, list(self._hosts.values()))
        return f"no worker group fits: it takes {describe_needs(self._resources)}, and {room}; waiting for a host"

    def _tell_waiting(self, overview: QueueOverview) -> None:
        """Tells why trials wait, where they have waited for a while for the same reason."""
        hosts = list(self._hosts.values())
        reasons = waiting_reasons(
            overview,
            self._resources,
            hosts,
            lost=self._last_lost,
            is_free=overview.groups >= self.groups or self._is_free(),
        )
        now, before = time.monotonic(), self._reasons
        self._reasons = {}
        for trial, why in reasons.items():
            reason, since, is_told = before.get(trial, (why, now, False))
            since, is_told = (since, is_told) if reason == why else (now, False)
            if not is_told and now - since >= TELL_AFTER:
                self._tell(EventKind.WAITS, why, *trial)
                is_told = True
            self._reasons[trial] = why, since, is_told

    def _is_free(self) -> bool:
        """Says whether no group waits for CPUs or GPUs, or those of one more are free, on whichever hosts."""
        return not has_unplaced_groups() or fitting_groups(self._resources, [Host("", "", "", *free_amounts())]) > 0

    def _tell(self, kind: EventKind, why: str, trial_id: str = "", attempt: int = 0) -> None:
        ray.get(self._broker.tell.remote(kind, why, trial_id, attempt))
