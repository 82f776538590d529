"""A run folder that raysearch 0.2.0 wrote, interrupted in its fourth trial, is read, resumed and exported.

data/README.md says how the folder was made.
"""

import json
import shutil
from pathlib import Path

import pytest
from test_pinned import EVENTS, PINNED, machine

from raysearch import Run, load_search, open_run
from raysearch.cli import main
from raysearch.reports.recommendation import recommend
from raysearch.training import checkpoint

pytestmark = pytest.mark.slow  # whole runs, exported or resumed

DATA = Path(__file__).parent / "data"
NAME = "run_0_2_0"
LOSSES = json.loads((DATA / "run_0_2_0_losses.json").read_text())  # of the same search, never interrupted
BEST, CUT = "search-0000-s0-a16db1", "search-0002-s0-2d93ea"


def copied(folder: Path) -> Run:
    shutil.copytree(DATA / NAME, folder / NAME)
    return open_run(folder / NAME)


def run_command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(list(arguments))
    assert end.value.code == 0


def losses(run: Run) -> dict[str, list[list[float]]]:
    """Step and loss of every evaluation on select-dev, by trial."""
    by_trial: dict[str, list[list[float]]] = {}
    for row in run.evaluations().to_pylist():
        if row["split"] == "select_dev":
            by_trial.setdefault(row["trial_id"], []).append([row["step"], row["loss"]])
    return by_trial


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return copied(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Returns the run after it was resumed to its end."""
    run = copied(tmp_path_factory.mktemp("resumed"))
    run_command("resume", str(run.path), "--data", str(DATA), "--json")
    return open_run(run.path)


def test_old_tables_are_read(old: Run) -> None:
    sizes = {table: len(getattr(old, table)()) for table in PINNED["tables"]["columns"]}
    assert sizes == {"searches": 1, "trials": 3, "evaluations": 16, "weights": 1200, "predictions": 0, "events": 16}
    assert old.trials()["state"].to_pylist() == ["complete"] * 3
    assert {trial: LOSSES[trial][: len(rows)] for trial, rows in losses(old).items()} == losses(old)
    weights = old.weights(BEST).to_pylist()
    assert {row["kind"] for row in weights} == {"task", "objective", "primitive"}
    assert weights[0]["weight"] == pytest.approx(0.8, abs=1e-3)


def test_old_run_status_is_interrupted(old: Run) -> None:
    status = old.status()
    assert status["state"] == "interrupted"
    assert status["arms"]["search"]["interrupted"] == 1
    assert status["best"]["trial_id"] == BEST
    assert old.best()["score"] == pytest.approx(0.253411306042885)


def test_old_search_is_the_same_as_its_file(old: Run) -> None:
    assert old.searches()["fingerprint"][0].as_py() == load_search(DATA / "run_0_2_0.yaml").fingerprint


def test_old_weights_are_read(old: Run) -> None:
    best = checkpoint.load(old.path / "trials" / BEST / "best.safetensors")
    assert best["score"] == old.best()["score"]
    assert sum(value.numel() for value in best["parameters"].values()) > 0


def test_old_interrupted_run_is_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(tmp_path)
    run_command("analyze", str(run.path), "--json")
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert tables["leaderboard"]
    assert (run.path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_resumed_old_run_ends_as_if_never_interrupted(resumed: Run) -> None:
    assert resumed.status()["state"] == "finished"
    trials = {row["trial_id"]: row for row in resumed.trials().to_pylist()}
    assert trials.keys() == LOSSES.keys()
    assert {row["state"] for row in trials.values()} == {"complete"}
    by_trial = losses(resumed)
    for trial, pairs in LOSSES.items():
        assert [pytest.approx(pair, rel=1e-3) for pair in pairs] == by_trial[trial]
    if machine() == PINNED["machine"]:
        assert by_trial == LOSSES


def test_resumed_old_trial_goes_on_from_its_checkpoint(resumed: Run) -> None:
    events = resumed.events().to_pylist()
    assert {event["event"] for event in events} <= set(EVENTS)
    assert [e["event"] for e in events if e["trial_id"] == CUT] == [
        "asked", "started", "resumed", "started", "committed", "told",
    ]  # fmt: skip
    rows = resumed.evaluations(CUT).select(["step", "attempt"]).to_pydict()
    assert rows["step"] == [8, 16, 24, 32, 40]
    assert resumed.trials().to_pylist()[3]["attempts"] == 2


@pytest.mark.slow
def test_resumed_old_run_is_analysed(resumed: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("analyze", str(resumed.path), "--json")
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert len(tables["leaderboard"]) == 5


@pytest.mark.parametrize("trial", ["best", "fine_tune"])
def test_old_trial_is_exported(resumed: Run, tmp_path: Path, trial: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("export", str(resumed.path), str(tmp_path / "model"), "--trial", trial, "--json")
    exported = json.loads(capsys.readouterr().out)
    arm = recommend(resumed).arm if trial == "best" else trial
    assert arm is not None
    assert exported["trial_id"] == resumed.best(arm)["trial_id"]
    assert not exported["trained_again"]
    assert exported["select_dev"] == pytest.approx(resumed.best(arm)["score"])
    assert {"config.json", "model.safetensors", "plan.json", "search.yaml", "result.json", "README.md"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }
    assert "opened_test" in resumed.events()["event"].to_pylist()
