"""What trackers get is what the run's tables have, once each; a tracker that fails concerns no run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import write_run

from raysearch.errors import RunError
from raysearch.export.trackers import LogCopy, MlflowTracker, TensorBoardTracker, TrialUpdate, open_trackers
from raysearch.storage.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(write_run(tmp_path_factory.mktemp("runs") / "small", trials=3, baselines=1, failing=(1,), moving=False))


class Memory:
    """A tracker that keeps everything, and fails when it is told to."""

    def __init__(self, last: int = -1) -> None:
        self.updates: list[TrialUpdate] = []
        self.last, self.fails = last, False

    def last_step(self, _trial_id: str) -> int:
        return self.last

    def write(self, update: TrialUpdate) -> None:
        if self.fails:
            raise OSError("lost")
        self.updates.append(update)


def scores(run: Run, trial_id: str) -> list[tuple[int, float]]:
    rows = run.evaluations(trial_id).to_pylist()
    return [(row["step"], row["score"]) for row in rows if row["split"] == "select_dev"]


def test_copy_has_every_score_of_every_trial_once(run: Run) -> None:
    tracker = Memory()
    copy = LogCopy(run, [tracker])
    assert copy.update() > 0
    assert copy.update() == 0
    assert [update.trial_id for update in tracker.updates] == run.trials()["trial_id"].to_pylist()
    for update in tracker.updates:
        sent = [(each.step, each.value) for each in update.scalars if each.name == "select_dev/macro_f1"]
        assert sent == scores(run, update.trial_id)
        assert update.ended is not None


def test_copy_begins_after_the_last_step_of_a_tracker(run: Run) -> None:
    tracker = Memory(last=40)
    LogCopy(run, [tracker]).update()
    assert min(each.step for update in tracker.updates for each in update.scalars) > 40


def test_copy_sends_again_what_a_lost_tracker_missed(run: Run) -> None:
    tracker = Memory()
    copy, tracker.fails = LogCopy(run, [tracker]), True
    with pytest.raises(OSError, match="lost"):
        copy.update()
    tracker.fails = False
    copy.update()
    assert len({update.trial_id for update in tracker.updates}) == len(run.trials())


def scalars_of(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yields name, step and value of TensorBoard's event files, read record by record."""
    event_pb2: Any = pytest.importorskip("tensorboardX.proto.event_pb2")
    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            length = int.from_bytes(content[place : place + 8], "little")
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            yield from ((each.tag, event.step, each.simple_value) for each in event.summary.value)


def test_tensorboard_files_hold_the_scores(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for _ in range(2):  # a second copy replaces the first
        LogCopy(run, [TensorBoardTracker(tmp_path, run.name)]).update()
    for row in run.trials().to_pylist():
        written = list(scalars_of(tmp_path / "small" / row["trial_id"]))
        sent = [(step, value) for name, step, value in written if name == "select_dev/macro_f1"]
        assert sent == [(step, pytest.approx(score)) for step, score in scores(run, row["trial_id"])]
        assert (("score", row["best_step"]) in {(name, step) for name, step, _ in written}) == (
            row["score"] is not None
        )


@pytest.mark.slow
@pytest.mark.parametrize("store", ["file", "sqlite"])
@pytest.mark.filterwarnings("ignore")  # those of MLflow's own imports
def test_mlflow_store_is_read_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path}/mlruns" if store == "file" else f"sqlite:///{tmp_path}/mlflow.db"
    assert LogCopy(run, [MlflowTracker(uri, run.name)]).update() > 0
    assert LogCopy(run, [MlflowTracker(uri, run.name)]).update() == 0  # another process
    client = tracking.MlflowClient(uri)
    known = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    rows = {row["trial_id"]: row for row in run.trials().to_pylist()}
    assert {each.data.tags["raysearch.trial"] for each in known} == rows.keys()
    for each in known:
        row = rows[each.data.tags["raysearch.trial"]]
        history = client.get_metric_history(each.info.run_id, "select_dev/macro_f1")
        assert [(m.step, m.value) for m in history] == scores(run, row["trial_id"])
        status = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[row["state"]]
        assert each.info.status == status
        assert each.data.params["steps"] == "120"


def test_trackers_need_a_name() -> None:
    with pytest.raises(RunError, match="name a tracker"):
        open_trackers("a", None, None)
