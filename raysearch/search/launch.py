"""Launches a declared search, or resumes it.

The study says what to try, workers train it, and the recorder writes down what they report; `execution` brings them
together.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from raysearch.config.loading import ParsedSearch, load_file, parse_search
from raysearch.config.method_validation import check_examples
from raysearch.config.model_checks import try_configs
from raysearch.config.model_paths import with_located_models
from raysearch.config.search_config import Search
from raysearch.config.sections import Executor
from raysearch.config.selection import Selection
from raysearch.config.selection_rules import decide_selection
from raysearch.data.prepared import PreparedData
from raysearch.errors import RunError, SpecError
from raysearch.executors.trial_runner import TRAIN
from raysearch.modalities.opening import check_files, prepare
from raysearch.objectives.trust import trusting_all
from raysearch.objectives.user_primitives import load_functions
from raysearch.search import preflight, resume
from raysearch.search.background import BackgroundCall
from raysearch.search.ensemble import record_ensemble
from raysearch.search.execution import Execution
from raysearch.search.log_follower import LogFollower
from raysearch.search.recorder import Recorder
from raysearch.search.rehearsal import rehearse
from raysearch.search.session import Session
from raysearch.search.study import Study
from raysearch.storage.containment import remove_inside
from raysearch.storage.ledger import Ledger
from raysearch.storage.names import name_problem, runs_problem
from raysearch.storage.run import Run, open_run
from raysearch.storage.states import EventName


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
    trust: bool = False,
) -> Run:
    """Runs a search until its budget is met, and returns the run. A run of that name that exists is resumed.

    `address` joins a Ray cluster, otherwise a local one is started; `fork` names a new run; `extend` resumes a run with
    a larger budget or further seeds; `train` is the function that trains a plan, as module:name; `trust` runs Python
    files of primitives that only the run's folder names. Raises SpecError or RunError, one line, before anything
    starts, and KeyboardInterrupt when the user ends the search.
    """
    if isinstance(search, str | Path):
        search = load_file(search, {"executor": executor} if executor else {}, local=address is None)
    elif executor or isinstance(search, Search):  # a search that was loaded from a file is validated already
        search = search if isinstance(search, Search) else search.search
        search = parse_search(replace(search, executor=executor or search.executor))
    try:
        with trusting_all(trust):
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
    _load_user_primitives(parsed.search)
    folder, before, search = _find_run(parsed, name, fork, extend=extend)
    is_new, is_first = not folder.exists(), not folder.parent.exists()
    root = resume.data_root_of(folder, data_root)
    check_files(search.task, root)
    is_tried, parsed = before is None and train == TRAIN, replace(parsed, search=search)
    notes = [*parsed.notes, *(try_configs(search, parsed.node) if is_tried else ())]
    follower = LogFollower(search.logging, folder, quiet=not progress)

    def prepare_data() -> PreparedData:
        prepared = prepare(search.task, search.stored_for.to_plain(), folder / "data", root)
        notes.extend([*prepared.notes, *(rehearse(parsed, prepared, folder / "data") if is_tried else ())])
        return prepared

    try:
        with follower, Ledger.open(folder) as ledger, Session(folder, quiet=not progress) as session:

            def begin(prepared: PreparedData) -> Recorder:
                selection, why = _decide_selection(parsed, prepared, is_new=before is None)
                mended = resume.mend(ledger, folder)
                recorder = _open_recorder(replace(search, selection=selection), ledger, folder, prepared)
                facts = preflight.launch_notes(recorder.study.search, prepared.facts, local=address is None)
                session.follow(recorder, [*mended, *notes, *why, *facts])
                return recorder

            def declare(recorder: Recorder, prepared: PreparedData) -> None:
                resume.store(ledger, before, recorder.study.search, folder, prepared, root, parsed.text)
                follower.start()

            preparing = BackgroundCall(prepare_data)
            Execution(search, session, preparing, begin, declare, address, train).run(is_resumed=before is not None)
            session.remark(record_ensemble(ledger, folder))
            ledger.event(EventName.FINISHED)
    finally:
        if is_new and resume.load_stored_search(folder) is None:
            _remove_rejected(folder, is_first)
    remove_inside(folder, "scratch")
    return open_run(folder)


def _load_user_primitives(search: Search) -> None:
    """Runs the files of primitives that the search names, which would otherwise fail in every worker."""
    search.trust_named_files()
    for space in search.spaces.values():
        load_functions(space.user_primitives.to_plan() if space.user_primitives else {})


def _decide_selection(parsed: ParsedSearch, prepared: PreparedData, *, is_new: bool) -> tuple[Selection, list[str]]:
    """Returns how configurations are scored, and why. Raises SpecError for a new search that needs more examples."""
    selection, why = decide_selection(parsed.search, prepared.sizes)
    if is_new:
        check_examples(parsed.search, parsed.node, prepared.sizes, selection.folds)
    return selection, why


def _remove_rejected(folder: Path, is_first: bool) -> None:
    """Removes the folder of a run that was rejected before it began, and that of runs if it was made for it."""
    shutil.rmtree(folder)
    if is_first:
        folder.parent.rmdir()


def _find_run(
    parsed: ParsedSearch, name: str | None, fork: str | None, *, extend: bool
) -> tuple[Path, Search | None, Search]:
    """Returns the folder of the run, the search that it stores if it has begun, and the search to run."""
    search = parsed.search
    folder = _run_folder(search, name, fork)
    before = resume.load_stored_search(folder)
    if before is None:
        return folder, None, search if parsed.text else with_located_models(search)  # those of a file are located
    if fork:
        raise RunError(f"run {fork} exists already; --fork takes the name of a new run")
    return folder, before, resume.check_resumable(before, search, folder.name, extend=extend)


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
    recorder.reconcile(history.committed, history.reported, history.noted)
    return recorder
