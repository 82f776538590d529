"""Worker groups: Ray Train runs that train the trials of a search.

A worker group is one TorchTrainer run, that is, one torch process group of the search's `workers`. `WorkerGroups` keeps
its groups for the whole search, so that a trial starts in 80 ms; `TrainRunPerTrial` starts a run for every trial, which
takes 12 s. Both run the loop `serve` and talk through the same broker.

Ray Train starts a group again when a rank is lost; the trial that it ran resumes from its own checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from raysearch.config.sections import Resources
from raysearch.distributed import ProcessGroup
from raysearch.executors.broker import Broker
from raysearch.executors.cluster_watch import ClusterWatch
from raysearch.executors.hosts import on_this_node, this_node
from raysearch.executors.messages import NAMESPACE, Assignment, EventKind, WorkerInfo
from raysearch.executors.ray_cluster import TRAIN_RUN_THREAD
from raysearch.executors.rendezvous import MeetingConfig, form_process_group
from raysearch.executors.trial_runner import (
    TRAIN,
    device_name,
    load_train_function,
    reset_process_state,
    run_plan,
)
from raysearch.executors.watchdog import Watchdog, declared_seconds
from raysearch.objectives.trust import trust, trusted_digests
from raysearch.objectives.user_primitives import receive_sources, sources
from raysearch.plan import TrialPlan

TRIALS_PER_GROUP = 500  # then the processes of a group are replaced


def serve(config: dict[str, Any]) -> None:
    """Trains one trial after another until the broker has none left: the loop of a Ray Train worker."""
    device = ray.train.torch.get_device()
    trust(config["trusted"])
    receive_sources(config["sources"])
    folder = _visible_folder(config["folder"])
    form_process_group(config["backend"])
    process_group = ProcessGroup.from_torch(device)
    train = load_train_function(config["train"])
    broker: Any = ray.get_actor(config["broker"], namespace=NAMESPACE)
    epoch, name = process_group.broadcast(uuid.uuid4().hex), device_name(device)
    place_in_group = (config["group"], epoch, process_group.rank, process_group.world)
    worker = WorkerInfo(*place_in_group, name, config["max_trials"], this_node())
    gc.collect()
    gc.freeze()  # what is loaded by now stays, so that later collections need not look through it
    for place in itertools.count():
        assignment: Assignment | None = ray.get(broker.next_trial.remote(worker, place, _memory_bytes()))
        if assignment is None:
            return
        trial_id, plan, attempt = assignment.trial_id, TrialPlan.from_json(assignment.plan), assignment.attempt
        gc.collect()
        reset_process_state(plan.seed, config["threads"])

        watchdog = Watchdog(lambda why: ray.get(broker.note_hang.remote(config["group"], why)), config["hang_seconds"])

        def push(
            reports: list[Any], trial_id: str = trial_id, attempt: int = attempt, watchdog: Watchdog = watchdog
        ) -> bool:
            watchdog.beat()
            return bool(ray.get(broker.add_reports.remote(trial_id, attempt, reports)))

        with watchdog if process_group.rank == 0 else contextlib.nullcontext():  # if another rank hangs, so does this
            outcome = run_plan(plan, folder / trial_id, process_group, train, push)
        if not ray.get(broker.finish_trial.remote(worker, trial_id, attempt, outcome)):
            raise RuntimeError(outcome.why or "the other ranks have not finished the trial")
        if outcome.error and process_group.world > 1 and device.type == "cpu":
            torch.distributed.monitored_barrier()  # wait until no collective of the failed trial is left


def _visible_folder(folder: str) -> Path:
    """Returns the folder of trials. Raises RuntimeError, one line, if this host does not see the driver's one."""
    if not Path(folder).is_dir():
        why = "--runs has to name a folder that all hosts share, under the same path"
        raise RuntimeError(f"host {socket.gethostname()} does not see the run's folder {folder}: {why}")
    return Path(folder)


def _memory_bytes() -> int:
    """Returns the resident memory of this process in bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class GroupFailureCallback(UserCallback):
    """A callback in Ray Train's controller that tells the broker why a worker group fails."""

    def __init__(self, broker: str, group: str) -> None:
        self.broker, self.group = broker, group

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Reports that ranks have raised or were lost."""
        why = "; ".join(f"rank {rank}: {str(error).strip()}" for rank, error in sorted(worker_exceptions.items()))
        broker: Any = ray.get_actor(self.broker, namespace=NAMESPACE)
        ray.get(broker.report_group_failure.remote(self.group, why))


class WorkerGroups:
    """Worker groups that live for the whole search and take one trial after another."""

    max_trials = TRIALS_PER_GROUP

    def __init__(
        self, resources: Resources, count: int, folder: Path, train: str = TRAIN, meeting_folder: str = ""
    ) -> None:
        """Uses `count` groups, or more when hosts join, to train with `train` in `folder`/trials.

        Ray's own files go to `folder`/scratch.

        Ranks meet in a file of `meeting_folder`, which all see; without it, at a TCP store of rank 0.
        """
        self.meeting_folder = meeting_folder
        self.resources, self.count, self.folder, self.train = resources, count, folder, train
        (folder / "trials").mkdir(exist_ok=True)
        self.broker_name = f"broker-{uuid.uuid4().hex[:12]}"
        actor: Any = ray.remote(Broker)
        options = {"name": self.broker_name, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": 10_000}
        self.broker = actor.options(**options, scheduling_strategy=on_this_node()).remote()
        self._runs: list[threading.Thread] = []
        self._started = 0  # groups
        self._up: Any = None  # the names of those that were up at the end, once it was requested
        self._closing = threading.Event()
        self._watch = ClusterWatch(resources, self.broker, self._start_up_to)

    @property
    def capacity(self) -> int:
        """How many trials may be in flight: as many as worker groups fit on the hosts that are alive."""
        return self._watch.groups

    def start(self) -> None:
        """Starts the groups; each takes trials as soon as it is up."""
        self._start_up_to(self.count)
        self._watch.start()

    def _start_up_to(self, count: int) -> None:
        """Starts groups until there are `count`. One for which a lost host has left no room waits until there is."""
        while self._started < count and not self._closing.is_set():
            self._start_group(f"group-{self._started}", is_permanent=True)
            self._started += 1

    def submit(self, trial_id: str, plan: TrialPlan, attempt: int) -> None:
        """Queues a trial for the next group that is free."""
        self.broker.submit.remote(trial_id, plan.to_json(), attempt)

    def stop(self, trial_id: str) -> None:
        """Makes a trial stop at its next report."""
        self.broker.stop.remote(trial_id)

    def tell_waiting(self, why: str) -> None:
        """Records why the search hands out no trial."""
        self.broker.tell.remote(EventKind.WAITS, why)

    def request_end(self) -> None:
        """Makes all groups stop at their next report, and end."""
        self._closing.set()
        self._watch.stop()
        self._up = self._up or self.broker.close.remote()

    def close(self, patience: float) -> None:
        """Makes all groups stop and end, and waits at most `patience` seconds for those that have room on the hosts."""
        self.request_end()
        deadline = time.monotonic() + patience
        up: set[str] = set()
        with contextlib.suppress(ray.exceptions.RayError):  # the broker has not started, or is lost
            up = {TRAIN_RUN_THREAD + name for name in ray.get(self._up, timeout=patience)}
        for run in self._runs:
            if run.name in up or self.capacity >= self._started:
                run.join(max(0.0, deadline - time.monotonic()))
        ray.kill(self.broker)

    def _start_group(self, group: str, *, is_permanent: bool) -> None:
        name = TRAIN_RUN_THREAD + group
        run = threading.Thread(target=self._run_group, args=(group, is_permanent), name=name, daemon=True)
        self._runs = [run for run in self._runs if run.is_alive()] + [run]
        run.start()

    def _run_group(self, group: str, is_permanent: bool) -> None:
        """Runs a group; a permanent one again and again, with new processes."""
        while not self._closing.is_set():
            try:
                self._trainer(group).fit()
            except Exception as error:  # Ray Train's controller or the cluster is lost: the broker counts failures
                if self._closing.is_set() or not ray.is_initialized():
                    return
                ray.get(self.broker.report_group_failure.remote(group, f"{type(error).__name__}: {error}"))
            else:
                if not is_permanent:
                    return

    def _trainer(self, group: str) -> TorchTrainer:
        resources = self.resources
        return TorchTrainer(
            serve,
            train_loop_config={
                "broker": self.broker_name,
                "group": group,
                "max_trials": self.max_trials,
                "folder": str(self.folder / "trials"),
                "train": self.train,
                "trusted": trusted_digests(),
                "sources": sources(),
                "hang_seconds": declared_seconds(),
                "threads": max(1, int(resources.cpus)),
                "backend": "nccl" if resources.gpus else "gloo",
            },
            torch_config=MeetingConfig(self.meeting_folder),
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {}),
            ),
            run_config=RunConfig(
                name=f"{group}-{uuid.uuid4().hex[:6]}",
                storage_path=str(self.folder / "scratch" / "train"),
                failure_config=FailureConfig(max_failures=-1),
                # Ray declares these as Tune's callbacks, but calls them as Train's.
                callbacks=[GroupFailureCallback(self.broker_name, group)],  # type: ignore[list-item]
            ),
        )


class TrainRunPerTrial(WorkerGroups):
    """A Ray Train run for every trial, which shares nothing with the trial before."""

    max_trials = 1

    def start(self) -> None:
        """Starts no group: a run begins with its trial."""
        self._watch.start()

    def _start_up_to(self, count: int) -> None:
        """Starts no group, however many fit."""

    def submit(self, trial_id: str, plan: TrialPlan, attempt: int) -> None:
        """Starts a run for this trial. It ends by the stop flag and is never killed, so it releases its resources."""
        ray.get(self.broker.submit.remote(trial_id, plan.to_json(), attempt, trial_id))
        self._start_group(trial_id, is_permanent=False)
