"""WorkerGroups: Ray Train runs that train what a search asks for.

A group is one TorchTrainer run, a torch process group of the search's `workers`. In the fleet the groups live for the
whole search and take one trial after another (80 ms a trial, where a run of its own costs 12 s); the other executor
gives each trial a run of its own. Both run the same loop, `serve`, and talk through the same broker.

Ray Train begins a group again when a rank is lost; what was lost goes on from its own checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from raysearch.config.search_config import Search
from raysearch.config.sections import Resources
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError
from raysearch.executors.broker import NAMESPACE, Broker, WorkerInfo
from raysearch.executors.trial_runner import TRAIN, device_name, load, reset_process_state, run_plan
from raysearch.plan import TrialPlan

SLOT = "trial_slot"  # what a Tune trial takes: it computes nothing
SLIVER = 0.001  # of a CPU, where a cluster has no such slots
RUNS = "raysearch-run-"  # names of the threads that wait for a Ray Train run
PLANS_PER_GROUP = 500  # then a group's processes are made anew
COLLECTIVE_SECONDS = 600  # torch gives up a collective after so long
OBJECT_STORE = 256 << 20  # bytes; what passes through it is small


# ---- a worker ----


def serve(config: dict[str, Any]) -> None:
    """The loop of a Train worker: what it does is in `run_plan`, what it knows is in the plan."""
    device = ray.train.torch.get_device()
    process_group = ProcessGroup.from_torch(device)
    train, folder = load(config["train"]), Path(config["folder"])
    broker: Any = ray.get_actor(config["broker"], namespace=NAMESPACE)
    epoch = process_group.broadcast(uuid.uuid4().hex)
    group, plans = config["group"], config["plans"]
    worker = WorkerInfo(group, epoch, process_group.rank, process_group.world, device_name(device), plans)
    gc.collect()
    gc.freeze()  # what is loaded by now stays, and need not be looked through after every trial
    for place in itertools.count():
        handed: tuple[str, str, int] | None = ray.get(broker.next_trial.remote(worker, place, _memory()))
        if handed is None:
            return
        trial_id, text, attempt = handed
        plan = TrialPlan.from_json(text)
        gc.collect()
        reset_process_state(plan.seed, config["threads"])

        def push(reports: list[Any], trial_id: str = trial_id, attempt: int = attempt) -> bool:
            return bool(ray.get(broker.add_reports.remote(trial_id, attempt, reports)))

        ending = run_plan(plan, folder / trial_id, process_group, train, push)
        if not ray.get(broker.finish_trial.remote(worker, trial_id, attempt, ending)):
            raise RuntimeError(ending.why or "the other ranks have not come to the end of the trial")
        if ending.error and process_group.world > 1 and device.type == "cpu":
            torch.distributed.monitored_barrier()  # are all collectives of the failed trial over?


def _memory() -> int:
    """Bytes of this process in memory; 0 where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class GroupFailureCallback(UserCallback):
    """Tells the broker what Train knows of a group's loss; lives in Train's controller."""

    def __init__(self, broker: str, group: str) -> None:
        self.broker, self.group = broker, group

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """One or more ranks have raised or were lost."""
        why = "; ".join(f"rank {rank}: {str(error).strip()}" for rank, error in sorted(worker_exceptions.items()))
        broker: Any = ray.get_actor(self.broker, namespace=NAMESPACE)
        ray.get(broker.report_group_failure.remote(self.group, why))


# ---- executors ----


class WorkerGroups:
    """Groups that live for the whole search and take one trial after another."""

    plans = PLANS_PER_GROUP

    def __init__(self, search: Search, cluster: Cluster, folder: Path, train: str = TRAIN) -> None:
        """Train with `train` in `folder`/trials; Ray Train's own files go to `folder`/scratch."""
        self.resources, self.cluster, self.folder, self.train = search.resources, cluster, folder, train
        self.name = f"broker-{uuid.uuid4().hex[:12]}"
        actor: Any = ray.remote(Broker)
        self.broker = actor.options(name=self.name, namespace=NAMESPACE, num_cpus=0, max_concurrency=10_000).remote()
        self._runs: list[threading.Thread] = []
        self._closing = threading.Event()

    def start(self) -> None:
        """Begin the groups; they take trials as soon as they are up."""
        for number in range(self.cluster.groups):
            self._begin(f"group-{number}", forever=True)

    def submit(self, trial_id: str, plan: TrialPlan, attempt: int) -> None:
        """Queue a trial for the next group that is free."""
        self.broker.submit.remote(trial_id, plan.to_json(), attempt)

    def stop(self, trial_id: str) -> None:
        """Have a trial leave at its next report."""
        self.broker.stop.remote(trial_id)

    def close(self, patience: float) -> None:
        """Have all groups leave and end; wait for them so many seconds at most."""
        self._closing.set()
        self.broker.close.remote()
        until = time.monotonic() + patience
        for run in self._runs:
            run.join(max(0.0, until - time.monotonic()))
        ray.kill(self.broker)

    def _begin(self, group: str, forever: bool) -> None:
        run = threading.Thread(target=self._keep_up, args=(group, forever), name=RUNS + group, daemon=True)
        self._runs = [run for run in self._runs if run.is_alive()] + [run]
        run.start()

    def _keep_up(self, group: str, forever: bool) -> None:
        """Run a group, and again when its processes have served their time."""
        while not self._closing.is_set():
            try:
                self._trainer(group).fit()
            except Exception as error:  # Train's controller is lost, or the cluster is gone: the broker counts these
                if self._closing.is_set() or not ray.is_initialized():
                    return
                ray.get(self.broker.report_group_failure.remote(group, f"{type(error).__name__}: {error}"))
            else:
                if not forever:
                    return

    def _trainer(self, group: str) -> TorchTrainer:
        wanted = self.resources
        return TorchTrainer(
            serve,
            train_loop_config={
                "broker": self.name,
                "group": group,
                "plans": self.plans,
                "folder": str(self.folder / "trials"),
                "train": self.train,
                "threads": max(1, int(wanted.cpus)),
            },
            torch_config=TorchConfig(backend="nccl" if wanted.gpus else "gloo", timeout_s=COLLECTIVE_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=wanted.workers,
                use_gpu=wanted.gpus > 0,
                resources_per_worker={"CPU": wanted.cpus} | ({"GPU": wanted.gpus} if wanted.gpus else {}),
            ),
            run_config=RunConfig(
                name=f"{group}-{uuid.uuid4().hex[:6]}",
                storage_path=str(self.folder / "scratch" / "train"),
                failure_config=FailureConfig(max_failures=-1),
                callbacks=[GroupFailureCallback(self.name, group)],  # type: ignore[list-item]  # declared as Tune's Callback
            ),
        )


class TrainRunPerTrial(WorkerGroups):
    """A Ray Train run for every trial: 12 s to start, and nothing shared with the trial before."""

    plans = 1

    def start(self) -> None:
        """Nothing runs before there is a trial."""

    def submit(self, trial_id: str, plan: TrialPlan, attempt: int) -> None:
        """Begin a run for this trial; it leaves by the stop flag, is never killed, and so gives its resources back."""
        ray.get(self.broker.submit.remote(trial_id, plan.to_json(), attempt, trial_id))
        self._begin(trial_id, forever=False)


def at_work() -> bool:
    """Does a thread of this process still wait for a Train run?

    Ray must not be shut down under it, for Ray then ends the whole process; what Ray has started ends with this one.
    """
    return any(thread.name.startswith(RUNS) for thread in threading.enumerate())


# ---- the cluster ----


@dataclass(frozen=True)
class Cluster:
    """What a search has to run on."""

    groups: int  # trials at a time
    slot: dict[str, float]  # what a Tune trial takes
    local: bool
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def cluster(address: str | None, resources: Resources, *, dashboard: bool) -> Iterator[Cluster]:
    """A Ray cluster: the one at `address`, the one that this process is in already, or a local one of its own.

    A local one is shut down at the end. `dashboard`: Train wants one, to clean up after runs that are killed. Raises
    RunError, before anything is started on the cluster, when it cannot be reached or cannot give what a trial needs.
    """
    if address is not None and address.startswith("ray://"):
        raise RunError(
            f"{address}: Ray Client is not supported; run the driver on the cluster: "
            "ray job submit --working-dir . -- raysearch launch FILE --address auto"
        )
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ours, mode = not ray.is_initialized(), os.environ.get("RAY_AUTH_MODE")
    local = ours and address is None
    try:
        if local:
            context = _start(resources, dashboard)
        elif ours:
            context = _join(str(address))
        else:
            context = ray.init(ignore_reinit_error=True, logging_level=logging.CRITICAL)
        yield _survey(resources, local, dashboard and not context.dashboard_url)
    finally:
        if ours and not at_work():
            ray.shutdown()
        if local:
            os.environ.pop("RAY_AUTH_MODE", None)
            os.environ.update({"RAY_AUTH_MODE": mode} if mode is not None else {})


def _start(resources: Resources, dashboard: bool) -> Any:
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    groups = _fitting(resources, cores, gpus)
    if groups < 1:
        raise RunError(f"a trial takes {_needs(resources)}; this machine has {cores} CPUs and {gpus} GPUs")
    os.environ["RAY_AUTH_MODE"] = "disabled"  # of a cluster that listens to this machine alone
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that waits for clouds to take nodes
    return ray.init(
        address="local",
        num_cpus=max(cores, round(groups * resources.workers * resources.cpus)),
        num_gpus=gpus,
        resources={SLOT: max(groups, 1)},
        include_dashboard=dashboard,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        namespace=NAMESPACE,
    )


def _join(address: str) -> Any:
    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, namespace=NAMESPACE)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise RunError(f"cannot join the cluster at {address}: {said[0] if said else type(error).__name__}") from error


def _survey(resources: Resources, local: bool, lacks_dashboard: bool) -> Cluster:
    """What the cluster has, against what trials need."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    groups = _fitting(resources, cpus, gpus)
    if groups < 1 or resources.cpus > largest:
        where = f"the cluster has {cpus:g} CPUs ({largest:g} on its largest node) and {gpus:g} GPUs"
        raise RunError(f"a trial takes {_needs(resources)}; {where}")
    notes: list[str] = []
    if 0 < groups < resources.groups:
        notes.append(f"{groups} trials at a time: no more fit")
    slot = {SLOT: 1.0}
    if total.get(SLOT, 0.0) < groups:
        slot = {"cpu": SLIVER}
        notes.append(f"no resource {SLOT!r} on this cluster: each trial's watcher takes {SLIVER} CPU")
    if lacks_dashboard:
        notes.append("no dashboard on this cluster: a Train run whose controller is killed keeps its resources")
    return Cluster(groups, slot, local, tuple(notes))


def _fitting(resources: Resources, cpus: float, gpus: float) -> int:
    """How many trials fit, at most as many as asked for."""
    fits = [
        int(there / (resources.workers * each) + 1e-9)
        for there, each in ((cpus, resources.cpus), (gpus, resources.gpus))
        if each
    ]
    return min([*fits, resources.groups] if resources.groups else fits)


def _needs(resources: Resources) -> str:
    each = [f"{value:g} {name}" for value, name in ((resources.cpus, "CPUs"), (resources.gpus, "GPUs")) if value]
    return f"{resources.workers} workers x {' and '.join(each)}"
