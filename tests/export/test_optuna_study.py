"""The study that Optuna loads has the run's configurations: values, states, distributions and scores by step."""

from __future__ import annotations

import json

import optuna
import pytest
from helpers.runs import SYNTHETIC_SEARCH, write_run
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raysearch.errors import RunError
from raysearch.export.optuna_study import export_study
from raysearch.storage.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(write_run(tmp_path_factory.mktemp("runs") / "a", trials=8, baselines=2, moving=False))


@pytest.fixture(scope="module")
def storage(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    storage = f"sqlite:///{tmp_path_factory.mktemp('optuna')}/study.db"
    assert export_study(run, storage) == ("a", 8)
    assert export_study(run, storage, "fine_tune") == ("a/fine_tune", 2)
    return storage


def test_loaded_study_has_the_trials_of_the_run(run: Run, storage: str) -> None:
    study = optuna.load_study(study_name="a", storage=storage)
    rows = sorted(
        (row for row in run.configurations().to_pylist() if row["arm"] == "search"), key=lambda row: row["number"]
    )
    states = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    assert [trial.state.name for trial in study.trials] == [states[row["state"]] for row in rows]
    for trial, row in zip(study.trials, rows, strict=True):
        assert trial.params == json.loads(row["params"])
        assert trial.value == (row["score"] if row["state"] == "complete" else None)
        scored = {e["step"]: e["score"] for e in run.evaluations(row["trial_id"]).to_pylist() if e["split"] != "test"}
        assert trial.intermediate_values == scored
        assert trial.user_attrs["trial_id"] == row["trial_id"]
    assert study.best_value == pytest.approx(run.best()["score"])
    assert study.metric_names == ["macro_f1"]


def test_loaded_study_has_the_declared_distributions(storage: str) -> None:
    trials = optuna.load_study(study_name="a", storage=storage).trials
    distributions = {name: d for trial in trials for name, d in trial.distributions.items()}
    assert distributions == {
        "surgery": CategoricalDistribution(["none", "attittud"]),
        "eta_neg": FloatDistribution(-1.0, 1.0),
        "k": IntDistribution(1, 8),
        "objectives_per_step": CategoricalDistribution([1, 3, 6]),
        "lambda_e": FloatDistribution(0.3, 0.9),
        "lr": FloatDistribution(1e-4, 2e-3, log=True),
        "include.transform.mask": CategoricalDistribution([True, False]),
    }
    assert distributions.keys() == SYNTHETIC_SEARCH["dimensions"].keys()


def test_baseline_is_a_study_of_its_own(storage: str) -> None:
    study = optuna.load_study(study_name="a/fine_tune", storage=storage)
    assert [set(trial.params) for trial in study.trials] == [{"lr"}] * 2


def test_second_export_and_wrong_storages_are_refused(run: Run, storage: str) -> None:
    with pytest.raises(RunError, match="has a study 'a' already"):
        export_study(run, storage)
    with pytest.raises(RunError, match="nowhere:///x cannot hold the study"):
        export_study(run, "nowhere:///x")
    with pytest.raises(RunError, match="no arm 'fine_tun'; did you mean 'fine_tune'"):
        export_study(run, storage, "fine_tun")
