"""Simulated worker groups: ranks that train nothing, take time, keep checkpoints, die, hang and disagree.

They follow `worker_groups.serve` and Ray Train: a group whose rank is lost is started again, under a new epoch.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.simulated_network import ActorDiedError, Network

from raysearch.executors.broker import Broker
from raysearch.executors.messages import Assignment, TrialOutcome, WorkerInfo
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

STEPS, INTERVAL = 8, 2  # of every trial, and of its evaluations and checkpoints
START = (5.0, 15.0)  # s until a group's processes are up
TRAINING = (0.5, 5.0)  # s from one evaluation to the next
DETECTION = (0.0, 10.0)  # s until a controller notices that a rank is gone
HANG = 600.0  # s until the watchdog ends a rank
_make_folder = os.mkdir  # these files are those of other processes, which the driver's faults do not reach


class RankError(Exception):
    """A rank raises: its worker group has to start again."""


@dataclass
class Ground:
    """What really happened, whatever the broker and the tables say."""

    folder: Path  # of the trials
    intervals: Counter[str] = field(default_factory=Counter)  # trained, by trial, those that were lost again included
    handouts: list[tuple[str, int]] = field(default_factory=list)  # trial and attempt, as rank 0 got them
    failed_epochs: set[str] = field(default_factory=set)  # of which the broker was told that they failed
    epochs: int = 0


class Meeting:
    """The collectives of a worker group: every rank of the epoch has to come."""

    def __init__(self, world: int) -> None:
        self._world = world
        self._places: dict[Any, tuple[asyncio.Future[Any], list[int]]] = {}

    async def join(self, rank: int, place: Any, value: Any = None) -> Any:
        """Returns rank 0's value once all ranks are there."""
        future, ranks = self._places.setdefault(place, (asyncio.get_running_loop().create_future(), []))
        ranks.append(rank)
        if rank == 0:
            future.value = value  # type: ignore[attr-defined]
        if len(ranks) == self._world:
            future.set_result(None)
        await asyncio.shield(future)
        return future.value  # type: ignore[attr-defined]


class Rank:
    """One rank of a worker group in one epoch."""

    def __init__(self, worker: WorkerInfo, broker: Broker, network: Network, meeting: Meeting, ground: Ground) -> None:
        self.worker, self.broker, self.network, self.meeting, self.ground = worker, broker, network, meeting, ground

    async def serve(self) -> None:
        """Trains one trial after another until the broker has none left."""
        worker, broker, call = self.worker, self.broker, self.network.call
        place = 0
        while True:
            assignment: Assignment | None = await call(broker.next_trial, worker, place, 0)
            if assignment is None:
                return
            if worker.rank == 0:
                self.ground.handouts.append((assignment.trial_id, assignment.attempt))
            outcome = await self._train(assignment, place)
            if not await call(broker.finish_trial, worker, assignment.trial_id, assignment.attempt, outcome):
                raise RankError(outcome.why or "the other ranks have not finished the trial")
            place += 1

    async def _train(self, assignment: Assignment, place: int) -> TrialOutcome:
        plan, trial_id, rank = json.loads(assignment.plan), assignment.trial_id, self.worker.rank
        folder, chance = self.ground.folder / trial_id, self.network.chance
        case = CASES[plan["number"] % len(CASES)]
        start = await self.meeting.join(rank, (place, "start"), self._open(folder) if rank == 0 else None)
        done, starts = start
        unsent: list[Report] = []
        for step in range(INTERVAL, STEPS + 1, INTERVAL):
            if step > done:
                self.ground.intervals[trial_id] += rank == 0
                await asyncio.sleep(chance.uniform(*TRAINING))
                if step > STEPS // 2 and (outcome := await self._fail(case, starts, trial_id)):
                    return outcome
                await self.meeting.join(rank, (place, step, "gradients"))
                if rank == 0 and not _save(folder, step, starts):
                    raise RankError("the trial's folder is gone")
            unsent.append(make_report(plan, step, is_replayed=step <= done))
            if step <= done and step < STEPS:
                continue
            is_to_stop = False
            if rank == 0:
                is_to_stop = await self.network.call(self.broker.add_reports, trial_id, assignment.attempt, unsent)
            unsent = []
            is_to_stop = await self.meeting.join(rank, (place, step), is_to_stop)
            if is_to_stop and step < STEPS:
                return TrialOutcome(TrialState.STOPPED, f"stopped after step {step}")
        return TrialOutcome(TrialState.COMPLETE, "")

    def _open(self, folder: Path) -> tuple[int, int]:
        """Returns the step of the checkpoint, and how often the trial was started."""
        if not folder.exists():
            if not folder.parent.exists():
                _make_folder(folder.parent)
            _make_folder(folder)
        state = folder / "state.json"
        step, starts = json.loads(state.read_text()) if state.exists() else (0, 0)
        _save(folder, step, starts + 1)
        return step, starts + 1

    async def _fail(self, case: str, starts: int, trial_id: str) -> TrialOutcome | None:
        rank, world = self.worker.rank, self.worker.world
        if case == "raises":
            return TrialOutcome(TrialState.FAILED, "OSError: the disk is full", "OSError at train:1")
        if case == "one rank raises" and rank == world - 1 and starts == 1:
            return TrialOutcome(TrialState.FAILED, "OSError: only here", "OSError at train:2")
        if case == "hangs":
            await asyncio.sleep(HANG)
            await self.network.call(self.broker.note_hang, self.worker.group, f"{trial_id} hangs")
            raise RankError("exit code 75")
        return None


CASES = ("", "", "raises", "", "one rank raises", "", "hangs", "")  # by the configuration's number


def _save(folder: Path, step: int, starts: int) -> bool:
    if not folder.exists():
        return False
    (folder / "state.json").write_text(json.dumps((step, starts)))
    return True


def make_report(plan: dict[str, Any], step: int, *, is_replayed: bool) -> Report:
    """Returns what a trial reports at a step: its score rises, and depends on its plan alone."""
    score = (1 - plan["settings"]["lr"]) * step / STEPS
    evaluation = {"step": step, "phase": "joint", "split": "select_dev", "metric": plan["task"]["metric"]}
    evaluation |= {"score": score, "loss": 1 - score, "best": score, "lambda_e": 1.0, "seconds": float(step)}
    return Report(step, evaluation, None, replayed=is_replayed, last=step == STEPS)


class Groups:
    """The worker groups of a session; has what the searcher needs of `WorkerGroups`."""

    def __init__(self, names: list[str], world: int, broker: Broker, network: Network, ground: Ground) -> None:
        self.names, self.world, self.broker, self.network, self.ground = names, world, broker, network, ground
        self.is_closing, self.capacity = False, len(names)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts the groups."""
        self.tasks = [asyncio.ensure_future(self._run_group(name)) for name in self.names]

    def submit(self, trial_id: str, plan: Any, attempt: int) -> None:
        """Queues a trial."""
        self.network.send(self.broker.submit, trial_id, plan.to_json(), attempt)

    def stop(self, trial_id: str) -> None:
        """Makes a trial stop at its next report."""
        self.network.send(self.broker.stop, trial_id)

    async def close(self, patience: float) -> None:
        """Makes all groups stop and end, and waits for them at most `patience` seconds."""
        self.is_closing = True
        self.network.send(self.broker.close)
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=patience)
        self.abandon()

    def abandon(self) -> None:
        """Ends everything at once, as when the driver is gone."""
        for task in self.tasks:
            task.cancel()

    async def _run_group(self, name: str) -> None:
        """Runs a group again and again, as the driver's thread does; its controller may be killed."""
        call = self.network.call
        try:
            while not self.is_closing:
                life = self._life(self.network.disorder.controller_life)
                try:
                    await asyncio.wait_for(self._fit(name), life)
                except TimeoutError:
                    await self._report(call, name, "the controller is lost")
        except ActorDiedError:
            return

    async def _fit(self, name: str) -> None:
        """Plays Ray Train's controller: starts ranks, and starts them again when one is lost."""
        chance, ground = self.network.chance, self.ground
        while True:
            await asyncio.sleep(chance.uniform(*START))
            ground.epochs += 1
            epoch, meeting = f"epoch-{ground.epochs}", Meeting(self.world)
            workers = [WorkerInfo(name, epoch, rank, self.world, "cpu", 4) for rank in range(self.world)]
            ranks = [Rank(worker, self.broker, self.network, meeting, ground) for worker in workers]
            tasks = [asyncio.ensure_future(rank.serve()) for rank in ranks]
            try:
                why = await self._watch(tasks)
                if not why:
                    return
                await asyncio.sleep(chance.uniform(*DETECTION))
            finally:
                for task in tasks:
                    task.cancel()
            await self._report(self.network.call, name, why)

    async def _watch(self, tasks: list[asyncio.Task[None]]) -> str:
        """Returns why an epoch ends: empty if all ranks have returned."""
        life = self._life(self.network.disorder.rank_life)
        await asyncio.wait(tasks, timeout=life, return_when=asyncio.FIRST_EXCEPTION)
        raised = [task.exception() for task in tasks if task.done() and task.exception()]
        if any(isinstance(error, ActorDiedError) for error in raised):
            raise ActorDiedError
        if raised:
            return str(raised[0])
        if all(task.done() for task in tasks):
            return ""
        victim = self.network.chance.choice(tasks)
        victim.cancel()
        return "killed by SIGKILL"

    async def _report(self, call: Callable[..., Awaitable[Any]], name: str, why: str) -> None:
        """Tells the broker that a group has failed; the epoch that it knows is over."""
        entry = self.broker._queue.groups.get(name)
        await call(self.broker.report_group_failure, name, why)
        if entry is not None:
            self.ground.failed_epochs.add(entry.epoch)

    def _life(self, mean: float) -> float | None:
        return self.network.chance.expovariate(1 / mean) if mean else None
