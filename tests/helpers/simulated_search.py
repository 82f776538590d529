"""A simulated search: the real study, recorder, ledger, broker and searcher; simulated workers, messages and time.

One seed gives one schedule, which is the same whenever it is run: what is drawn, how long everything takes, which
messages are late, lost or repeated, which workers die, and at which time or storage operation the driver does.
"""

import asyncio
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.faults import KINDS, Faults, ProcessEnds
from helpers.plans import MODEL
from helpers.simulated_network import ActorDiedError, Disorder, Network
from helpers.simulated_workers import INTERVAL, STEPS, Ground, Groups
from helpers.virtual_time import StandsStillError, VirtualLoop

from raysearch.config.search_config import Search
from raysearch.executors.broker import Broker
from raysearch.executors.messages import CLOSED
from raysearch.search import resume
from raysearch.search.event_intake import EventIntake
from raysearch.search.execution import _competing_evaluations
from raysearch.search.launch import _open_recorder
from raysearch.search.recorder import Recorder
from raysearch.search.tune_adapter import EXEMPT, REPLAYED, SCORE, STEP, TRIAL, AshaWithExemptions, StudySearcher
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run
from raysearch.storage.states import EventName

FAULTY_SESSIONS = 4  # after so many nothing goes wrong any more, and the search has to end
DEADLINE = 50_000.0  # virtual s that a schedule may take
POLL, PATIENT = 1.0, 5.0  # s between Tune's questions, and that a question for events waits for some
PREPARED: Any = SimpleNamespace(fingerprint="none", sizes={}, labels=("a", "b"))
ENDINGS = ("killed", "operation", "interrupted", "broker lost", "none")  # of a session
STATES = {"queued", "running"}


@dataclass(frozen=True)
class Scenario:
    """What a schedule is about."""

    search: Search
    groups: int
    world: int  # ranks of a group
    disorder: Disorder


class DriverInterruptedError(Exception):
    """Ctrl-C."""


def make_scenario(chance: random.Random, task: dict[str, str], searches: dict[str, Search]) -> Scenario:
    """Draws a search, worker groups, and how often things go wrong; `searches` keeps the searches that were made."""
    declared: dict[str, Any] = {
        "name": "simulated",
        "task": task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": STEPS, "eval_every": INTERVAL, "batch_size": 8},
        "dimensions": {"lr": {"float": [0.01, 0.9]}},
        "budget": {"trials": chance.choice([3, 5, 8])},
        "sampler": chance.choice(["random", "random", "tpe"]),
        "seeds": chance.choice([[0], [0, 1]]),
        "keep": chance.choice([0, 1]),
    }
    declared |= {"scheduler": {"asha": {"grace": 2, "reduction": 2}}} if chance.random() < 0.3 else {}
    declared |= {"confirm": {"seeds": [7]}} if chance.random() < 0.3 else {}
    key = json.dumps(declared)
    if key not in searches:
        searches[key] = Search.from_dict(declared)
    chances = [chance.choice([0.0, 0.01, 0.05]) for _ in range(3)]
    lives = [chance.choice([0.0, 40.0, 200.0]), chance.choice([0.0, 0.0, 150.0])]
    disorder = Disorder(*chances, *lives)
    return Scenario(searches[key], chance.choice([1, 2, 3]), chance.choice([1, 2]), disorder)


class Session:
    """A driver from its start to its end, with the cluster that it has started."""

    def __init__(self, scenario: Scenario, folder: Path, chance: random.Random, ground: Ground, ending: str) -> None:
        self.scenario, self.folder, self.chance, self.ground, self.ending = scenario, folder, chance, ground, ending
        self.broker, self.network = Broker(), Network(chance, scenario.disorder if ending else Disorder())
        names = [f"group-{number}" for number in range(scenario.groups)]
        self.groups = Groups(names, scenario.world, self.broker, self.network, ground)
        self.problems: list[str] = []
        self._watch_assignments()

    async def run(self) -> None:
        """Launches or resumes the search, and runs it until its end or that of the session."""
        loop = asyncio.get_running_loop()
        ledger = Ledger.open(self.folder, clock=loop.time)
        recorder = None
        try:
            before = resume.load_stored_search(self.folder)
            resume.mend(ledger, self.folder)
            recorder = _open_recorder(self.scenario.search, ledger, self.folder, PREPARED)
            resume.store(ledger, before, self.scenario.search, self.folder, PREPARED, None, "")
            if not recorder.done:
                await self._run_trials(recorder)
            ledger.event(EventName.FINISHED)
        except ProcessEnds:
            raise
        except Exception:
            await self._leave(recorder)
            raise
        else:
            await self._leave(recorder)
        finally:
            ledger_ends(ledger)

    async def _leave(self, recorder: Recorder | None) -> None:
        if recorder is not None:
            recorder.close()
        await self.groups.close(20.0)
        if recorder is not None:
            recorder.ledger.close()

    async def _run_trials(self, recorder: Recorder) -> None:
        """Does what `run_on_tune` does, with coroutines in the place of Tune and of threads."""
        self.groups.start()
        search = self.scenario.search
        scheduler = None
        if search.scheduler.stops_trials:
            scheduler = AshaWithExemptions(search.scheduler)
            scheduler.restore_rungs(_competing_evaluations(recorder))
        listening = asyncio.ensure_future(self._listen(recorder))
        tuning = asyncio.ensure_future(self._tune(recorder, scheduler))
        ending = asyncio.ensure_future(self._end())
        tasks = [listening, tuning, ending]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()

    async def _end(self) -> None:
        """Ends the session at a time of its own, if it is one that ends so."""
        if self.ending in ("", "none", "operation"):
            await asyncio.Event().wait()
        await asyncio.sleep(self.chance.choice([self.chance.uniform(0, 30), self.chance.uniform(0, 300)]))
        if self.ending == "interrupted":
            raise DriverInterruptedError
        if self.ending == "killed":
            raise ProcessEnds
        self.network.take_down()
        await asyncio.Event().wait()  # until the listener notices

    async def _listen(self, recorder: Recorder) -> None:
        intake = EventIntake(recorder, lambda _: None, asyncio.get_running_loop().time)
        while True:
            intake.take(await self.network.call(self.broker.read_events, intake.received, PATIENT))

    async def _tune(self, recorder: Recorder, scheduler: AshaWithExemptions | None) -> None:
        """Plays Ray Tune: asks for trials while there is room, and follows the scores of each."""
        workers: Any = self.groups
        searcher, following, number, is_finished = (
            StudySearcher(recorder, workers),
            list[asyncio.Task[None]](),
            0,
            False,
        )
        while True:
            for task in [task for task in following if task.done()]:
                task.result()
                following.remove(task)
            if is_finished and not following:
                return
            suggestion: Any = None
            if not is_finished and len(following) < self.scenario.groups:
                number += 1
                suggestion = searcher.suggest(f"tune-{number}")
                is_finished = suggestion == StudySearcher.FINISHED
            if isinstance(suggestion, dict):
                follow = self._follow(searcher, f"tune-{number}", suggestion, scheduler)
                following.append(asyncio.ensure_future(follow))
            else:
                await asyncio.sleep(POLL)

    async def _follow(
        self, searcher: StudySearcher, name: str, config: dict[str, Any], scheduler: AshaWithExemptions | None
    ) -> None:
        """Plays a trial of Tune's: relays scores to the scheduler, as `RelayTrainable` and Tune do."""
        trial, received, state = SimpleNamespace(trial_id=name), 0, "queued"
        nothing: Any = None
        if scheduler is not None:
            scheduler.on_trial_add(nothing, trial)
        while state in STATES:
            scores, state = await self.network.call(self.broker.read_scores, config[TRIAL], received)
            received += len(scores)
            for score in scores:
                result = {STEP: score.step, SCORE: score.score, REPLAYED: score.replayed, EXEMPT: config[EXEMPT]}
                if scheduler is not None and scheduler.on_trial_result(nothing, trial, result) == "STOP":
                    state = "stopped by the scheduler"
        if state != CLOSED:
            searcher.on_trial_complete(name)
        if scheduler is not None:
            scheduler.on_trial_remove(nothing, trial)

    def _watch_assignments(self) -> None:
        """Notes a problem when a trial is assigned to processes of which the broker knows that they are gone."""
        queue = self.broker._queue
        decide = queue.is_decided

        def is_decided(name: str, group: Any, place: int) -> bool:
            before = len(group.assignments)
            answer = decide(name, group, place)
            if len(group.assignments) > before and group.epoch in self.ground.failed_epochs:
                self.problems.append(f"{group.assignments[-1].trial_id} was assigned to a group that had failed")
            return answer

        queue.is_decided = is_decided  # type: ignore[method-assign]


def ledger_ends(ledger: Ledger) -> None:
    """Releases the lock, as the system does when a process ends."""
    ledger._lock.close()


@contextmanager
def storage_fault(folder: Path, chance: random.Random, ending: str) -> Iterator[Faults | None]:
    """Lets one storage operation of the driver go wrong, in a session that ends so."""
    if ending != "operation":
        yield None
        return
    number = int(chance.choice([chance.uniform(0, 60), chance.uniform(0, 400)]))
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Faults(monkeypatch, folder, chance.choice(KINDS), number)


async def play(scenario: Scenario, folder: Path, chance: random.Random, ground: Ground) -> tuple[list[str], int]:
    """Runs sessions until the search is finished; returns what went wrong, and how many sessions there were."""
    for number in range(1, 100):
        ending = chance.choice(ENDINGS) if number <= FAULTY_SESSIONS else ""
        session = Session(scenario, folder, chance, ground, ending)
        try:
            with storage_fault(folder, chance, ending):
                await session.run()
            return session.problems, number
        except (ProcessEnds, DriverInterruptedError, ActorDiedError):
            pass
        except Exception as error:
            if not ending:
                return [f"session {number}: {type(error).__name__}: {error}"], number
        finally:
            session.groups.abandon()
            session.network.take_down()
        if session.problems:
            return session.problems, number
        await asyncio.sleep(5.0)
    return ["it never ends"], number


def run_schedule(
    seed: int, task: dict[str, str], folder: Path, searches: dict[str, Search]
) -> tuple[list[str], Counter[str]]:
    """Runs the schedule of a seed in an empty folder; returns what is wrong, and how much happened."""
    chance = random.Random(seed)
    scenario, ground = make_scenario(chance, task, searches), Ground(folder / "run" / "trials")
    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)  # of tasks that were ended with their process
    with ExitStack() as ending:
        ending.callback(shutil.rmtree, folder / "run", ignore_errors=True)
        unsynced = ending.enter_context(pytest.MonkeyPatch.context())
        unsynced.setattr(os, "fsync", lambda _: None)  # no machine dies here, and real disks are slow
        try:
            playing = asyncio.wait_for(play(scenario, folder / "run", chance, ground), DEADLINE)
            problems, sessions = loop.run_until_complete(playing)
        except (StandsStillError, TimeoutError) as error:
            return [f"it stands still ({type(error).__name__})"], Counter()
        finally:
            end_loop(loop)
        run = open_run(folder / "run")
        problems += violations(run, scenario, ground)
        return problems, count_events(run, sessions, ground)


def end_loop(loop: VirtualLoop) -> None:
    """Ends what is left, and the loop."""
    for _ in range(20):
        left = asyncio.all_tasks(loop)
        if not left:
            break
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


def count_events(run: Run, sessions: int, ground: Ground) -> Counter[str]:
    """Returns how much happened in a schedule."""
    names = Counter(run.events()["event"].to_pylist())
    lost = names["lost"]
    return Counter(
        sessions=sessions, trials=names["committed"], lost=lost, epochs=ground.epochs, started=names["started"]
    )


def violations(run: Run, scenario: Scenario, ground: Ground) -> list[str]:
    """Returns which invariants do not hold after the end of a search."""
    rows, events = run.trials().to_pylist(), run.events().to_pylist()
    ids = [row["trial_id"] for row in rows]
    problems = [f"committed twice: {ids}"] if len(set(ids)) < len(ids) else []
    for name in ("asked", "committed", "told"):
        counts = Counter(event["trial_id"] for event in events if event["event"] == name)
        if counts != dict.fromkeys(ids, 1):
            problems.append(f"{name}: {dict(counts)}")
    problems += _wrong_budget(rows, scenario.search)
    evaluations = run.evaluations().to_pylist()
    for row in rows:
        problems += _wrong_trial(row, [each for each in evaluations if each["trial_id"] == row["trial_id"]], ground)
    for trial_id in ids:
        names = [event["event"] for event in events if event["trial_id"] == trial_id]
        if set(names[names.index("committed") :]) & {"started", "asked", "resumed"}:
            problems.append(f"{trial_id}: ran after it was committed: {names}")
    status = run.status()
    if status["state"] != "finished" or any(arm["running"] + arm["interrupted"] for arm in status["arms"].values()):
        problems.append(f"status: {status['state']} {status['arms']}")
    return problems


def _wrong_budget(rows: list[dict[str, Any]], search: Search) -> list[str]:
    configurations: dict[int, dict[int, str]] = {}
    for row in rows:
        if row["role"] == "search":
            configurations.setdefault(row["number"], {})[row["seed"]] = row["state"]
    if sorted(configurations) != list(range(search.budget.trials or 0)):
        return [f"configurations: {sorted(configurations)}"]
    problems = []
    for number, states in configurations.items():
        expected = set(search.seeds) if states.get(search.seeds[0]) == "complete" else {search.seeds[0]}
        if set(states) != expected:
            problems.append(f"configuration {number}: {states}")
    complete = any(len(s) == len(search.seeds) and set(s.values()) == {"complete"} for s in configurations.values())
    confirmed = sum(row["role"] == "confirm" for row in rows)
    if confirmed != (1 if complete and search.confirm else 0):
        problems.append(f"confirmed: {confirmed}")
    return problems


def _wrong_trial(row: dict[str, Any], evaluations: list[dict[str, Any]], ground: Ground) -> list[str]:
    name, steps = row["trial_id"], row["steps"] or 0
    problems = []
    if [each["step"] for each in evaluations] != list(range(INTERVAL, steps + 1, INTERVAL)):
        problems.append(f"{name}: steps {[each['step'] for each in evaluations]} of {steps}")
    plan = json.loads(row["plan"])
    if row["state"] == "complete" and (steps != STEPS or abs(row["score"] - (1 - plan["settings"]["lr"])) > 1e-9):
        problems.append(f"{name}: complete at step {steps} with {row['score']}")
    starts = sum(trial_id == name for trial_id, _ in ground.handouts)
    if ground.intervals[name] > STEPS // INTERVAL + max(0, starts - 1):  # each start loses less than one interval
        problems.append(f"{name}: trained {ground.intervals[name]} intervals in {starts} starts")
    never_began = starts < 1 and (row["state"] != "failed" or row["attempts"] < 2)  # lost twice on its way: failed
    if never_began or row["attempts"] > starts + ground.epochs:
        problems.append(f"{name}: started {starts} times, {row['attempts']} attempts in its row")
    return problems
