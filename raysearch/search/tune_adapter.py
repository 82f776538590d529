"""Tuning: Ray Tune asks our study what to try, hears how it goes, and stops the losers.

A Tune trial computes nothing: it relays a trial's scores from the broker to Tune's scheduler, and its actor is used
again for the next one. Tune's own folder is scratch; the ledger is the record, and a search is resumed from it alone
(`Tuner.restore` repeats finished trials and forgets the scheduler's rungs).
"""

# ruff: noqa: ARG002 - Ray calls these methods with more than they look at
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from raysearch.errors import RunError
from raysearch.executors.broker import NAMESPACE, IntermediateScore
from raysearch.storage.states import TrialState

if TYPE_CHECKING:  # Tune's trials import this module, and have no use for torch
    from raysearch.config.search_config import Search
    from raysearch.config.sections import Scheduler
    from raysearch.executors.worker_groups import Cluster, WorkerGroups
    from raysearch.plan import TrialPlan
    from raysearch.search.recorder import Recorder

SCORE, STEP, REPLAYED, EXEMPT, STATE = "rs_score", "rs_step", "rs_replayed", "rs_exempt", "rs_state"  # Tune has its own
TRIAL, BROKER = "rs_trial", "rs_broker"
FLUSH_SECONDS = 1.0  # what was said is on disk after so long
END = 10**9  # steps: the scheduler's last rung lies beyond all trials


# ---- what Tune sees ----


class RelayTrainable(tune.Trainable):
    """The Tune side of a trial."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first trial of this actor."""
        self._broker: Any = ray.get_actor(config[BROKER], namespace=NAMESPACE)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial."""
        self._trial, self._exempt = new_config[TRIAL], new_config[EXEMPT]
        self._marks: deque[IntermediateScore] = deque()
        self._seen, self._state = 0, str(TrialState.QUEUED)
        self._last: dict[str, Any] = {STEP: 0, SCORE: float("-inf"), REPLAYED: False}
        return True

    def step(self) -> dict[str, Any]:
        """The next score, or the end."""
        while not self._marks and self._state in (TrialState.QUEUED, TrialState.RUNNING):
            news: tuple[list[IntermediateScore], str] = ray.get(
                self._broker.read_scores.remote(self._trial, self._seen)
            )
            marks, self._state = news
            self._seen += len(marks)
            self._marks.extend(marks)
        over = not self._marks
        if self._marks:
            mark = self._marks.popleft()
            self._last = {STEP: mark.step, SCORE: mark.score, REPLAYED: mark.replayed}
        return {**self._last, EXEMPT: self._exempt, STATE: self._state, "done": over}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep: trials have checkpoints of their own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""


class AshaWithExemptions(AsyncHyperBandScheduler):
    """Tune's asynchronous successive halving, over our steps.

    Exempt trials (baselines, further seeds, confirmations) are neither stopped nor compared with. What a resumed trial
    says again is compared with, but does not stop it: it was not stopped for it before.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            max_t=END,
            grace_period=scheduler.grace,
            reduction_factor=scheduler.reduction,
        )

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, or stop."""
        if result[EXEMPT]:
            return str(TrialScheduler.CONTINUE)
        decision = super().on_trial_result(tune_controller, trial, result)
        return str(TrialScheduler.CONTINUE if result[REPLAYED] else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing new is said at the end of a trial."""
        self.on_trial_remove(tune_controller, trial)

    def remember(self, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Take up the evaluations of trials of earlier sessions, in the order in which they came."""
        known: dict[str, Any] = {}
        nobody: Any = None  # Tune's controller, which this scheduler never asks
        for row in evaluations:
            trial_id = row["trial_id"]
            if trial_id not in known:
                known[trial_id] = SimpleNamespace(trial_id=trial_id)
                self.on_trial_add(nobody, known[trial_id])
            result = {STEP: row["step"], SCORE: row["best"], EXEMPT: False, REPLAYED: True}
            self.on_trial_result(nobody, known[trial_id], result)
        for trial in known.values():
            self.on_trial_remove(nobody, trial)


class StudySearcher(Searcher):
    """Tune's way to the study."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._driver = driver
        self._trials: dict[str, str] = {}  # Tune's trial -> ours

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None when there is none now, FINISHED when there will be none."""
        asked = self._driver.ask()
        if asked is None:
            return Searcher.FINISHED if self._driver.recorder.done else None
        self._trials[trial_id] = asked.trial_id
        competes = self._driver.recorder.study.competes(asked.arm, asked.role, asked.seed)
        return {TRIAL: asked.trial_id, EXEMPT: not competes}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Reports go to the driver by the broker."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune has no more use for the trial: if it is still running, it was stopped."""
        self._driver.fleet.stop(self._trials.pop(trial_id))

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        """Metric and mode are ours."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing of value is in Tune's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """And nothing is read from it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes a copy of its parts to its folder


class HeartbeatCallback(tune.Callback):
    """Lets the driver in between two steps of Tune's loop."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raises what has gone wrong elsewhere."""
        self._beat()

    def __getstate__(self) -> dict[str, Any]:
        return {}


# ---- the driver ----


class Driver:
    """Keeps study, Tune and fleet together for one session."""

    def __init__(
        self, search: Search, recorder: Recorder, fleet: WorkerGroups, cluster: Cluster, beat: Callable[[], None]
    ) -> None:
        """`beat` is called all the time, and ends the search by raising."""
        self.search, self.recorder, self.fleet, self.cluster, self._beat = search, recorder, fleet, cluster, beat
        self._problem: BaseException | None = None
        self._over = threading.Event()

    def run(self, folder: Path, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Run the search to its end; `evaluations` of earlier sessions, of trials that Tune scheduled."""
        scheduler: TrialScheduler | None = None  # first in, first out
        if self.search.scheduler.name == "asha":
            scheduler = rungs = AshaWithExemptions(self.search.scheduler)
            rungs.remember(evaluations)
        tuner = tune.Tuner(
            tune.with_resources(RelayTrainable, self.cluster.slot),
            param_space={BROKER: self.fleet.name},
            tune_config=tune.TuneConfig(
                num_samples=-1,
                max_concurrent_trials=self.cluster.groups,
                reuse_actors=True,
                search_alg=StudySearcher(self),
                scheduler=scheduler,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{time.time_ns()}",
                storage_path=str(folder),
                verbose=0,
                callbacks=[HeartbeatCallback(self.beat)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self.fleet.start()
        listener.start()
        try:
            tuner.fit()
            self.beat()
        finally:
            self._over.set()
            listener.join()

    def beat(self) -> None:
        """Raise what has gone wrong, in Tune's loop or beside it."""
        self._beat()
        if self._problem is not None:
            raise self._problem

    def ask(self) -> TrialPlan | None:
        """The next plan, on its way to the fleet."""
        asked = self.recorder.ask()
        if asked is None:
            return None
        proposal, attempt = asked
        self.fleet.submit(proposal.plan.trial_id, proposal.plan, attempt)
        return proposal.plan

    def _listen(self) -> None:
        """Record what the fleet says, until the session is over."""
        seen, flushed = 0, time.monotonic()
        try:
            while not self._over.is_set():
                news = ray.get(self.fleet.broker.read_events.remote(seen))
                seen += len(news)
                for said in news:
                    if said.kind == "broken":
                        raise RunError(f"worker groups cannot be kept up: {said.why}")
                    self.recorder.handle(said)
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    self.recorder.ledger.flush()
                    flushed = time.monotonic()
        except Exception as error:  # raised again in the driver's own thread, by `beat`
            self._problem = error
