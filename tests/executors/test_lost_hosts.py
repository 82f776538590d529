"""What the broker does when a host is lost, and when worker groups fail to start."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from raysearch.executors import broker as module
from raysearch.executors.broker import Broker
from raysearch.executors.messages import EventKind, TrialEvent, WorkerInfo


def rank(group: str = "g", epoch: str = "e0", node: str = "n0") -> WorkerInfo:
    return WorkerInfo(group, epoch, 0, 1, "cpu", 99, node)


def run_scene(scene: Callable[[Broker], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        await asyncio.wait_for(scene(Broker()), 10)

    asyncio.run(play())


async def events_of(broker: Broker, kind: EventKind) -> list[TrialEvent]:
    return [event for event in await broker.read_events(0, 0.01) if event.kind == kind]


def test_trial_of_a_lost_host_goes_to_another_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RELEASE_SECONDS", 0.05)

    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        other = asyncio.create_task(broker.next_trial(rank("h", "h0", "n1"), 0, 0))
        await broker.lose_host("n0", "host0 (10.0.0.1)")
        assert (await broker.overview()).absent == (("t", 0, "host host0 (10.0.0.1) is lost"),)
        assert await other == ("t", "{}", 1)
        assert [event.why for event in await events_of(broker, EventKind.LOST)] == ["host host0 (10.0.0.1) is lost"]

    run_scene(scene)


def test_hosts_that_are_lost_are_no_fault_of_the_trial() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        for loss in range(5):
            assert await broker.next_trial(rank(epoch=f"e{loss}", node=f"n{loss}"), 0, 0) == ("t", "{}", loss)
            await broker.lose_host(f"n{loss}", "host0")
            await broker.report_group_failure("g", "rank 1: connection reset by peer")
        assert await broker.next_trial(rank(epoch="e5", node="n9"), 0, 0) == ("t", "{}", 5)
        assert await events_of(broker, EventKind.ENDED) == []

    run_scene(scene)


def test_loss_that_is_explained_afterwards_is_not_counted() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(node="n0"), 0, 0)
        await broker.report_group_failure("g", "rank 1: connection reset by peer")
        await broker.next_trial(rank(epoch="e1", node="n1"), 0, 0)
        await broker.lose_host("n0", "host0")
        await broker.report_group_failure("g", "rank 1: killed")
        assert await broker.next_trial(rank(epoch="e2", node="n1"), 0, 0) == ("t", "{}", 2)
        await broker.report_group_failure("g", "rank 1: killed")
        await broker.submit("u", "{}")
        assert await broker.next_trial(rank(epoch="e3", node="n1"), 0, 0) == ("u", "{}", 0)
        assert [event.why for event in await events_of(broker, EventKind.ENDED)] == [
            "brought down its worker group 2 times; the last time: rank 1: killed"
        ]

    run_scene(scene)


def test_groups_that_cannot_start_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysearch.executors.trial_queue.LONGEST_PAUSE", 0.01)

    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        for _ in range(3):
            await broker.report_group_failure("g", "Traceback\n  somewhere\nRuntimeError: no route to host\n")
        assert [event.why for event in await events_of(broker, EventKind.GROUP_FAILED)] == [
            "worker group g has failed (1 time in a row) and starts again: RuntimeError: no route to host",
            "worker group g has failed (2 times in a row) and starts again: RuntimeError: no route to host",
        ]
        assert [event.why for event in await events_of(broker, EventKind.BROKEN)] == ["RuntimeError: no route to host"]

    run_scene(scene)


def test_group_that_cannot_start_beside_others_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysearch.executors.trial_queue.LONGEST_PAUSE", 0.01)

    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank("sound"), 0, 0)
        for _ in range(5):
            await broker.report_group_failure("g", "no route to host")
        assert await events_of(broker, EventKind.BROKEN) == []
        assert len(await events_of(broker, EventKind.GROUP_FAILED)) == 5
        assert (await broker.overview()).failures == {"g": (5, "no route to host")}

    run_scene(scene)


def test_pause_of_a_failing_group_ends_when_the_search_closes() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank("sound"), 0, 0)
        for _ in range(2):
            pausing = asyncio.create_task(broker.report_group_failure("g", "no route to host"))
            await asyncio.sleep(0.01)
        assert not pausing.done()
        await broker.close()
        await asyncio.wait_for(pausing, 0.5)

    run_scene(scene)
