"""`logging:` copies the scores of a search that works, and a tracker that cannot be reached changes no trial."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import raysearch
from raysearch.config.loading import parse_search
from raysearch.errors import SpecError
from raysearch.search.log_follower import LOG_NAME

DECLARED = {
    "name": "logged",
    "task": {"kind": "table", "name": "planted", "planted": {"train": 30}},
    "model": {"mlp": [8, 4], "activation": "tanh"},
    "method": {"weighting": "end_task_only"},
    "settings": {"steps": 8, "eval_every": 4, "batch_size": 8},
    "dimensions": {"lr": {"float": [1e-3, 1e-2]}},
    "budget": {"trials": 2},
}


def launch(**more: Any) -> raysearch.Run:
    return raysearch.launch({**DECLARED, **more}, executor="in_process", progress=False)


@pytest.mark.slow
def test_logged_search_fills_tensorboard_and_trains_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    plain = launch(name="plain")
    logged = launch(logging={"tensorboard": "boards"})
    for run in (plain, logged):
        assert run.status()["arms"]["search"]["complete"] == 2
    assert logged.trials()["score"].to_pylist() == plain.trials()["score"].to_pylist()
    log = (logged.path / LOG_NAME).read_text()
    assert "numbers copied" in log, log
    written = {file.parent.name for file in Path("boards/logged").glob("*/events.*")}
    assert written == set(logged.trials()["trial_id"].to_pylist())


@pytest.mark.slow
def test_search_ends_though_its_tracker_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    Path("boards").write_text("a file, where a folder is named")
    run = launch(logging={"tensorboard": "boards"})
    assert run.status()["state"] == "finished"
    log, until = run.path / LOG_NAME, time.monotonic() + 60  # the search does not wait for its tracker
    while "the tracker failed" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.2)
    assert "the tracker failed" in log.read_text()


def test_trackers_are_no_part_of_what_a_search_does() -> None:
    plain = parse_search(DECLARED).search
    logged = parse_search({**DECLARED, "logging": {"tensorboard": "boards"}}).search
    assert logged.fingerprint == plain.fingerprint
    assert plain.differences(logged) == []
    assert logged.to_dict()["logging"] == {"tensorboard": "boards"}
    assert logged.single_trial("search", {"lr": 0.001}, seed=0).logging is None


def test_logging_without_a_tracker_is_refused() -> None:
    with pytest.raises(SpecError, match="logging: must have tensorboard: FOLDER, mlflow: ADDRESS, or both"):
        parse_search({**DECLARED, "logging": {}})
