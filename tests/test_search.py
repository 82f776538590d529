"""Search: whole searches with a stand-in for training, in this process and on Ray, disturbed in every way."""

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
from tiny import MODEL

from raysearch.config.search_config import Search
from raysearch.errors import RunError, SpecError
from raysearch.search import launch as module
from raysearch.search.launch import launch
from raysearch.storage.run import Run, open_run
from raysearch.storage.schemas import Report

FAKE = "fake_training:train"
TESTS = Path(__file__).parent
WHY = {
    0.80: "OSError: the disk is full",
    0.81: "the score at step 2 is nan, not a number",
    0.85: "ArithmeticError: the loss is nan",
}


@pytest.fixture
def declare(tiny_task: dict[str, str], tmp_path: Path) -> Any:
    """A search of the tiny task with everything in the test's folder; keywords replace what it declares."""

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


def run_of(search: Search, **more: Any) -> Run:
    return launch(search, train=FAKE, progress=False, **more)


def events(run: Run, name: str) -> Counter[str]:
    table = run.events().to_pylist()
    return Counter(row["trial_id"] for row in table if row["event"] == name)


def assert_sound(run: Run, trials: int) -> None:
    """The budget is met exactly; every trial was asked, committed and told once, and has its rows."""
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


def test_a_search_in_this_process_is_recorded_whole(declare: Any) -> None:
    search = declare(seeds=[0, 1], confirm={"seeds": [7]}, keep=1)
    run = run_of(search)
    assert_sound(run, 4 * 2 + 1)
    rows = run.trials().to_pylist()
    assert {row["device"] for row in rows} == {"cpu"}
    assert [row["role"] for row in rows].count("confirm") == 1
    assert run.best()["score"] == max(row["score"] for row in rows)
    assert Search.from_dict(json.loads((run.path / "search.json").read_text())) == search
    assert len(list((run.path / "trials").iterdir())) == 1
    assert not (run.path / "scratch").exists()
    assert json.loads(run.searches()["versions"][0].as_py())["optuna"]


def test_failures_are_rows_with_what_is_known_and_the_search_goes_on(declare: Any) -> None:
    run = run_of(declare(dimensions={"dropout": {"choice": [0.1, 0.80, 0.81, 0.85]}}, sampler="grid"))
    assert_sound(run, 4)
    for row in run.trials().to_pylist():
        why = WHY.get(json.loads(row["params"])["dropout"])
        assert row["state"] == ("failed" if why else "complete")
        assert why is None or why in row["why"]
    assert sum(events(run, "failed").values()) == 3


def test_a_search_that_is_done_is_not_done_again(declare: Any) -> None:
    search = declare()
    before = run_of(search).trials()
    assert run_of(search).trials().equals(before)


def test_a_changed_search_says_what_changed_and_can_be_forked_or_extended(declare: Any) -> None:
    run_of(declare())
    with pytest.raises(RunError, match=r"another search: budget.trials: 4 -> 6; --fork NEW_NAME .*, --extend goes on"):
        run_of(declare(budget={"trials": 6}))
    extended = run_of(declare(budget={"trials": 6}, seeds=[0, 3]), extend=True)
    assert_sound(extended, 12)
    assert extended.searches().num_rows == 2
    other = declare(budget={"trials": 6}, dimensions={"lr": {"float": [0.01, 0.5]}})
    with pytest.raises(
        RunError, match=r"dimensions\.lr.*only budget, confirm, further seeds.*--fork NEW_NAME begins"
    ) as at:
        run_of(other, extend=True)
    assert "seeds" in str(at.value)
    forked = run_of(other, fork="beside")
    assert forked.name == "beside"
    assert_sound(forked, 6)
    with pytest.raises(RunError, match="run beside exists already"):
        run_of(other, fork="beside")


def test_seeds_that_are_taken_away_are_no_extension(declare: Any) -> None:
    run_of(declare(seeds=[0, 1]))
    with pytest.raises(RunError, match=r"seeds: \[0, 1\] -> \[1\].*--fork"):
        run_of(declare(seeds=[1]), extend=True)


def test_how_a_run_is_executed_may_change_without_a_word(declare: Any) -> None:
    run_of(declare(keep=3))
    assert_sound(run_of(declare(keep=-1)), 4)


def test_a_search_that_makes_no_sense_is_refused(declare: Any) -> None:
    with pytest.raises(SpecError, match="executor 'in_process' stops no trial"):
        run_of(declare(executor="fleet", scheduler={"asha": {"grace": 2}}), executor="in_process")


def test_a_search_that_is_refused_leaves_nothing_behind(declare: Any) -> None:
    search = declare(executor="fleet")
    with pytest.raises(RunError, match="Ray Client is not supported"):
        run_of(search, address="ray://nowhere:1")
    assert not (Path(search.runs) / "tried").exists()


def test_ctrl_c_leaves_the_trial_unfinished_and_a_later_launch_goes_on_with_it(
    declare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reported, before = 0, signal.getsignal(signal.SIGINT)  # ignored where the tests run behind a shell
    hear = module.Recorder.hear

    def pressing(self: Any, said: Any) -> None:
        nonlocal reported
        hear(self, said)
        reported += said.kind == "reports"
        if reported == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module.Recorder, "hear", pressing)
    search = declare()
    with pytest.raises(KeyboardInterrupt):
        launch(search, train=FAKE)
    assert "interrupted; 1 trial is unfinished; raysearch resume tried goes on" in capsys.readouterr().err
    run = open_run(Path(search.runs) / "tried")
    assert run.trials().num_rows == 1
    assert run.status()["state"] == "interrupted"
    monkeypatch.undo()
    run = run_of(search)
    assert_sound(run, 4)
    second = run.trials().to_pylist()[1]
    assert second["attempts"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_trial_without_a_score_has_failed(declare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unscored = Report(2, {"step": 2, "split": "select_dev"}, None)
    monkeypatch.setattr("fake_training._report", Mock(return_value=unscored))
    run = run_of(declare(budget={"trials": 1}))
    row = run.trials().to_pylist()[0]
    assert (row["state"], row["why"], row["score"]) == ("failed", "it ended without a score", None)


# ---- on Ray ----


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    """One Ray session for all tests here; workers find the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("FAKE_SECONDS", "0.1")  # time for a stop to arrive
        for name, value in module.ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray

        from raysearch.executors.worker_groups import NAMESPACE, SLOT

        ray.init(
            address="local",
            num_cpus=2,
            resources={SLOT: 4},
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
@pytest.mark.usefixtures("on_ray")
def test_a_search_with_two_ranks_survives_every_kind_of_failure(declare: Any) -> None:
    dropout = {"choice": [0.1, 0.80, 0.81, 0.82, 0.84, 0.85]}
    choices = [0.0001, 0.3, 0.5, 0.7, 0.8]  # beside 5e-4, where it is not drawn: only the first is never stopped
    dimensions = {"dropout": dropout, "lr": {"choice": choices, "when": {"dropout": [0.1]}}}
    search = declare(
        executor="fleet",
        dimensions=dimensions,
        budget={"trials": 10},
        sampler="grid",
        scheduler={"asha": {"grace": 2, "reduction": 2}},
        resources={"workers": 2, "cpus": 1},
    )
    run = run_of(search)
    assert_sound(run, 10)
    drawn = [(json.loads(row["params"]), row) for row in run.trials().to_pylist()]
    rows = {params["dropout"]: row for params, row in drawn if "lr" not in params}
    for case, why in WHY.items():
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
@pytest.mark.usefixtures("on_ray")
def test_a_train_run_for_every_trial_gives_back_what_it_took(declare: Any) -> None:
    import ray

    search = declare(
        executor="train_run",
        dimensions={"lr": {"choice": [0.5, 0.1]}},  # which the grid asks for from the last on
        budget={"trials": 2},
        sampler="grid",
        scheduler={"asha": {"grace": 2, "reduction": 2}},
        resources={"workers": 1, "cpus": 1, "groups": 1},
    )
    run = run_of(search)
    assert_sound(run, 2)
    assert run.trials()["state"].to_pylist() == ["complete", "stopped"]
    assert ray.available_resources()["CPU"] == 2


@pytest.mark.slow
@ray_warns
@pytest.mark.usefixtures("on_ray")
def test_drivers_that_are_killed_and_interrupted_lose_and_repeat_nothing(
    declare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = declare(
        executor="fleet",
        budget={"trials": 10},
        scheduler={"asha": {"grace": 4, "reduction": 3}},
        resources={"workers": 1, "cpus": 1, "groups": 1},
    )
    committed = killed_after(3, search, tmp_path / "search.json")

    hear, further = module.Recorder.hear, 0

    def pressing(self: Any, said: Any) -> None:
        nonlocal further
        hear(self, said)
        further += said.kind == "ended"
        if further == 2 and said.kind == "reports":
            os.kill(os.getpid(), signal.SIGINT)
            further += 1

    with monkeypatch.context() as patch:
        patch.setattr(module.Recorder, "hear", pressing)
        with pytest.raises(KeyboardInterrupt):
            run_of(search)
    run = open_run(Path(search.runs) / "tried")
    later = run.trials()["trial_id"].to_pylist()
    assert later[: len(committed)] == committed
    assert len(committed) + 2 <= len(later) < 10

    assert_sound(run_of(search), 10)
    assert run.trials()["trial_id"].to_pylist()[: len(later)] == later
    assert any(row["attempts"] > 1 for row in run.trials().to_pylist()), "what was in flight was gone on with"


def killed_after(commits: int, search: Search, file: Path) -> list[str]:
    """Trials committed by a driver in a process of its own that is killed after so many."""
    file.write_text(json.dumps(search.to_dict()))
    driver = subprocess.Popen([sys.executable, TESTS / "fake_training.py", file], stderr=subprocess.PIPE, text=True)
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
