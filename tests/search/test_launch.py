"""Whole searches with a stub instead of training, in this process and on Ray, with every kind of failure."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers.plans import MODEL

from raysearch.config.search_config import Search
from raysearch.errors import RunError, SpecError
from raysearch.executors.ray_environment import RAY_ENVIRONMENT
from raysearch.search import launch as module
from raysearch.search.launch import launch
from raysearch.storage.run import Run, open_run
from raysearch.storage.schemas import Report

STUB_TRAINING = "helpers.stub_training:train"
TESTS = Path(__file__).parent.parent
WORKER_PATH = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])  # for the stub
FAILURE_REASONS = {
    0.80: "OSError: the disk is full",
    0.81: "the score at step 2 is nan, not a number",
    0.85: "ArithmeticError: the loss is nan",
}


@pytest.fixture
def make_search(tiny_task: dict[str, str], tmp_path: Path) -> Any:
    """Returns a function that makes a search of the tiny task in the test's folder; keywords replace sections."""

    def declared(**more: Any) -> Search:
        return Search.from_dict(
            {
                "name": "tried",
                "task": tiny_task,
                "model": MODEL,
                "method": {"weighting": "end_task_only"},
                "settings": {"steps": 8, "eval_every": 2, "batch_size": 8},
                "dimensions": {"lr": {"float": [0.01, 0.9]}},
                "budget": {"trials": 4},
                "executor": "in_process",
                "runs": str(tmp_path / "runs"),
            }
            | more
        )

    return declared


def launch_stub(search: Search, **more: Any) -> Run:
    return launch(search, train=STUB_TRAINING, progress=False, **more)


def events(run: Run, name: str) -> Counter[str]:
    table = run.events().to_pylist()
    return Counter(row["trial_id"] for row in table if row["event"] == name)


def assert_consistent(run: Run, trials: int) -> None:
    """Asserts that the budget is met, and that every trial was asked, committed and told once, with its rows."""
    rows = run.trials().to_pylist()
    ids = [row["trial_id"] for row in rows]
    assert len(ids) == len(set(ids)) == trials
    once = dict.fromkeys(ids, 1)
    assert events(run, "asked") == events(run, "committed") == events(run, "told") == once
    evaluations = run.evaluations().to_pylist()
    for row in rows:
        steps = [e["step"] for e in evaluations if e["trial_id"] == row["trial_id"]]
        assert steps == list(range(2, (row["steps"] or 0) + 1, 2))
        if row["state"] == "complete":
            assert (row["steps"], row["score"], row["best_step"]) == (
                8,
                pytest.approx(1 - json.loads(row["plan"])["settings"]["lr"]),
                8,
            )
    assert run.status()["state"] == "finished"


# ---- in this process ----


def test_launch_in_process_records_everything(make_search: Any) -> None:
    search = make_search(seeds=[0, 1], confirm={"seeds": [7]}, keep=1)
    run = launch_stub(search)
    assert_consistent(run, 4 * 2 + 1)
    rows = run.trials().to_pylist()
    assert {row["device"] for row in rows} == {"cpu"}
    assert [row["role"] for row in rows].count("confirm") == 1
    assert run.best()["score"] == max(row["score"] for row in rows)
    assert Search.from_dict(json.loads((run.path / "search.json").read_text())) == search
    assert len(list((run.path / "trials").iterdir())) == 1
    assert not (run.path / "scratch").exists()
    assert json.loads(run.searches()["versions"][0].as_py())["optuna"]


def test_launch_with_failing_trials_records_them_and_continues(make_search: Any) -> None:
    run = launch_stub(make_search(dimensions={"dropout": {"choice": [0.1, 0.80, 0.81, 0.85]}}, sampler="grid"))
    assert_consistent(run, 4)
    for row in run.trials().to_pylist():
        why = FAILURE_REASONS.get(json.loads(row["params"])["dropout"])
        assert row["state"] == ("failed" if why else "complete")
        assert why is None or why in row["why"]
    assert sum(events(run, "failed").values()) == 3


def test_launch_of_a_finished_search_runs_nothing(make_search: Any) -> None:
    search = make_search()
    before = launch_stub(search).trials()
    assert launch_stub(search).trials().equals(before)


def test_launch_of_a_changed_search_can_fork_or_extend(make_search: Any) -> None:
    launch_stub(make_search())
    with pytest.raises(
        RunError, match=r"another search: budget.trials: 4 -> 6; --fork NEW_NAME .*, --extend continues"
    ):
        launch_stub(make_search(budget={"trials": 6}))
    extended = launch_stub(make_search(budget={"trials": 6}, seeds=[0, 3]), extend=True)
    assert_consistent(extended, 12)
    assert extended.searches().num_rows == 2
    other = make_search(budget={"trials": 6}, dimensions={"lr": {"float": [0.01, 0.5]}})
    with pytest.raises(
        RunError, match=r"dimensions\.lr.*only budget, confirm, further seeds.*--fork NEW_NAME starts"
    ) as at:
        launch_stub(other, extend=True)
    assert "seeds" in str(at.value)
    forked = launch_stub(other, fork="forked")
    assert forked.name == "forked"
    assert_consistent(forked, 6)
    with pytest.raises(RunError, match="run forked exists already"):
        launch_stub(other, fork="forked")


def test_launch_with_removed_seeds_is_no_extension(make_search: Any) -> None:
    launch_stub(make_search(seeds=[0, 1]))
    with pytest.raises(RunError, match=r"seeds: \[0, 1\] -> \[1\].*--fork"):
        launch_stub(make_search(seeds=[1]), extend=True)


def test_launch_with_changed_execution_settings_is_allowed(make_search: Any) -> None:
    launch_stub(make_search(keep=3))
    assert_consistent(launch_stub(make_search(keep=-1)), 4)


def test_launch_of_an_invalid_search_is_rejected(make_search: Any) -> None:
    with pytest.raises(SpecError, match="executor 'in_process' stops no trial"):
        launch_stub(make_search(executor="fleet", scheduler={"asha": {"grace": 2}}), executor="in_process")


def test_launch_that_is_rejected_leaves_no_files(make_search: Any) -> None:
    search = make_search(executor="fleet")
    with pytest.raises(RunError, match="Ray Client is not supported"):
        launch_stub(search, address="ray://nowhere:1")
    assert not (Path(search.runs) / "tried").exists()


def test_launch_after_ctrl_c_resumes_the_unfinished_trial(
    make_search: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reported, before = 0, signal.getsignal(signal.SIGINT)  # ignored where the tests run behind a shell
    handle = module.Recorder.handle

    def handle_then_interrupt(self: Any, event: Any) -> None:
        nonlocal reported
        handle(self, event)
        reported += event.kind == "reports"
        if reported == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module.Recorder, "handle", handle_then_interrupt)
    search = make_search()
    with pytest.raises(KeyboardInterrupt):
        launch(search, train=STUB_TRAINING)
    run, printed = open_run(Path(search.runs) / "tried"), capsys.readouterr().err
    assert f"interrupted; 1 trial is unfinished; resume it with: raysearch resume {run.path.resolve()}\n" in printed
    assert "stopping: 1 trial saved, 1 unfinished trial to be resumed; Ctrl-C again leaves at once" in printed
    assert run.trials().num_rows == 1
    assert run.status()["state"] == "interrupted"
    monkeypatch.undo()
    run = launch_stub(search)
    assert_consistent(run, 4)
    second = run.trials().to_pylist()[1]
    assert second["attempts"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_launch_with_bad_data_is_refused_before_ray_starts(make_search: Any, tmp_path: Path) -> None:
    task = {"name": "tiny", "metric": "accuracy", "train": str(tmp_path / "absent.jsonl")}
    search = make_search(task=task, executor="fleet")
    with pytest.raises(SpecError, match="no file"):
        launch_stub(search)
    assert not (Path(search.runs) / "tried").exists()


def test_launch_says_what_it_waits_for(make_search: Any, capsys: pytest.CaptureFixture[str]) -> None:
    launch(make_search(), train=STUB_TRAINING)
    lines = capsys.readouterr().err.splitlines()
    stages = [line for line in lines if line.endswith(" ...")]
    assert stages[:2] == ["reading the data ...", "starting the first trial ..."]
    assert stages[2].startswith("the first trial began after ")
    assert len(stages) == 3
    assert [line.split()[0] for line in lines if "complete" in line] == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.slow
def test_interrupt_while_ray_starts_is_answered(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from raysearch.cli.main import main; main()", "launch", "smoke"]
    with subprocess.Popen([*words, "--runs", tmp_path / "runs"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "starting Ray while the data are read ...\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        answer = process.stderr.readline()
        assert time.monotonic() - start < 2  # on a busy machine; 0.5 s are aimed at
        assert answer == "stopping: no trial has begun; Ctrl-C again leaves at once\n"
        assert process.stderr.read() == "raysearch: interrupted\n"
        assert process.wait(60) == 130
    assert not (tmp_path / "runs" / "smoke").exists()


def test_launch_trial_without_a_score_has_failed(make_search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unscored = Report(2, {"step": 2, "split": "select_dev"}, None)
    monkeypatch.setattr("helpers.stub_training._report", Mock(return_value=unscored))
    run = launch_stub(make_search(budget={"trials": 1}))
    row = run.trials().to_pylist()[0]
    assert (row["state"], row["why"], row["score"]) == ("failed", "it ended without a score", None)


# ---- on Ray ----


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """Starts one Ray session for all tests of this module, whose workers find the stub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", WORKER_PATH)
        patch.setenv("STUB_SECONDS", "0.1")  # time for a stop to arrive
        for name, value in RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray

        from raysearch.executors.messages import NAMESPACE

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 << 20,
            log_to_driver=False,
            logging_level="critical",
            namespace=NAMESPACE,
        )
        yield
        ray.shutdown()


ray_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


@pytest.mark.slow
@ray_warns
@pytest.mark.usefixtures("ray_session")
def test_launch_on_two_ranks_survives_every_failure(make_search: Any) -> None:
    dropout = {"choice": [0.1, 0.80, 0.81, 0.82, 0.84, 0.85]}
    choices = [0.0001, 0.3, 0.5, 0.7, 0.8]  # the first is better than the default 5e-4, and is never stopped
    dimensions = {"dropout": dropout, "lr": {"choice": choices, "when": {"dropout": [0.1]}}}
    search = make_search(
        executor="fleet",
        dimensions=dimensions,
        budget={"trials": 10},
        sampler="grid",
        scheduler={"asha": {"grace": 2, "reduction": 2}},
        resources={"workers": 2, "cpus": 1},
    )
    run = launch_stub(search)
    assert_consistent(run, 10)
    drawn = [(json.loads(row["params"]), row) for row in run.trials().to_pylist()]
    rows = {params["dropout"]: row for params, row in drawn if "lr" not in params}
    for case, why in FAILURE_REASONS.items():
        assert rows[case]["state"] == "failed"
        assert why in rows[case]["why"]
    for case in (0.82, 0.84):
        assert (rows[case]["state"], rows[case]["attempts"]) == ("complete", 2)
    sound = [row for params, row in drawn if "lr" in params]
    assert {row["state"] for row in sound} == {"complete", "stopped"}
    assert max(sound, key=lambda row: row["score"])["state"] == "complete"
    assert all(row["steps"] < 8 for row in sound if row["state"] == "stopped")
    assert {row["workers"] for row in run.trials().to_pylist()} == {2}


@pytest.mark.slow
@ray_warns
@pytest.mark.usefixtures("ray_session")
def test_launch_ends_a_trial_that_hangs_and_continues(make_search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSEARCH_HANG_SECONDS", "12")
    dimensions = {"dropout": {"choice": [0.1, 0.86]}}
    run = launch_stub(make_search(executor="fleet", dimensions=dimensions, budget={"trials": 2}, sampler="grid"))
    assert_consistent(run, 2)
    rows = {json.loads(row["params"])["dropout"]: row for row in run.trials().to_pylist()}
    assert rows[0.1]["state"] == "complete"
    assert (rows[0.86]["state"], rows[0.86]["attempts"]) == ("failed", 2)
    assert "brought down its worker group 2 times; the last time: hangs: no report for 12 s" in rows[0.86]["why"]
    lost = [event["detail"] for event in run.events().to_pylist() if event["event"] == "lost"]
    assert len(lost) == 2
    assert all("hangs: no report for" in detail for detail in lost)


@pytest.mark.slow
@ray_warns
@pytest.mark.usefixtures("ray_session")
def test_launch_with_train_runs_releases_its_resources(make_search: Any) -> None:
    import ray

    search = make_search(
        executor="train_run",
        dimensions={"lr": {"choice": [0.5, 0.1]}},  # the grid is shuffled: it draws the last one first
        budget={"trials": 2},
        sampler="grid",
        scheduler={"asha": {"grace": 2, "reduction": 2}},
        resources={"workers": 1, "cpus": 1, "groups": 1},
    )
    run = launch_stub(search)
    assert_consistent(run, 2)
    assert run.trials()["state"].to_pylist() == ["complete", "stopped"]
    assert ray.available_resources()["CPU"] == 2


@pytest.mark.slow
@ray_warns
@pytest.mark.usefixtures("ray_session")
def test_launch_after_kill_loses_and_repeats_nothing(
    make_search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search(
        executor="fleet",
        budget={"trials": 10},
        scheduler={"asha": {"grace": 4, "reduction": 3}},
        resources={"workers": 1, "cpus": 1, "groups": 1},
    )
    committed = kill_driver_after(3, search, tmp_path / "search.json")

    handle, ended = module.Recorder.handle, 0

    def handle_then_interrupt(self: Any, event: Any) -> None:
        nonlocal ended
        handle(self, event)
        ended += event.kind == "ended"
        if ended == 2 and event.kind == "reports":
            os.kill(os.getpid(), signal.SIGINT)
            ended += 1

    with monkeypatch.context() as patch:
        patch.setattr(module.Recorder, "handle", handle_then_interrupt)
        with pytest.raises(KeyboardInterrupt):
            launch_stub(search)
    run = open_run(Path(search.runs) / "tried")
    later = run.trials()["trial_id"].to_pylist()
    assert later[: len(committed)] == committed
    assert len(committed) + 2 <= len(later) < 10

    assert_consistent(launch_stub(search), 10)
    assert run.trials()["trial_id"].to_pylist()[: len(later)] == later
    assert any(row["attempts"] > 1 for row in run.trials().to_pylist()), "a trial in flight was resumed"


def kill_driver_after(commits: int, search: Search, file: Path) -> list[str]:
    """Returns the trials that a driver in a process of its own has committed before it is killed."""
    file.write_text(json.dumps(search.to_dict()))
    driver = subprocess.Popen(
        [sys.executable, "-m", "helpers.stub_training", file],
        env={**os.environ, "PYTHONPATH": WORKER_PATH},
        stderr=subprocess.PIPE,
        text=True,
    )
    folder, until = Path(search.runs) / search.name, time.monotonic() + 120
    while True:
        with contextlib.suppress(RunError):
            if open_run(folder).trials().num_rows >= commits:
                break
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    driver.kill()
    driver.communicate(timeout=60)
    ids: list[str] = open_run(folder).trials()["trial_id"].to_pylist()
    return ids
