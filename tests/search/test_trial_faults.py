"""What becomes of a trial and its search when something goes wrong in the trial: docs/internals/durability.md."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.plans import MODEL

from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.search.launch import launch
from raysearch.storage.run import Run, open_run

STUB_TRAINING = "helpers.stub_training:train"
FAILS = {  # dropout of the stub's trial, and how the reason ends
    0.81: "the score at step 2 is nan, not a number",
    0.80: "OSError: the disk is full",  # of a primitive's own, without the system's error number
    0.87: "MemoryError",
    0.88: "CUDA out of memory. Tried to allocate 2.00 GiB.",
    0.79: "Permission denied: 'data/train.arrow'",
}


def search_of(task: dict[str, str], folder: Path, *dropouts: float) -> Search:
    return Search.from_dict(
        {
            "name": "tried",
            "task": task,
            "model": MODEL,
            "method": {"weighting": "end_task_only"},
            "settings": {"steps": 8, "eval_every": 2, "batch_size": 8},
            "dimensions": {"dropout": {"choice": list(dropouts)}},
            "sampler": "grid",
            "budget": {"trials": len(dropouts)},
            "executor": "in_process",
            "runs": str(folder / "runs"),
        }
    )


def launch_stub(search: Search) -> Run:
    return launch(search, train=STUB_TRAINING, progress=False)


def events_of(run: Run, name: str) -> list[dict[str, Any]]:
    return [row for row in run.events().to_pylist() if row["event"] == name]


def test_fault_of_a_trial_fails_it_and_the_search_continues(tiny_task: dict[str, str], tmp_path: Path) -> None:
    run = launch_stub(search_of(tiny_task, tmp_path, *FAILS, 0.1))
    rows = {json.loads(row["params"])["dropout"]: row for row in run.trials().to_pylist()}
    reasons = {event["trial_id"]: json.loads(event["detail"])["why"] for event in events_of(run, "failed")}
    assert len(rows) == len(FAILS) + 1
    for dropout, reason in FAILS.items():
        assert rows[dropout]["state"] == "failed"
        assert rows[dropout]["why"].strip().endswith(reason)
        assert reasons[rows[dropout]["trial_id"]].endswith(reason)
    assert rows[0.1]["state"] == "complete"
    assert run.status()["state"] == "finished"


def test_full_disk_ends_the_search_and_the_trial_is_resumed(
    tiny_task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = search_of(tiny_task, tmp_path, 0.89, 0.1, 0.2)
    monkeypatch.setenv("STUB_DISK", "full")
    with pytest.raises(RunError, match=r"No space left on device \(state.safetensors\): free some space and resume"):
        launch_stub(search)
    run = open_run(tmp_path / "runs" / "tried")
    (lost,) = events_of(run, "lost")
    assert "No space left on device" in json.loads(lost["detail"])["why"]
    assert lost["trial_id"] not in run.trials()["trial_id"].to_pylist()
    assert (run.path / "trials" / lost["trial_id"] / "state.json").exists()
    assert run.status()["state"] == "interrupted"
    monkeypatch.delenv("STUB_DISK")
    run = launch_stub(search)
    rows = {row["trial_id"]: row for row in run.trials().to_pylist()}
    assert {row["state"] for row in rows.values()} == {"complete"}
    assert len(rows) == 3
    assert rows[lost["trial_id"]]["attempts"] == 2
    assert run.status()["state"] == "finished"
