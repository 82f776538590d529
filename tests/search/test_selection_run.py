"""A whole search on folds: its trials, its tables, its export, and what is decided if selection is left to launch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from helpers.plans import MODEL

import raysearch
from raysearch.config.loading import parse_search
from raysearch.config.search_config import Search
from raysearch.config.selection import Selection
from raysearch.config.selection_rules import decide_selection
from raysearch.errors import RunError, SpecError
from raysearch.export.exporter import export
from raysearch.export.final import score_arms_on_test
from raysearch.plan import TrialPlan
from raysearch.reports.query import analyze
from raysearch.reports.recommendation import recommend
from raysearch.search.resume import load_stored_search
from raysearch.storage.run import Run, open_run


def declare(task: Any, runs: Path, **more: Any) -> Search:
    declared = {
        "name": "folds",
        "task": task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": 4, "batch_size": 4, "eval_every": 2, "max_length": 16},
        "dimensions": {"lr": {"float": [1e-5, 1e-2], "log": True}},
        "baselines": {"other": {"method": {"weighting": "meta_tartan"}, "space": "smoke", "trials": 1}},
        "budget": {"trials": 3},
        "selection": {"folds": 3},
        "confirm": {"seeds": [7, 8], "keep": True},
        "sampler": "random",
        "executor": "in_process",
        "runs": str(runs),
    }
    return Search.from_dict(declared | more)


@pytest.fixture(scope="module")
def run(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return raysearch.launch(declare(tiny_task, tmp_path_factory.mktemp("runs")), progress=False)


def rows_of(run: Run, arm: str, role: str) -> list[dict[str, Any]]:
    rows = [row for row in run.trials().to_pylist() if (row["arm"], row["role"]) == (arm, role)]
    return [{**row, "fold": json.loads(row["plan"])["fold"]} for row in rows]


@pytest.mark.slow
def test_run_on_folds_has_every_fold_of_what_it_compares(run: Run) -> None:
    assert {row["state"] for row in run.trials().to_pylist()} == {"complete"}
    for arm in ("search", "other"):
        best = run.best(arm)
        searched = [row for row in rows_of(run, arm, "search") if row["number"] == best["number"]]
        assert [row["fold"] for row in searched] == [0, 1, 2]
        confirmed = rows_of(run, arm, "confirm")
        assert [(row["seed"], row["fold"]) for row in confirmed] == [(s, f) for s in (7, 8) for f in range(3)]
        (refit,) = rows_of(run, arm, "refit")
        assert (refit["number"], refit["seed"], refit["fold"], refit["score"]) == (best["number"], 0, -1, None)
        assert best["score"] == pytest.approx(fmean(row["score"] for row in searched))
        shown = next(row for row in run.configurations().to_pylist() if row["trial_id"] == best["trial_id"])
        error = stdev(row["score"] for row in searched) * math.sqrt(1 / 3 + 1 / 2)
        assert shown["error"] == pytest.approx(error)
    dropped = {(row["arm"], row["number"]) for row in run.configurations().to_pylist() if row["state"] == "dropped"}
    assert dropped == run.dropped()


@pytest.mark.slow
def test_fold_scores_with_its_last_evaluation(run: Run) -> None:
    for row in rows_of(run, "search", "search"):
        last = run.evaluations(row["trial_id"]).to_pylist()[-1]
        assert (row["best_step"], row["score"], last["best"]) == (4, last["score"], last["score"])


@pytest.mark.slow
def test_reports_of_folds_pair_arms_by_fold(run: Run) -> None:
    answers = {name: table.to_pylist() for name, table in analyze(run).items()}
    other = next(row for row in answers["arms"] if row["arm"] == "other")
    scores = {arm: [row["score"] for row in rows_of(run, arm, "confirm")] for arm in ("search", "other")}
    differences = [a - b for a, b in zip(scores["search"], scores["other"], strict=True)]
    assert (other["seeds"], other["folds"]) == (2, 3)
    assert other["mean"] == pytest.approx(fmean(scores["other"]))
    assert other["difference"] == pytest.approx(fmean(differences))
    half = 2.570582 * stdev(differences) * math.sqrt(1 / 6 + 1 / 2)  # t of 5 degrees of freedom
    assert (other["low"], other["high"]) == pytest.approx(
        (fmean(differences) - half, fmean(differences) + half), abs=1e-6
    )
    assert other["boot_low"] is None
    choice = run.best_arm()
    assert choice is not None
    assert {each.arm: each.score for each in choice.ranked} == {a: pytest.approx(fmean(s)) for a, s in scores.items()}
    assert "6 folds of fresh partitions" in recommend(run).verdict


@pytest.mark.slow
def test_export_of_folds_is_the_training_on_all_rows(run: Run, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "model", arm="search", verify=True)
    (refit,) = rows_of(run, "search", "refit")
    assert exported.trial_id == refit["trial_id"]
    assert exported.verified is not None
    assert exported.verified.same_weights
    assert (exported.folds, exported.select_dev) == (3, run.best()["score"])
    again = parse_search(Search.from_dict(_yaml(tmp_path / "model" / "search.yaml"))).search
    assert again.selection.folds == 3
    plan = TrialPlan.from_dict(json.loads((tmp_path / "model" / "plan.json").read_text()))
    assert plan.is_refit
    assert "a training on all labelled rows" in (tmp_path / "model" / "README.md").read_text()
    fold = rows_of(run, "search", "search")[0]["trial_id"]
    with pytest.raises(RunError, match="left out a fold of the labelled rows; --arm search exports"):
        export(run, tmp_path / "fold", trial=fold)


@pytest.mark.slow
def test_export_trains_on_all_rows_if_the_run_did_not(tiny_task: dict[str, str], tmp_path: Path) -> None:
    declared = declare(tiny_task, tmp_path, baselines={}, budget={"trials": 1}, keep=0).to_dict()
    del declared["confirm"]
    run = raysearch.launch(Search.from_dict(declared), progress=False)
    exported = export(run, tmp_path / "model")
    assert exported.trained_again
    assert "-all-" in exported.trial_id
    assert exported.test is not None


@pytest.mark.slow
def test_final_scores_of_folds_are_averaged_by_seed(run: Run) -> None:
    scores = {trial_id: score for trial_id, score, _ in score_arms_on_test(run)}
    final = analyze(run, ["final"])["final"].to_pylist()
    for row in final:
        of_arm = [scores[each["trial_id"]] for each in rows_of(run, row["arm"], "confirm")]
        assert row["seeds"] == 2
        assert row["test"] == pytest.approx(fmean(of_arm))


@pytest.mark.slow
def test_launch_decides_auto_and_stores_what_it_decided(tiny_task: dict[str, str], tmp_path: Path) -> None:
    search = declare(tiny_task, tmp_path, selection="auto", baselines={}, budget={"trials": 2})
    run = raysearch.launch(search, progress=False)
    stored = load_stored_search(run.path)
    assert stored is not None
    assert stored.selection == Selection(folds=5)
    count = len(run.trials())
    assert len(raysearch.launch(search, progress=False).trials()) == count, "auto resumes with what was decided"
    assert len(open_run(run.path).dropped()) <= 1


SIZES = {"train": 240, "meta_dev": 15, "select_dev": 15, "test": 30}


@pytest.mark.parametrize(
    ("more", "sizes", "folds", "why"),
    [
        ({}, SIZES, 5, "5 folds of 270 labelled rows, because select_dev has 15 rows, fewer than 200"),
        ({}, SIZES | {"select_dev": 200}, 0, "scored on 200 rows"),
        ({"settings": {"patience": 2}}, SIZES, 0, "folds are impossible: patience"),
        ({"budget": {"trials": 1}}, SIZES, 0, "nothing to choose"),
        ({}, {"train": 5, "select_dev": 2}, 0, "too few for 5 folds"),
    ],
)
def test_decide_selection_by_the_rows_that_choose(more: Any, sizes: dict[str, int], folds: int, why: str) -> None:
    search = declare({"name": "t", "train": "t.jsonl"}, Path(), selection="auto", **more)
    selection, (sentence,) = decide_selection(search, sizes)
    assert (selection.folds, selection.is_auto) == (folds, False)
    assert why in sentence


def test_search_without_selection_is_as_before() -> None:
    task = {"name": "t", "train": "t.jsonl"}
    declared = declare(task, Path(), selection="none").to_dict()
    without = {name: value for name, value in declared.items() if name != "selection"}
    assert Search.from_dict(without) == Search.from_dict(declared)
    assert Search.from_dict(without).fingerprint == Search.from_dict(declared).fingerprint
    assert decide_selection(Search.from_dict(without), SIZES) == (Selection(), [])
    folded = declare(task, Path())
    assert folded.differences(Search.from_dict(without))


@pytest.mark.parametrize(
    ("selection", "problem"),
    [
        ("folds", "selection: must be auto, none, or {folds: 5}"),
        ({"repeats": 2}, "selection: the key 'folds' is missing"),
        ({"folds": 1}, "selection.folds: must be at least 2; `selection: none` has no folds"),
        ({"folds": 3, "seeds": 2}, "selection.seeds: unknown key 'seeds'"),
    ],
)
def test_selection_that_cannot_be_read_is_refused(selection: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem.replace("{", "\\{").replace("}", "\\}")):
        declare({"name": "t", "train": "t.jsonl"}, Path(), selection=selection)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"settings": {"patience": 3}}, "selection: patience .* search `steps` instead"),
        (
            {"method": {"weighting": "meta_tartan"}, "space": "smoke", "baselines": {}, "selection": {"folds": 2}},
            "learns from a fold of its own: give at least 3 folds",
        ),
    ],
)
def test_selection_that_cannot_work_is_refused(more: Any, problem: str) -> None:
    search = declare({"name": "t", "train": "t.jsonl"}, Path(), **more)
    with pytest.raises(SpecError, match=problem):
        parse_search(search.to_dict())


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    declared: dict[str, Any] = yaml.safe_load(file.read_text())
    return declared
