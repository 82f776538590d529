"""Runs a search where it is declared to run: in this process, or on Ray.

On Ray, the cluster and the worker groups start while the data of a new run are read, because starting them takes
longest of all that is done before the first trial. `tune_adapter` and `executors.worker_groups` then run the trials;
without Ray, `executors.in_process` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raysearch.config.search_config import Search
from raysearch.data.prepared import PreparedData
from raysearch.executors.in_process import run_in_process
from raysearch.executors.ray_environment import set_ray_environment
from raysearch.search.background import BackgroundCall
from raysearch.search.recorder import Recorder
from raysearch.search.session import Session
from raysearch.storage.cells import cell_of
from raysearch.storage.run import open_run

if TYPE_CHECKING:  # a search in this process needs no Ray
    from raysearch.executors.ray_cluster import Cluster
    from raysearch.executors.worker_groups import WorkerGroups

END_SECONDS = 60.0  # that worker groups have to end by themselves
ABORT_SECONDS = 3.0  # the same after Ctrl-C or an error; their trials go on from their checkpoints
HEAD_START = 1.0  # seconds that reading the data has before Ray is imported


@dataclass(frozen=True)
class Execution:
    """A search that is to run."""

    search: Search
    session: Session
    preparing: BackgroundCall[PreparedData]
    begin: Callable[[PreparedData], Recorder]  # makes the recorder, once the data are known
    declare: Callable[[Recorder, PreparedData], None]  # stores the search in the run
    address: str | None
    train: str

    def run(self, *, is_resumed: bool) -> None:
        """Runs the search until its budget is met; does nothing if it is met already."""
        try:
            self._run(is_resumed=is_resumed)
        finally:
            self.preparing.wait(ABORT_SECONDS)  # it writes to the run's folder

    def _run(self, *, is_resumed: bool) -> None:
        recorder = None
        if is_resumed or self.search.executor == "in_process":
            recorder = self._recorder("reading the data")
            if recorder.done:
                self.declare(recorder, self._data())
                return
        if self.search.executor == "in_process" and recorder is not None:
            self._run_in_process(recorder)
        else:
            self._run_on_ray(recorder)

    def _data(self) -> PreparedData:
        return self.preparing.result(self.session.check)

    def _recorder(self, stage: str) -> Recorder:
        self.session.panel.wait_for(stage)
        return self.begin(self._data())

    def _run_in_process(self, recorder: Recorder) -> None:
        self.declare(recorder, self._data())
        self.session.panel.wait_for("starting the first trial")
        run_in_process(
            recorder.next_trial,
            recorder.handle,
            resources=self.search.resources,
            folder=self.session.folder / "trials",
            train=self.train,
            interrupted=self.session.interrupted,
        )

    def _run_on_ray(self, recorder: Recorder | None) -> None:
        session, resources = self.session, self.search.resources
        session.panel.wait_for("starting Ray" if recorder else "starting Ray while the data are read")
        self.preparing.check(session.check, HEAD_START)  # most data that cannot be used are refused before Ray starts
        set_ray_environment()
        from raysearch.executors import ray_cluster, worker_groups

        self.preparing.check(session.check)
        per_trial = self.search.executor == "train_run"
        with ray_cluster.open_cluster(self.address, resources, dashboard=per_trial) as cluster:
            self.preparing.check(session.check)
            for note in cluster.notes:
                session.panel.print(note)
            executor = worker_groups.TrainRunPerTrial if per_trial else worker_groups.WorkerGroups
            workers = executor(resources, cluster.groups, session.folder, self.train, cluster.meeting_folder)
            patience = ABORT_SECONDS
            try:
                workers.start()
                recorder = recorder or self._recorder("starting worker groups while the data are read")
                self.declare(recorder, self._data())
                session.panel.wait_for("starting worker groups: their processes import torch")
                _run_on_tune(recorder, workers, cluster, session)
                patience = END_SECONDS
            finally:
                if recorder is not None:
                    recorder.close()
                workers.close(patience)


def _run_on_tune(recorder: Recorder, workers: WorkerGroups, cluster: Cluster, session: Session) -> None:
    """Runs the trials: Ray Tune asks for them, Ray Train trains them."""
    from raysearch.search.tune_adapter import run_on_tune

    evaluations = _competing_evaluations(recorder)
    run_on_tune(recorder, workers, cluster, evaluations=evaluations, heartbeat=session.check, tell=session.panel.print)


def _competing_evaluations(recorder: Recorder) -> list[dict[str, Any]]:
    """Returns the evaluations of committed trials that the scheduler has compared, in the order of their time.

    A scheduler that stops no trial compares none.
    """
    if not recorder.study.search.scheduler.stops_trials:
        return []
    run, competes = open_run(recorder.folder), recorder.study.competes
    rows = run.trials().select(["trial_id", "arm", "role", "seed", "plan"]).to_pylist()
    competing = {row["trial_id"] for row in rows if competes(row["arm"], row["role"], cell_of(row))}
    evaluations = run.evaluations().select(["trial_id", "step", "best", "time"]).to_pylist()
    scored = [row for row in evaluations if row["trial_id"] in competing and row["best"] is not None]
    return sorted(scored, key=lambda row: row["time"])
