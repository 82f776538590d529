"""A whole search whose arms are averaged: rows, members, scores, export, resume, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.plans import MODEL
from sklearn.metrics import accuracy_score

import raysearch
from raysearch.config.loading import parse_search
from raysearch.config.search_config import Search
from raysearch.config.sections import Confirm
from raysearch.errors import RunError, SpecError
from raysearch.export.exporter import export
from raysearch.export.final import score_arms_on_test
from raysearch.models.averaging import LOWEST
from raysearch.reports.query import analyze
from raysearch.search.ensemble import record_ensemble
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run

SETTINGS = {"steps": 4, "batch_size": 4, "eval_every": 2, "max_length": 16}
ALONE: dict[str, Any] = {"method": {"weighting": "end_task_only"}}


def declare(task: Any, runs: Path, **more: Any) -> Search:
    declared = {
        "name": "mean",
        "task": task,
        "model": MODEL,
        **ALONE,
        "settings": SETTINGS,
        "dimensions": {"lr": {"choice": [1e-3, 3e-3]}},
        "baselines": {"tfidf_lr": {"trials": 1}, "slow": {**ALONE, "settings": {"lr": 1e-4}, "trials": 1}},
        "budget": {"trials": 1},
        "confirm": {"seeds": [7, 8]},
        "ensemble": True,
        "executor": "in_process",
        "runs": str(runs),
    }
    return Search.from_dict(declared | more)


@pytest.fixture(scope="module", params=[0, 3], ids=["split", "folds"])
def run(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory, request: Any) -> Run:
    selection = {"selection": {"folds": request.param}} if request.param else {}
    return raysearch.launch(declare(tiny_task, tmp_path_factory.mktemp("runs"), **selection), progress=False)


def rows_of(run: Run, role: str) -> list[dict[str, Any]]:
    rows = [row for row in run.trials().to_pylist() if (row["arm"], row["role"]) == ("ensemble", role)]
    return [{**row, "plan": json.loads(row["plan"])} for row in rows]


def mean_by_hand(run: Run, cell: dict[str, Any]) -> float:
    """The accuracy of the weighted members on the rows of a cell, from the table of predictions alone."""
    total: dict[int, np.ndarray] = {}
    labels: dict[int, int] = {}
    plans = {row["trial_id"]: row for row in run.trials().to_pylist() if row["arm"] != "ensemble"}
    for member in cell["plan"]["members"]:
        (trial,) = (
            name
            for name, row in plans.items()
            if (row["arm"], row["number"], row["role"], row["seed"])
            == (member["arm"], member["number"], "confirm", cell["seed"])
            and json.loads(row["plan"])["fold"] == cell["plan"]["fold"]
        )
        for row in run.predictions(trial).to_pylist():
            z = np.array(row["outputs"])
            p = np.maximum(np.exp(z - z.max()) / np.exp(z - z.max()).sum(), LOWEST)
            total[row["row"]] = total.get(row["row"], 0) + member["weight"] * np.log(p)
            labels[row["row"]] = int(row["target"][0])
    return float(accuracy_score([labels[row] for row in total], [each.argmax() for each in total.values()]))


@pytest.mark.slow
def test_ensemble_scores_what_its_members_gave(run: Run) -> None:
    fresh = rows_of(run, "confirm")
    assert {row["seed"] for row in fresh} == {7, 8}
    assert len(rows_of(run, "search")) == len(run.cells)
    assert all(row["score"] == pytest.approx(mean_by_hand(run, row)) for row in fresh)
    members = fresh[0]["plan"]["members"]
    assert {each["arm"] for each in members} <= {"search", "tfidf_lr", "slow"}
    assert all(each["weight"] > 0 for each in members)
    choice = run.best_arm()
    assert choice is not None
    assert "ensemble" in {each.arm for each in choice.ranked}
    assert "ensemble" in analyze(run)["arms"]["arm"].to_pylist()


@pytest.mark.slow
def test_exported_ensemble_is_used_like_one_model(run: Run, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "model", arm="ensemble")
    model = raysearch.load_model(tmp_path / "model")
    rows = [json.loads(line) for line in Path(run.search["task"]["test"]).read_text().splitlines()]
    predicted = model.predict([row["text"] for row in rows])
    assert exported.test == pytest.approx(accuracy_score([row["label"] for row in rows], predicted))
    assert exported.trained_again == any("trained a second time" in note for note in exported.notes)
    assert exported.confirmed == pytest.approx([score for _, score in sorted(fresh_means(run).items())])
    assert "weighted mean of their log-probabilities" in (tmp_path / "model" / "README.md").read_text()
    for member in json.loads((tmp_path / "model" / "config.json").read_text())["members"]:
        assert (tmp_path / "model" / member["folder"] / "search.yaml").exists()
    with pytest.raises(RunError, match="--verify is for one model"):
        export(run, tmp_path / "other", arm="ensemble", verify=True)


def fresh_means(run: Run) -> dict[int, float]:
    by_seed: dict[int, list[float]] = {}
    for row in rows_of(run, "confirm"):
        by_seed.setdefault(row["seed"], []).append(row["score"])
    return {seed: math.fsum(scores) / len(scores) for seed, scores in by_seed.items()}


@pytest.mark.slow
def test_final_scores_of_an_ensemble_average_its_members(run: Run) -> None:
    scored = {trial: value for trial, value, _ in score_arms_on_test(run)}
    of_ensemble = {row["trial_id"]: row["seed"] for row in rows_of(run, "confirm")}
    assert of_ensemble.keys() <= scored.keys()
    assert all(0 <= value <= 1 for value in scored.values())
    assert {trial: value for trial, value, _ in score_arms_on_test(run)} == scored, "the record is read again"
    final = {row["arm"]: row for row in analyze(run)["final"].to_pylist()}
    assert final["ensemble"]["test"] == pytest.approx(math.fsum(map(scored.get, of_ensemble)) / len(of_ensemble))


@pytest.mark.slow
def test_hostile_ensembles_are_refused_in_a_line(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "model", arm="ensemble", test=False)
    config = json.loads((tmp_path / "model" / "config.json").read_text())

    def refused(match: str, **changed: Any) -> None:
        member = {**config["members"][0], **changed}
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "members": [member]}))
        with pytest.raises(RunError, match=match):
            raysearch.load_model(tmp_path / "model")

    refused("a member's folder is members/NAME", folder="../elsewhere")
    refused("a member's folder is members/NAME", folder="/etc")
    refused("must be a number above 0", weight=float("nan"))
    refused("must be a number above 0", weight="1")
    (tmp_path / "model" / "members" / "link").symlink_to(tmp_path)
    refused("is a link out of the model's folder", folder="members/link")
    nested = tmp_path / "model" / "members" / "nested"
    nested.mkdir()
    shutil.copy(tmp_path / "model" / "config.json", nested / "config.json")
    refused("is itself an ensemble", folder="members/nested")


@pytest.mark.slow
def test_resumed_run_writes_no_row_twice(tiny_task: dict[str, str], tmp_path: Path) -> None:
    search = declare(tiny_task, tmp_path)
    run = raysearch.launch(search, progress=False)
    before = run.trials().num_rows
    raysearch.launch(search, progress=False)
    with Ledger.open(run.path) as ledger:
        assert record_ensemble(ledger, run.path) == ""
    assert open_run(run.path).trials().num_rows == before
    more = raysearch.launch(replace(search, confirm=Confirm(seeds=(7, 8, 9))), extend=True, progress=False)
    assert sorted(row["seed"] for row in rows_of(more, "confirm")) == [7, 8, 9]
    assert {row["number"] for row in rows_of(more, "confirm")} == {0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"baselines": {}}, "ensemble: averages the models of several arms"),
        ({"confirm": None}, "ensemble: is scored on the fresh seeds"),
        ({"baselines": {"ensemble": {**ALONE, "trials": 1}}}, "baselines.ensemble: is the name of the ensemble"),
        ({"task": "digits", "model": "small_cnn"}, "ensemble: averages classifiers of texts"),
    ],
)
def test_search_that_cannot_be_averaged_is_refused(
    tiny_task: dict[str, str], changed: dict[str, Any], message: str
) -> None:
    declared = {
        "task": tiny_task,
        "model": MODEL,
        **ALONE,
        "baselines": {"slow": {**ALONE, "trials": 1}},
        "budget": {"trials": 1},
        "confirm": {"seeds": [7]},
        "ensemble": True,
    }
    with pytest.raises(SpecError, match=message):
        parse_search(Search.from_dict({"name": "x"} | {k: v for k, v in (declared | changed).items() if v is not None}))
