"""What a run says when it is read: each row once, the best trial, and how far it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest
from helpers.runs import SYNTHETIC_SEARCH, synthetic_plan, write_run

from raysearch.errors import RunError
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run, run_names
from raysearch.storage.schemas import TABLES


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return open_run(write_run(tmp_path_factory.mktemp("runs") / "whole"))


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "runs" / "mine") as opened:
        opened.append("searches", [{"search": "mine", "spec": json.dumps(SYNTHETIC_SEARCH)}], durable=True)
        yield opened


def commit(ledger, number, state="complete", score=0.5, seed=0, arm="search", role="search", **changed):
    plan = synthetic_plan(arm, number, seed, role, {"k": number})
    ledger.event("asked", plan.trial_id, detail={"plan": plan.to_dict()})
    row = {"trial_id": plan.trial_id, "arm": arm, "role": role, "number": number, "seed": seed}
    row |= {"state": state, "score": score, "steps": 100, "best_step": 80, "plan": plan.to_json(), "params": '{"k": 1}'}
    ledger.commit(row | changed)
    return plan.trial_id


def append_evaluations(ledger, trial_id, attempt, steps, score):
    rows = [{"step": step, "split": "select_dev", "score": score} for step in steps]
    ledger.append("evaluations", rows, fill={"trial_id": trial_id, "attempt": attempt}, durable=True)


def test_open_run_accepts_a_name_or_a_path(ledger):
    runs = ledger.folder.parent
    assert open_run("mine", runs) == open_run(ledger.folder) == Run(ledger.folder)
    assert open_run("mine", runs).name == "mine"
    assert run_names(runs) == ["mine"]
    assert run_names(runs / "nowhere") == []
    with pytest.raises(RunError, match=r"no run 'mind' in .*; did you mean 'mine'"):
        open_run("mind", runs)


def test_run_without_its_empty_log_folder_is_read(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "log")
    assert run_names(tmp_path) == ["copy"]
    assert open_run(tmp_path / "copy").best()["trial_id"] == run.best()["trial_id"]


@pytest.mark.parametrize("table", TABLES)
def test_run_tables_have_their_declared_schema(run, table):
    assert getattr(run, table)().schema.equals(TABLES[table], check_metadata=False)
    assert len(getattr(run, table)()) > 0


def test_evaluations_of_a_repeated_step_keep_the_last_attempt(ledger):
    append_evaluations(ledger, "a", 0, [20, 40, 60], 0.1)
    append_evaluations(ledger, "a", 1, [40, 60], 0.2)
    append_evaluations(ledger, "a", 0, [60], 0.3)  # late news of the first attempt
    append_evaluations(ledger, "a", 1, [60], 0.4)  # append_evaluations again by the same attempt
    rows = open_run(ledger.folder).evaluations().select(["step", "attempt", "score"]).to_pylist()
    assert sorted((row["step"], row["attempt"], row["score"]) for row in rows) == [
        (20, 0, 0.1),
        (40, 1, 0.2),
        (60, 1, 0.4),
    ]


def test_run_rows_are_separated_by_split_stage_and_trial(ledger):
    for split in ("select_dev", "test"):
        ledger.append("evaluations", [{"trial_id": "a", "attempt": 0, "step": 9, "split": split}], durable=True)
    for kind, stage, name in (("objective", "", "x"), ("primitive", "output", "x"), ("primitive", "data", "x")):
        for trial_id in ("a", "b"):
            row = {"trial_id": trial_id, "attempt": 0, "step": 9, "kind": kind, "stage": stage, "name": name}
            ledger.append("weights", [row, row], durable=True)
    run = open_run(ledger.folder)
    assert len(run.evaluations()) == 2
    assert len(run.weights()) == 6
    assert set(run.weights("b")["trial_id"].to_pylist()) == {"b"}
    assert len(run.evaluations("b")) == 0


def test_evaluations_after_the_committed_steps_are_dropped(ledger):
    trial_id = commit(ledger, 0, steps=40)
    append_evaluations(ledger, trial_id, 0, [20, 40, 60], 0.1)
    append_evaluations(ledger, "not_ended", 0, [20, 40, 60], 0.1)
    rows = open_run(ledger.folder).evaluations()
    assert rows["step"].to_pylist() == [20, 40, 20, 40, 60]


def test_best_is_highest_complete_score_of_the_arm(ledger):
    commit(ledger, 0, score=0.5)
    best_id = commit(ledger, 1, score=0.6)
    commit(ledger, 2, score=0.9, state="stopped")
    commit(ledger, 3, score=0.95, role="confirm")
    commit(ledger, 4, score=None, state="failed")
    other = commit(ledger, 0, score=0.7, arm="fine_tune")
    run = open_run(ledger.folder)
    assert run.best()["trial_id"] == best_id
    assert run.best("fine_tune")["trial_id"] == other
    assert run.best()["plan"]["weighting"] == "aang"
    assert run.best()["params"] == {"k": 1}


def test_best_falls_back_to_stopped_trials(ledger):
    run = open_run(ledger.folder)
    with pytest.raises(RunError, match="no trial of arm 'search' has ended with a score"):
        run.best()
    commit(ledger, 0, score=0.4, state="failed")
    commit(ledger, 1, score=0.2, state="stopped")
    best_id = commit(ledger, 2, score=0.3, state="stopped")
    assert run.best()["trial_id"] == best_id


def test_status_of_a_finished_run_is_complete(run):
    status = run.status()
    assert json.loads(json.dumps(status)) == status
    assert (status["name"], status["state"], status["pid"]) == ("whole", "finished", None)
    complete = {"asked": 19, "running": 0, "interrupted": 0, "complete": 14, "stopped": 4, "failed": 1}
    assert status["arms"]["search"] == complete
    assert status["arms"]["fine_tune"]["complete"] == 7
    assert status["left"]["trials"] == 0
    assert status["best"]["trial_id"] == run.best()["trial_id"]
    assert status["metric"] == "macro_f1"


def test_status_of_unfinished_trial_is_running_or_interrupted(ledger):
    commit(ledger, 0)
    plan = synthetic_plan("fine_tune", 0, 0, "search", {})
    ledger.event("asked", plan.trial_id, detail={"plan": plan.to_dict()}, durable=True)
    run = open_run(ledger.folder)
    status = run.status()
    assert status["state"] == "running"
    assert isinstance(status["pid"], int)
    assert status["arms"]["fine_tune"]["running"] == 1
    assert status["left"]["trials"] == 15
    ledger.close()
    status = run.status()
    assert (status["state"], status["pid"]) == ("interrupted", None)
    assert status["arms"]["fine_tune"] == {**dict.fromkeys(status["arms"]["search"], 0), "asked": 1, "interrupted": 1}


def test_status_of_a_run_without_a_search_is_empty(tmp_path):
    with Ledger.open(tmp_path / "early"):
        status = open_run(tmp_path / "early").status()
    assert status["best"] is None
    assert status["left"] == {"trials": None, "seconds": None}
    assert status["arms"]["search"]["asked"] == 0


def test_seconds_count_only_search_sessions(ledger):
    run = open_run(ledger.folder)
    time.sleep(0.05)
    assert run.seconds() > 0.05
    ledger.event("finished")
    ledger.close()
    spent = run.seconds()
    time.sleep(0.05)
    with Ledger.open(ledger.folder, purpose="export") as export:
        time.sleep(0.05)
        export.event("opened_test")
        assert run.seconds() == spent
        assert run.status()["state"] == "running"
    assert run.seconds() == spent
    assert run.status()["state"] == "finished"
    with Ledger.open(ledger.folder):
        time.sleep(0.05)
    assert run.seconds() > spent + 0.05
    assert run.status()["state"] == "interrupted"


def test_open_run_imports_neither_torch_nor_ray(run):
    status = f"from raysearch import open_run; open_run({str(run.path)!r}).status()"
    code = (
        f"import os, sys; {status}; print(*sys.modules, flush=True); os._exit(0)"  # what libraries do at exit is theirs
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "optuna", "matplotlib"} & set(modules)
