"""What worker groups, the driver and the scheduler get from the broker; coroutines play the ranks."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from raysearch.executors import broker as module
from raysearch.executors import trial_queue
from raysearch.executors.broker import Broker
from raysearch.executors.messages import IntermediateScore, TrialEvent, TrialOutcome, WorkerInfo
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

COMPLETE = TrialOutcome(TrialState.COMPLETE, "")


def rank(number: int = 0, group: str = "g", epoch: str = "e0", world: int = 1, plans: int = 99) -> WorkerInfo:
    return WorkerInfo(group, epoch, number, world, "cpu", plans)


def report(step: int, score: float | None = 0.5, **more: Any) -> Report:
    return Report(step, {"score": score, "best": more.pop("best", score)}, None, **more)


def run_scene(scene: Callable[[Broker], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        await asyncio.wait_for(scene(Broker()), 10)

    asyncio.run(play())


async def read_event_summaries(broker: Broker, received: int = 0) -> list[tuple[str, str, int]]:
    return [(event.kind, event.trial_id, event.attempt) for event in await broker.read_events(received, 0.01)]


async def run_worker(broker: Broker, worker: WorkerInfo, assigned_trials: list[str]) -> None:
    """Plays a rank that takes trials until there are no more."""
    place = 0
    while (assignment := await broker.next_trial(worker, place, 0)) is not None:
        trial_id, _, attempt = assignment
        assigned_trials.append(trial_id)
        if worker.rank == 0:
            await broker.add_reports(trial_id, attempt, [report(1)])
        assert await broker.finish_trial(worker, trial_id, attempt, COMPLETE)
        place += 1


def test_all_ranks_of_a_worker_group_get_the_same_trials_once() -> None:
    async def scene(broker: Broker) -> None:
        assigned_trials: dict[tuple[str, int], list[str]] = {(g, r): [] for g in "ab" for r in range(3)}
        ranks = [run_worker(broker, rank(r, g, f"epoch of {g}", 3), assigned_trials[g, r]) for g, r in assigned_trials]
        working = asyncio.gather(*ranks)
        for number in range(20):
            await broker.submit(f"t{number}", "{}")
            await asyncio.sleep(0)
        while sum(kind == "ended" for kind, *_ in await read_event_summaries(broker)) < 20:
            await asyncio.sleep(0.01)
        await broker.close()
        await working
        for group in "ab":
            assert assigned_trials[group, 0] == assigned_trials[group, 1] == assigned_trials[group, 2]
        assert sorted(assigned_trials["a", 0] + assigned_trials["b", 0]) == sorted(f"t{n}" for n in range(20))

    run_scene(scene)


def test_read_events_repeats_ordered_events_until_acknowledged() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}", 3)
        assert await broker.next_trial(rank(), 0, 0) == ("t", "{}", 3)
        await broker.add_reports("t", 3, [report(1), report(2)])
        await broker.finish_trial(rank(), "t", 3, COMPLETE)
        whole = [("started", "t", 3), ("reports", "t", 3), ("ended", "t", 3)]
        assert await read_event_summaries(broker) == whole
        assert await read_event_summaries(broker) == whole
        assert await read_event_summaries(broker, 2) == whole[2:]
        assert await read_event_summaries(broker, 3) == []

    run_scene(scene)


def test_stop_takes_effect_at_the_next_report() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        assert not await broker.add_reports("t", 0, [report(1)])
        await broker.stop("t")
        assert await broker.add_reports("t", 0, [report(2)])
        await broker.finish_trial(rank(), "t", 0, TrialOutcome(TrialState.STOPPED, "stopped after step 2"))
        scores, state = await broker.read_scores("t", 0)
        assert [mark.step for mark in scores] == [1, 2]
        assert state == "stopped"

    run_scene(scene)


def test_scheduler_gets_only_finite_best_scores() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        scores = [report(1, 0.5, replayed=True), report(2, 0.3, best=0.5), report(3, None), report(4, float("nan"))]
        await broker.add_reports("t", 0, scores)
        assert await broker.read_scores("t", 0) == (
            [IntermediateScore(1, 0.5, True), IntermediateScore(2, 0.5, False)],
            "running",
        )

    run_scene(scene)


def test_restarted_worker_group_gets_its_trial_again() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.submit("u", "{}")
        await broker.next_trial(rank(), 0, 0)
        await broker.report_group_failure("g", "rank 1: killed")
        assert await broker.next_trial(rank(epoch="e1"), 0, 0) == ("t", "{}", 1)
        assert await broker.next_trial(rank(epoch="e0"), 1, 0) is None
        assert await broker.add_reports("t", 0, [report(1)]), "an attempt that is over must stop"
        assert not await broker.finish_trial(rank(), "t", 0, COMPLETE)
        assert await read_event_summaries(broker) == [("started", "t", 0), ("lost", "t", 0), ("started", "t", 1)]

    run_scene(scene)


def test_trial_that_crashes_two_worker_groups_fails() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.submit("u", "{}")
        for death in range(2):
            assert await broker.next_trial(rank(epoch=f"e{death}"), 0, 0) == ("t", "{}", death)
            await broker.report_group_failure("g", f"rank 0: killed, time {death}")
        assert await broker.next_trial(rank(epoch="e2"), 0, 0) == ("u", "{}", 0)
        ended = [event for event in await broker.read_events(0) if event.kind == "ended"]
        why = "brought down its worker group 2 times; the last time: rank 0: killed, time 1"
        assert [(event.trial_id, event.state, event.why) for event in ended] == [("t", "failed", why)]

    run_scene(scene)


def test_trial_of_absent_worker_group_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABSENT_SECONDS", 0.05)

    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        other = asyncio.create_task(broker.next_trial(rank(group="h", epoch="h0"), 0, 0))
        await broker.report_group_failure("g", "its node is gone")
        assert await other == ("t", "{}", 1)
        await broker.submit("u", "{}")
        assert await broker.next_trial(rank(epoch="e1"), 0, 0) == ("u", "{}", 0), (
            "the group is back and gets another trial"
        )
        assert await broker.finish_trial(rank(group="h", epoch="h0"), "t", 1, COMPLETE)

    run_scene(scene)


def test_error_on_all_ranks_fails_trial_and_keeps_worker_group() -> None:
    async def scene(broker: Broker) -> None:
        ranks = [rank(number, world=2) for number in range(2)]
        await broker.submit("t", "{}")
        for worker in ranks:
            await broker.next_trial(worker, 0, 0)
        failed = TrialOutcome(TrialState.FAILED, "Traceback ...", "OSError at here:1")
        assert await asyncio.gather(*(broker.finish_trial(worker, "t", 0, failed) for worker in ranks)) == [True, True]
        assert (await broker.read_scores("t", 0))[1] == "failed"
        await broker.submit("u", "{}")
        assert await broker.next_trial(ranks[1], 1, 0) == ("u", "{}", 0)

    run_scene(scene)


@pytest.mark.parametrize("other", [COMPLETE, TrialOutcome(TrialState.FAILED, "", "ValueError at there:2"), None])
def test_disagreeing_ranks_end_the_worker_group(other: TrialOutcome | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINISH_SECONDS", 0.05)

    async def scene(broker: Broker) -> None:
        ranks = [rank(number, world=2) for number in range(2)]
        await broker.submit("t", "{}")
        for worker in ranks:
            await broker.next_trial(worker, 0, 0)
        failed = TrialOutcome(TrialState.FAILED, "Traceback: OSError", "OSError at here:1")
        leaving = [broker.finish_trial(ranks[0], "t", 0, failed)]
        if other is not None:
            leaving.append(broker.finish_trial(ranks[1], "t", 0, other))
        assert not any(await asyncio.gather(*leaving))
        assert await broker.next_trial(replace(ranks[0], epoch="e1"), 0, 0) == ("t", "{}", 1)
        lost = next(event for event in await broker.read_events(0) if event.kind == "lost")
        assert lost.why == "Traceback: OSError"

    run_scene(scene)


def test_read_scores_waits_for_a_trial_not_yet_submitted() -> None:
    """The driver and the scheduler call the broker from two processes, and either may be first."""

    async def scene(broker: Broker) -> None:
        early = asyncio.create_task(broker.read_scores("t", 0))
        await asyncio.sleep(0.01)
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        await broker.add_reports("t", 0, [report(1)])
        assert (await early)[0] == [IntermediateScore(1, 0.5, False)]
        never = asyncio.create_task(broker.read_scores("never", 0))
        await asyncio.sleep(0.01)
        await broker.close()
        assert await never == ([], "closed")

    run_scene(scene)


def test_close_ends_worker_groups_and_leaves_trials_unfinished() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        waiting = asyncio.create_task(broker.next_trial(rank(group="h", epoch="h0"), 0, 0))
        watching = asyncio.create_task(broker.read_scores("t", 0))
        await asyncio.sleep(0)
        await broker.close()
        assert await waiting is None
        assert await watching == ([], "closed")
        assert await broker.add_reports("t", 0, [report(1)])
        assert await broker.finish_trial(rank(), "t", 0, TrialOutcome(TrialState.STOPPED, ""))
        assert await broker.next_trial(rank(), 1, 0) is None
        assert [kind for kind, *_ in await read_event_summaries(broker)] == ["started", "reports"]

    run_scene(scene)


@pytest.mark.parametrize("memory", [0, trial_queue.MEMORY_GROWTH + 1])
def test_worker_group_restarts_at_trial_or_memory_limit(memory: int) -> None:
    async def scene(broker: Broker) -> None:
        ranks = [rank(number, world=2, plans=2 if not memory else 99) for number in range(2)]
        for number in range(3):
            await broker.submit(f"t{number}", "{}")
        for place in range(2):
            for worker in ranks:
                assert await broker.next_trial(worker, place, 0) == (f"t{place}", "{}", 0)
            await asyncio.gather(*(broker.finish_trial(worker, f"t{place}", 0, COMPLETE) for worker in ranks))
        assert [await broker.next_trial(worker, 2, memory) for worker in ranks] == [None, None]
        assert await broker.next_trial(rank(epoch="e1"), 0, 0) == ("t2", "{}", 0)

    run_scene(scene)


def test_dedicated_worker_group_runs_only_its_trial_and_ends() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}", 0, "t")
        other = asyncio.create_task(broker.next_trial(rank(group="h", epoch="h0"), 0, 0))
        for death in range(2):
            assert await broker.next_trial(rank(group="t", epoch=f"e{death}", plans=1), 0, 0) == ("t", "{}", death)
        assert await broker.next_trial(rank(group="t", epoch="e2", plans=1), 0, 0) is None
        assert not other.done()
        other.cancel()

    run_scene(scene)


def test_repeated_worker_group_failures_are_reported_as_broken() -> None:
    async def scene(broker: Broker) -> None:
        for _ in range(2):
            await broker.report_group_failure("g", "no module named x")
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        await broker.finish_trial(rank(), "t", 0, COMPLETE)
        for _ in range(2):
            await broker.report_group_failure("g", "no module named x")
        assert "broken" not in [event.kind for event in await broker.read_events(0)]
        await broker.report_group_failure("g", "no module named x")
        last: TrialEvent = (await broker.read_events(0))[-1]
        assert (last.kind, last.why) == ("broken", "no module named x")

    run_scene(scene)


def test_trial_that_is_submitted_twice_runs_once() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.submit("t", "{}")
        assert await broker.next_trial(rank(0, "a", "a0"), 0, 0) == ("t", "{}", 0)
        await broker.submit("t", "{}")
        other = asyncio.ensure_future(broker.next_trial(rank(0, "b", "b0"), 0, 0))
        assert await broker.finish_trial(rank(0, "a", "a0"), "t", 0, COMPLETE)
        await broker.close()
        assert await other is None
        assert [kind for kind, *_ in await read_event_summaries(broker)] == ["started", "ended"]

    run_scene(scene)


def test_reports_that_arrive_twice_count_once() -> None:
    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(), 0, 0)
        for reports in ([report(1)], [report(1)], [report(1), report(2)], [report(1)]):
            assert not await broker.add_reports("t", 0, reports)
        events = await broker.read_events(0, 0.01)
        assert [[each.step for each in event.reports] for event in events] == [[], [1], [2]]
        assert len((await broker.read_scores("t", 0))[0]) == 2

    run_scene(scene)


def test_group_that_failed_while_it_waited_gets_no_trial() -> None:
    async def scene(broker: Broker) -> None:
        waiting = asyncio.ensure_future(broker.next_trial(rank(epoch="e0"), 0, 0))  # of a rank that is killed
        await asyncio.sleep(0.01)
        await broker.report_group_failure("g", "killed")
        await broker.submit("t", "{}")
        assert await waiting is None
        assert await broker.next_trial(rank(epoch="e1"), 0, 0) == ("t", "{}", 0)
        assert await read_event_summaries(broker) == [("group_failed", "", 0), ("started", "t", 0)]

    run_scene(scene)


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_disk_ends_the_search_and_no_trial_fails(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank waits for the one that has met with it, and says nothing."""
    monkeypatch.setattr(module, "FINISH_SECONDS", 0.01)
    full = TrialOutcome(TrialState.FAILED, "a traceback", "OSError at train:1", "No space left on device")

    async def scene(broker: Broker) -> None:
        await broker.submit("t", "{}")
        await broker.next_trial(rank(0, world=ranks), 0, 0)
        assert await broker.finish_trial(rank(0, world=ranks), "t", 0, full) == (ranks == 1)
        if ranks == 2:
            await broker.report_group_failure("g", "rank 0: RuntimeError")
            waiting = asyncio.ensure_future(broker.next_trial(rank(0, epoch="e1", world=2), 0, 0))
            await asyncio.sleep(0)
        events = await broker.read_events(0, 0.01)
        assert [event.kind for event in events] == ["started", "lost", "broken"]
        assert events[-1].why == "No space left on device"
        await broker.close()
        assert ranks == 1 or await waiting is None

    run_scene(scene)
