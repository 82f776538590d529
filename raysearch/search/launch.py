"""Search: launch a declared search, or go on with one.

The study says what to try, workers train it, the recorder writes down what they say. With Ray, `tuning` and `fleet`
bring these together; in-process the loop is the few lines of `_run_here`.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from raysearch.config.loading import ParsedSearch, load_file, parse_search
from raysearch.config.search_config import Search
from raysearch.config.sections import Executor
from raysearch.data.prepared import PreparedData
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError, SpecError
from raysearch.executors.broker import Kind, TrialEvent
from raysearch.executors.trial_runner import TRAIN, device_name, load, reset_process_state, run_plan
from raysearch.modalities.opening import prepare
from raysearch.objectives.user_primitives import functions_of
from raysearch.search import resume
from raysearch.search.progress import Progress
from raysearch.search.recorder import Recorder
from raysearch.search.study import Study
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run
from raysearch.storage.schemas import Report
from raysearch.storage.states import EventName, TrialState

if TYPE_CHECKING:  # a search in this process needs no Ray
    from raysearch.executors.worker_groups import Cluster, WorkerGroups

END_SECONDS, ABORT_SECONDS = 60.0, 10.0  # how long worker groups have to end by themselves

ENVIRONMENT = {  # read by Ray when it is imported, and by all that it starts; what the user has set stays
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # no lines between ours: that a worker was lost is an event of the ledger
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the loss of a rank is noticed; else 2 s
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's folder is scratch
    "TUNE_WARN_THRESHOLD_S": "30",
}


class Interrupted(Exception):  # noqa: N818
    """Somebody has pressed Ctrl-C."""


def launch(
    search: Search | ParsedSearch | str | Path,
    *,
    name: str | None = None,
    address: str | None = None,
    data_root: Path | str | None = None,
    fork: str | None = None,
    extend: bool = False,
    executor: Executor | None = None,
    progress: bool = True,
    train: str = TRAIN,
) -> Run:
    """The run of a search, when its budget is met. A run that exists by that name is gone on with.

    `address` joins a Ray cluster, else a local one is started; `fork` names a new run; `extend` goes on with a run
    under a larger budget or with further seeds; `train` is the function that trains a plan, as module:name.
    Raises SpecError or RunError, one line, before anything starts; KeyboardInterrupt when the user ends it.
    """
    if isinstance(search, str | Path):
        search = load_file(search, {"executor": executor} if executor else {}, local=address is None)
    elif executor or isinstance(search, Search):  # a search that was loaded from a file is validated already
        search = search if isinstance(search, Search) else search.search
        search = parse_search(replace(search, executor=executor or search.executor))
    try:
        return _launch(search, name, address, data_root, fork, extend=extend, progress=progress, train=train)
    except SpecError as error:
        raise search.with_location(error) from None


def _launch(
    parsed: ParsedSearch,
    name: str | None,
    address: str | None,
    data_root: Path | str | None,
    fork: str | None,
    *,
    extend: bool,
    progress: bool,
    train: str,
) -> Run:
    """As `launch`, for a validated search; a SpecError about a key has no line yet."""
    search = parsed.search
    for space in search.spaces.values():
        functions_of(
            space.user_primitives.plan() if space.user_primitives else {}
        )  # refuses here what would fail in every worker
    folder = Path(search.runs).absolute() / (fork or name or search.name)
    before = resume.load_stored_search(folder)
    if before is not None and fork:
        raise RunError(f"run {fork} exists already; --fork takes the name of a new run")
    if before is not None:
        search = resume.check_resumable(before, search, folder.name, extend=extend)
    fresh = not folder.exists()
    try:
        with Ledger.open(folder) as ledger:
            prepared = prepare(
                search.task, search.model.to_plain(), folder / "data", Path(data_root) if data_root else None
            )
            recorder = _taken_up(search, ledger, folder, prepared)
            with _workers(recorder, address, train, prepared.notes, quiet=not progress) as work:
                if before is None or before.differences(search) or before.paper != search.paper:
                    ledger.append("searches", [resume.search_row(search, folder.name, prepared)], durable=True)
                    resume.save_search(search, folder, parsed.text)
                work()
            ledger.event(EventName.FINISHED)
    finally:
        if fresh and resume.load_stored_search(folder) is None:
            shutil.rmtree(folder)  # refused before it had begun
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    return open_run(folder)


def _taken_up(search: Search, ledger: Ledger, folder: Path, prepared: PreparedData) -> Recorder:
    """The recorder of a run that begins, or goes on from where its tables say."""
    past = resume.load_history(folder)
    study = Study(
        search,
        data=str(folder / "data"),
        labels=list(prepared.labels),
        committed=past.committed,
        asked=past.asked,
        spent=past.seconds,
    )
    recorder = Recorder(study, ledger, folder, attempts=past.attempts)
    recorder.reconcile(past.committed, past.told)
    return recorder


@contextmanager
def _workers(
    recorder: Recorder, address: str | None, train: str, notes: Iterable[str], *, quiet: bool
) -> Iterator[Callable[[], None]]:
    """What does the search's work, when its resources are there; nothing when there is nothing left to do.

    `notes` are said first: what is odd about the data.
    """
    name, search = recorder.folder.name, recorder.study.search
    with Progress(name, recorder.search_progress, quiet=quiet) as shown, _interrupts(shown) as interrupted:
        recorder.on_commit, recorder.on_restart = shown.ended, shown.say
        for note in notes:
            shown.say(note)
        try:
            if recorder.done:
                yield lambda: None
            elif search.executor == "in_process":
                yield lambda: _run_here(recorder, train, interrupted)
            else:
                for variable, value in ENVIRONMENT.items():
                    os.environ.setdefault(variable, value)
                from raysearch.executors import worker_groups

                own_runs = search.executor == "train_run"
                with worker_groups.cluster(address, search.resources, dashboard=own_runs) as cluster:
                    for note in cluster.notes:
                        shown.say(note)
                    kind = worker_groups.TrainRunPerTrial if own_runs else worker_groups.WorkerGroups
                    yield lambda: _run_on_ray(recorder, cluster, kind, train, interrupted)
        except Interrupted:
            shown.say(f"interrupted; {_unfinished(recorder)}raysearch resume {name} goes on")
            raise KeyboardInterrupt from None


def _unfinished(recorder: Recorder) -> str:
    count = len(recorder.running)
    return f"{count} {'trial is' if count == 1 else 'trials are'} unfinished; " if count else ""


@contextmanager
def _interrupts(shown: Progress) -> Iterator[threading.Event]:
    """Set at the first Ctrl-C; the second ends the process at once. In other threads than the main one, never set."""
    pressed = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            shown.console.show_cursor()
            os._exit(130)
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


# ---- in this process ----


def _run_here(recorder: Recorder, train: str, interrupted: threading.Event) -> None:
    """One trial after another, in this process; none is stopped."""
    function, resources = load(train), recorder.study.search.resources
    process_group = ProcessGroup(device=torch.device("cuda" if resources.gpus else "cpu"))
    while (asked := recorder.ask()) is not None:
        (proposal, attempt), trial_id = asked, asked[0].plan.trial_id

        def say(kind: Kind, trial_id: str = trial_id, attempt: int = attempt, **what: Any) -> None:
            event = TrialEvent(kind, trial_id, attempt, time.time(), device=device_name(process_group.device), **what)
            recorder.handle(event)

        def push(reports: list[Report], say: Any = say) -> bool:
            say("reports", reports=tuple(reports))
            return interrupted.is_set()

        reset_process_state(proposal.plan.seed, max(1, int(resources.cpus)))
        say("started")
        ending = run_plan(proposal.plan, recorder.folder / "trials" / trial_id, process_group, function, push)
        if interrupted.is_set() and ending.state == TrialState.STOPPED:
            raise Interrupted
        say("ended", state=ending.state, why=ending.why)
        if interrupted.is_set():
            raise Interrupted


# ---- on Ray ----


def _run_on_ray(
    recorder: Recorder, cluster: Cluster, kind: type[WorkerGroups], train: str, interrupted: threading.Event
) -> None:
    """Tune asks, Train trains."""
    from raysearch.search import tune_adapter

    search, folder = recorder.study.search, recorder.folder
    workers = kind(search, cluster, folder, train)

    def beat() -> None:
        if interrupted.is_set():
            raise Interrupted

    patience = ABORT_SECONDS
    try:
        tune_adapter.Driver(search, recorder, workers, cluster, beat).run(
            folder / "scratch" / "tune", _scheduled(recorder)
        )
        patience = END_SECONDS
    finally:
        recorder.close()
        workers.close(patience)


def _scheduled(recorder: Recorder) -> list[dict[str, Any]]:
    """The evaluations of committed trials that the scheduler has looked at, in the order of their coming."""
    run, competes = open_run(recorder.folder), recorder.study.competes
    rows = run.trials().select(["trial_id", "arm", "role", "seed"]).to_pylist()
    competing = {row["trial_id"] for row in rows if competes(row["arm"], row["role"], row["seed"])}
    found = run.evaluations().select(["trial_id", "step", "best", "time"]).to_pylist()
    sound = [row for row in found if row["trial_id"] in competing and row["best"] is not None]
    return sorted(sound, key=lambda row: row["time"])
