"""Runs a search on Ray Tune: Tune asks our study for trials, follows their scores, and stops the weak ones.

A Tune trial computes nothing. It relays a trial's scores from the broker to Tune's scheduler, and its actor is used
again for the next trial. Tune's own folder is scratch: the ledger is the record, and a search resumes from it alone
(`Tuner.restore` would repeat finished trials and forget the scheduler's rungs).
"""

# ruff: noqa: ARG002 - Ray calls these methods with more arguments than they use
from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from raysearch.executors.messages import NAMESPACE, IntermediateScore
from raysearch.search.event_intake import EventIntake
from raysearch.storage.states import TrialState

if TYPE_CHECKING:  # Tune's trials import this module, and do not need torch
    from raysearch.config.sections import Scheduler
    from raysearch.executors.ray_cluster import Cluster
    from raysearch.executors.worker_groups import WorkerGroups
    from raysearch.search.recorder import Recorder

# Names in Tune's results and configurations; the prefix keeps them apart from Tune's own.
SCORE, STEP, REPLAYED, EXEMPT, STATE = "rs_score", "rs_step", "rs_replayed", "rs_exempt", "rs_state"
TRIAL, BROKER = "rs_trial", "rs_broker"
HELD_BACK_SECONDS = 3.0  # after which is recorded why there is no trial for a worker group that is free
LAST_STEP = 10**9  # the scheduler's last rung, beyond the end of every trial


# ---- what Tune calls ----


class RelayTrainable(tune.Trainable):
    """The Tune side of a trial."""

    def setup(self, config: dict[str, Any]) -> None:
        """Starts with the first trial of this actor."""
        self._broker: Any = ray.get_actor(config[BROKER], namespace=NAMESPACE)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Continues with another trial."""
        self._trial, self._exempt = new_config[TRIAL], new_config[EXEMPT]
        self._scores: deque[IntermediateScore] = deque()
        self._received, self._state = 0, str(TrialState.QUEUED)
        self._last: dict[str, Any] = {STEP: 0, SCORE: float("-inf"), REPLAYED: False}
        return True

    def step(self) -> dict[str, Any]:
        """Returns the next score, or the last one once more when the trial has ended."""
        while not self._scores and self._state in (TrialState.QUEUED, TrialState.RUNNING):
            answer: tuple[list[IntermediateScore], str]
            answer = ray.get(self._broker.read_scores.remote(self._trial, self._received))
            scores, self._state = answer
            self._received += len(scores)
            self._scores.extend(scores)
        is_over = not self._scores
        if self._scores:
            score = self._scores.popleft()
            self._last = {STEP: score.step, SCORE: score.score, REPLAYED: score.replayed}
        return {**self._last, EXEMPT: self._exempt, STATE: self._state, "done": is_over}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Saves nothing: our trials have checkpoints of their own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Loads nothing."""


class AshaWithExemptions(AsyncHyperBandScheduler):
    """Tune's asynchronous successive halving over our steps, with trials that it leaves alone.

    Exempt trials (baselines, further seeds, confirmations) are neither stopped nor compared with. A score that a
    resumed trial reports again is compared with, but does not stop the trial, because it did not before.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            max_t=LAST_STEP,
            grace_period=scheduler.grace,
            reduction_factor=scheduler.reduction,
        )

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decides whether a trial continues or stops."""
        if result[EXEMPT]:
            return str(TrialScheduler.CONTINUE)
        decision = super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.CONTINUE if result[REPLAYED] else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forgets the trial; its last result is not new."""
        self.on_trial_remove(tune_controller, trial)

    def restore_rungs(self, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Takes the evaluations of trials of earlier sessions, in the order in which they were recorded."""
        trials: dict[str, Any] = {}
        controller: Any = None  # Tune's, which this scheduler does not use
        for row in evaluations:
            trial_id = row["trial_id"]
            if trial_id not in trials:
                trials[trial_id] = SimpleNamespace(trial_id=trial_id)
                self.on_trial_add(controller, trials[trial_id])
            result = {STEP: row["step"], SCORE: row["best"], EXEMPT: False, REPLAYED: True}
            self.on_trial_result(controller, trials[trial_id], result)
        for trial in trials.values():
            self.on_trial_remove(controller, trial)


SCHEDULERS = {"asha": AshaWithExemptions}  # every declared scheduler that stops trials


class StudySearcher(Searcher):
    """Answers Tune's request for a trial with the next one of our study, and submits it to the worker groups."""

    def __init__(self, recorder: Recorder, workers: WorkerGroups) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._recorder, self._workers = recorder, workers
        self._trial_ids: dict[str, str] = {}  # ours, by Tune's
        self._held_back = ""  # why no trial is handed out, as it was told last
        self._since: float | None = None  # when a trial was wanted and there was none

    def tell_held_back(self) -> None:
        """Records why no trial is handed out, once this has lasted for a while."""
        why = self._recorder.study.held_back if self._since is not None else ""
        if why and why != self._held_back and time.monotonic() - (self._since or 0.0) > HELD_BACK_SECONDS:
            self._workers.tell_waiting(why)
            self._held_back = why

    def suggest(self, trial_id: str) -> Any:
        """Returns the next trial; None when there is none now, FINISHED when there will be none."""
        if len(self._trial_ids) >= self._workers.capacity:
            return None
        assignment = self._recorder.next_trial()
        if assignment is None:
            self._since = self._since or time.monotonic()
            return Searcher.FINISHED if self._recorder.done else None
        self._since, self._held_back = None, ""
        plan, attempt = assignment
        self._workers.submit(plan.trial_id, plan, attempt)
        self._trial_ids[trial_id] = plan.trial_id
        competes = self._recorder.study.competes(plan.arm, plan.role, plan.cell)
        return {TRIAL: plan.trial_id, EXEMPT: not competes}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: reports reach the recorder through the broker."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Stops the trial if it still runs: then Tune's scheduler has stopped it."""
        self._workers.stop(self._trial_ids.pop(trial_id))

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Accepts Tune's metric and mode, which are ours."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing in Tune's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing from Tune's folder."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes a copy of its parts to its folder


class HeartbeatCallback(tune.Callback):
    """Calls a function before each step of Tune's loop; what it raises ends the search."""

    def __init__(self, heartbeat: Callable[[], None]) -> None:
        self._heartbeat = heartbeat

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Calls the function."""
        self._heartbeat()

    def __getstate__(self) -> dict[str, Any]:
        return {}


# ---- the driver's side ----


class EventListener:
    """A thread that passes the broker's events to the recorder while it is entered."""

    def __init__(self, recorder: Recorder, broker: Any, tell: Callable[[str], None]) -> None:
        self._intake, self._broker = EventIntake(recorder, tell), broker
        self._problem: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)

    def __enter__(self) -> EventListener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def raise_problem(self) -> None:
        """Raises, in the caller's thread, what has gone wrong in this one."""
        if self._problem is not None:
            raise self._problem

    def _listen(self) -> None:
        try:
            while not self._over.is_set():
                self._intake.take(ray.get(self._broker.read_events.remote(self._intake.received)))
        except Exception as error:  # raised again in the driver's thread
            self._problem = error


@contextlib.contextmanager
def _ending(workers: WorkerGroups) -> Iterator[None]:
    """Lets the worker groups end at once when something is raised: Tune waits for its trials, and these for scores."""
    try:
        yield
    except BaseException:
        workers.request_end()
        raise


def run_on_tune(
    recorder: Recorder,
    workers: WorkerGroups,
    cluster: Cluster,
    *,
    evaluations: Iterable[Mapping[str, Any]],
    heartbeat: Callable[[], None],
    tell: Callable[[str], None],
) -> None:
    """Runs a search to its end on worker groups that have been started.

    `evaluations` are those of earlier sessions, of trials that compete; `heartbeat` is called all the time and ends the
    search by raising; `tell` prints a line for the user.
    """
    search = recorder.study.search
    scheduler: AshaWithExemptions | None = None  # first in, first out
    if search.scheduler.stops_trials:
        scheduler = SCHEDULERS[search.scheduler.name](search.scheduler)
        scheduler.restore_rungs(evaluations)
    listener = EventListener(recorder, workers.broker, tell)

    searcher = StudySearcher(recorder, workers)

    def check() -> None:
        with _ending(workers):
            heartbeat()
            listener.raise_problem()
            searcher.tell_held_back()

    tuner = tune.Tuner(
        tune.with_resources(RelayTrainable, cluster.slot),
        param_space={BROKER: workers.broker_name},
        tune_config=tune.TuneConfig(
            num_samples=-1,
            reuse_actors=True,
            search_alg=searcher,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(recorder.folder / "scratch" / "tune"),
            verbose=0,
            callbacks=[HeartbeatCallback(check)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with listener:
        tuner.fit()
        check()
