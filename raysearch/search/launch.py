"""Launches a declared search, or resumes it.

The study says what to try, workers train it, and the recorder writes down what they report. On Ray, `tune_adapter` and
`executors.worker_groups` bring these together; without Ray, `executors.in_process` does.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from raysearch.config.loading import ParsedSearch, load_file, parse_search
from raysearch.config.model_checks import try_configs
from raysearch.config.search_config import Search
from raysearch.config.sections import Executor
from raysearch.config.selection_rules import decide_selection
from raysearch.data.prepared import PreparedData
from raysearch.errors import RunError, SearchInterrupted, SpecError
from raysearch.executors.in_process import run_in_process
from raysearch.executors.ray_environment import set_ray_environment
from raysearch.executors.trial_runner import TRAIN
from raysearch.modalities.opening import prepare
from raysearch.objectives.user_primitives import load_functions
from raysearch.search import preflight, resume
from raysearch.search.progress import Progress
from raysearch.search.recorder import Recorder
from raysearch.search.rehearsal import rehearse
from raysearch.search.study import Study
from raysearch.storage.cells import cell_of
from raysearch.storage.ledger import Ledger
from raysearch.storage.names import name_problem, runs_problem
from raysearch.storage.run import Run, open_run
from raysearch.storage.states import EventName

if TYPE_CHECKING:  # a search in this process needs no Ray
    from raysearch.executors.ray_cluster import Cluster
    from raysearch.executors.worker_groups import WorkerGroups

END_SECONDS, ABORT_SECONDS = 60.0, 10.0  # that worker groups have to end by themselves


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
    """Runs a search until its budget is met, and returns the run. A run of that name that exists is resumed.

    `address` joins a Ray cluster, otherwise a local one is started; `fork` names a new run; `extend` resumes a run with
    a larger budget or further seeds; `train` is the function that trains a plan, as module:name. Raises SpecError or
    RunError, one line, before anything starts, and KeyboardInterrupt when the user ends the search.
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
    """Does the work of `launch` for a validated search. A SpecError about a key has no line yet."""
    search = parsed.search
    for space in search.spaces.values():
        # Rejects here what would fail in every worker.
        load_functions(space.user_primitives.to_plan() if space.user_primitives else {})
    folder = _run_folder(search, name, fork)
    before = resume.load_stored_search(folder)
    if before is not None and fork:
        raise RunError(f"run {fork} exists already; --fork takes the name of a new run")
    if before is not None:
        search = resume.check_resumable(before, search, folder.name, extend=extend)
    is_new, is_first = not folder.exists(), not folder.parent.exists()
    root = resume.data_root_of(folder, data_root)
    is_tried, parsed = before is None and train == TRAIN, replace(parsed, search=search)
    notes = [*parsed.notes, *(try_configs(search, parsed.node) if is_tried else ())]
    try:
        with Ledger.open(folder) as ledger:
            prepared = prepare(search.task, search.stored_for.to_plain(), folder / "data", root)
            notes += [*prepared.notes, *(rehearse(parsed, prepared, folder / "data") if is_tried else ())]
            selection, why = decide_selection(search, prepared.sizes)
            search = replace(search, selection=selection)
            recorder = _open_recorder(search, ledger, folder, prepared)
            notes += [*why, *preflight.launch_notes(search, prepared.facts, local=address is None)]
            with _open_executor(recorder, address, train, notes, quiet=not progress) as run_search:
                if before is None or before.differences(search) or before.paper != search.paper:
                    ledger.append("searches", [resume.search_row(search, folder.name, prepared, root)], durable=True)
                    resume.save_search(search, folder, parsed.text)
                run_search()
            ledger.event(EventName.FINISHED)
    finally:
        if is_new and resume.load_stored_search(folder) is None:
            shutil.rmtree(folder)  # it was rejected before it began
            if is_first:
                folder.parent.rmdir()
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    return open_run(folder)


def _run_folder(search: Search, name: str | None, fork: str | None) -> Path:
    """Returns the folder of the run. Raises SpecError for a name or folder that no new run can have."""
    if fork is not None and name is not None:
        raise SpecError(f"--fork {fork} and --name {name} both name the run; leave one out")
    if problem := runs_problem(search.runs):
        raise SpecError(problem, key="runs")
    option, chosen = ("--fork", fork) if fork is not None else ("--name", name)
    chosen_name = search.name if chosen is None else chosen
    problem = name_problem(chosen_name)
    is_plain = "/" not in chosen_name and chosen_name not in ("", ".", "..")
    folder = Path(search.runs).absolute() / chosen_name
    if problem and not (is_plain and resume.load_stored_search(folder) is not None):  # runs of earlier versions go on
        raise SpecError(problem, key="name") if chosen is None else SpecError(problem, file=option)
    return folder


def _open_recorder(search: Search, ledger: Ledger, folder: Path, prepared: PreparedData) -> Recorder:
    """Returns the recorder of a run, with the study as the run's tables leave it."""
    history = resume.load_history(folder)
    study = Study(
        search,
        data=str(folder / "data"),
        labels=list(prepared.labels),
        committed=history.committed,
        planned=history.planned,
        spent=history.seconds,
    )
    recorder = Recorder(study, ledger, folder, attempts=history.attempts)
    recorder.reconcile(history.committed, history.reported)
    return recorder


@contextmanager
def _open_executor(
    recorder: Recorder, address: str | None, train: str, notes: Iterable[str], *, quiet: bool
) -> Iterator[Callable[[], None]]:
    """Yields, once its resources are there, the function that runs the search; it does nothing if the search is done.

    `notes` on the data are printed first.
    """
    name, search = recorder.folder.name, recorder.study.search
    with Progress(name, recorder.progress, quiet=quiet) as panel, _catch_interrupts(panel) as interrupted:
        recorder.on_commit, recorder.on_restart = panel.show_end, panel.print
        for note in notes:
            panel.print(note)
        try:
            if recorder.done:
                yield lambda: None
            elif search.executor == "in_process":
                yield lambda: run_in_process(
                    recorder.next_trial,
                    recorder.handle,
                    resources=search.resources,
                    folder=recorder.folder / "trials",
                    train=train,
                    interrupted=interrupted,
                )
            else:
                set_ray_environment()
                from raysearch.executors import ray_cluster, worker_groups

                per_trial = search.executor == "train_run"
                with ray_cluster.open_cluster(address, search.resources, dashboard=per_trial) as cluster:
                    for note in cluster.notes:
                        panel.print(note)
                    executor = worker_groups.TrainRunPerTrial if per_trial else worker_groups.WorkerGroups
                    yield lambda: _run_on_ray(recorder, cluster, executor, train, interrupted)
        except SearchInterrupted:
            panel.print(f"interrupted; {_count_unfinished(recorder)}resume it with: raysearch resume {name}")
            raise KeyboardInterrupt from None


def _run_on_ray(
    recorder: Recorder, cluster: Cluster, executor: type[WorkerGroups], train: str, interrupted: threading.Event
) -> None:
    """Runs the search: Ray Tune asks for trials, Ray Train trains them."""
    from raysearch.search.tune_adapter import run_on_tune

    def heartbeat() -> None:
        if interrupted.is_set():
            raise SearchInterrupted

    workers = executor(recorder.study.search.resources, cluster.groups, recorder.folder, train)
    patience = ABORT_SECONDS
    try:
        run_on_tune(recorder, workers, cluster, evaluations=_competing_evaluations(recorder), heartbeat=heartbeat)
        patience = END_SECONDS
    finally:
        recorder.close()
        workers.close(patience)


def _competing_evaluations(recorder: Recorder) -> list[dict[str, Any]]:
    """Returns the evaluations of committed trials that the scheduler has compared, in the order of their time."""
    run, competes = open_run(recorder.folder), recorder.study.competes
    rows = run.trials().select(["trial_id", "arm", "role", "seed", "plan"]).to_pylist()
    competing = {row["trial_id"] for row in rows if competes(row["arm"], row["role"], cell_of(row))}
    evaluations = run.evaluations().select(["trial_id", "step", "best", "time"]).to_pylist()
    scored = [row for row in evaluations if row["trial_id"] in competing and row["best"] is not None]
    return sorted(scored, key=lambda row: row["time"])


def _count_unfinished(recorder: Recorder) -> str:
    count = len(recorder.running)
    return f"{count} {'trial is' if count == 1 else 'trials are'} unfinished; " if count else ""


@contextmanager
def _catch_interrupts(panel: Progress) -> Iterator[threading.Event]:
    """Yields an event that the first Ctrl-C sets; the second ends the process at once.

    Signals reach the main thread alone: in another thread the event is never set.
    """
    pressed = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            panel.console.show_cursor()
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
