"""Every storage operation of a search may end the process, tear a file or find the disk full: nothing is lost or twice.

A search runs until its operation number n goes wrong, and is then launched again. Afterwards every trial was handed
out, committed and told once, with each of its evaluations once, and the budget is met.
"""

import contextlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.faults import KINDS, Faults, ProcessEnds
from helpers.plans import MODEL

from raysearch.config.search_config import Search
from raysearch.search.launch import launch
from raysearch.storage import ledger
from raysearch.storage.run import Run, open_run

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of files left open
STUB_TRAINING = "helpers.stub_training:train"
TRIALS = 3
STRIDE = 3  # of so many operations one is tried with each kind of fault in the slow suite
FEW = 24  # faults that are tried in the fast suite, spread over operations and kinds


@pytest.fixture(scope="module")
def declared(tiny_task: dict[str, str]) -> dict[str, Any]:
    return {
        "name": "tried",
        "task": tiny_task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": 4, "eval_every": 2, "batch_size": 8},
        "dimensions": {"dropout": {"choice": [0.1, 0.2, 0.80]}},  # the last one fails, see stub_training
        "sampler": "grid",
        "budget": {"trials": TRIALS},
        "keep": 1,
        "executor": "in_process",
    }


def run_to_the_end(declared: dict[str, Any], runs: Path) -> Run:
    search = Search.from_dict({**declared, "runs": str(runs)})
    return launch(search, train=STUB_TRAINING, progress=False)


@pytest.fixture(scope="module")
def operations(declared: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The storage operations of the whole search, in order."""
    runs = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults = Faults(monkeypatch, runs / "tried")
        run_to_the_end(declared, runs)
    return faults.log


def check_fault(declared: dict[str, Any], runs: Path, kind: str, number: int) -> str:
    """Runs a search with one fault, launches it again and returns what is wrong afterwards; empty if nothing is."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Faults(monkeypatch, runs / "tried", kind, number)
        with contextlib.suppress(ProcessEnds, Exception):
            run_to_the_end(declared, runs)
    try:
        run = run_to_the_end(declared, runs)
    except Exception as error:
        return f"not launched again: {type(error).__name__}: {error}"
    return violation(run)


def violation(run: Run) -> str:
    """Returns which invariant does not hold; empty if all do."""
    rows, events = run.trials().to_pylist(), run.events().to_pylist()
    ids = [row["trial_id"] for row in rows]
    if len(ids) != TRIALS or len(set(ids)) != TRIALS:
        return f"committed: {ids}"
    for name in ("asked", "committed", "told"):
        counts = Counter(event["trial_id"] for event in events if event["event"] == name)
        if counts != dict.fromkeys(ids, 1):
            return f"{name}: {dict(counts)}"
    failed = [row["trial_id"] for row in rows if row["state"] == "failed"]
    counts = Counter(event["trial_id"] for event in events if event["event"] == "failed")
    if counts != dict.fromkeys(failed, 1):
        return f"failed: {dict(counts)}"
    evaluations = run.evaluations().to_pylist()
    for row in rows:
        steps = [each["step"] for each in evaluations if each["trial_id"] == row["trial_id"]]
        if steps != list(range(2, (row["steps"] or 0) + 1, 2)):
            return f"{row['trial_id']}: steps {steps} of {row['steps']}"
        score = 1 - json.loads(row["plan"])["settings"]["lr"]
        if row["state"] == "complete" and abs(row["score"] - score) > 1e-6:
            return f"{row['trial_id']}: score {row['score']}"
    if run.status()["state"] != "finished":
        return run.status()["state"]
    left = {path.name for path in (run.path / "trials").iterdir()} if (run.path / "trials").exists() else set()
    if len(left) > 1 or not left <= set(ids):
        return f"folders of trials: {left}"
    if unfinished := [path.name for path in run.path.rglob("*.tmp")]:
        return f"unfinished files: {unfinished}"
    return ""


def try_faults(declared: dict[str, Any], folder: Path, cases: list[tuple[str, int]], operations: list[str]) -> None:
    problems = []
    for kind, number in cases:
        runs = folder / f"{number}-{kind.replace(' ', '_')}"
        if problem := check_fault(declared, runs, kind, number):
            problems.append(f"{kind} at {number} ({operations[number]}): {problem}")
        shutil.rmtree(runs, ignore_errors=True)
    assert problems == []


def test_search_with_faults_here_and_there_ends_exactly(
    declared: dict[str, Any], operations: list[str], tmp_path: Path
) -> None:
    stride = max(1, len(operations) // FEW)
    cases = [(KINDS[i % len(KINDS)], number) for i, number in enumerate(range(0, len(operations), stride))]
    try_faults(declared, tmp_path, cases, operations)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_search_with_each_kind_of_fault_ends_exactly(
    declared: dict[str, Any], operations: list[str], tmp_path: Path, kind: str
) -> None:
    numbers = range(KINDS.index(kind) % STRIDE, len(operations), STRIDE)
    try_faults(declared, tmp_path, [(kind, number) for number in numbers], operations)


def test_directory_that_is_not_synced_gives_no_row_twice(tmp_path: Path) -> None:
    """ENOSPC at the sync after a rename: the file is there, and its rows must not be written again."""
    opened = ledger.Ledger.open(tmp_path / "run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened.event("asked", "a")
        faults = Faults(monkeypatch, tmp_path / "run", "full once", 2)  # fsync, replace, fsync of the folder
        with pytest.raises(OSError, match="No space left"):
            opened.flush()
        assert faults.log[2].endswith("/log")
        opened.event("asked", "b")
        opened.close()
    names = [row["trial_id"] for row in open_run(tmp_path / "run").events().to_pylist() if row["event"] == "asked"]
    assert names == ["a", "b"]
