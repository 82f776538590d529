"""Importance and effects on planted runs: what was planted comes first, what does nothing is not distinguished."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge

from raysearch.reports import importance, objective_effects, trial_sample
from raysearch.reports.query import analyze, open_views
from raysearch.storage.run import open_run

FILE = Path(__file__).parent.parent.parent / "benchmarks" / "planted_runs.py"
spec = importlib.util.spec_from_file_location("planted_runs", FILE)
planted_runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted_runs)


def rows_of(folder, report, **options):
    run = open_run(planted_runs.write_planted_run(folder, **options))
    return analyze(run, [report])[report].to_pylist()


@pytest.mark.parametrize("stops", [False, True])
def test_importance_has_the_planted_dimension_first(tmp_path, stops):
    rows = rows_of(tmp_path / "run", "importance", configurations=60, stops=stops)
    assert rows[0]["dimension"] == "lr"
    assert rows[0]["low"] > 0
    assert {row["response"] for row in rows} == {"beaten" if stops else "score"}
    assert rows[0]["stopped"] == 30 * stops
    assert rows[0]["verdict"] == "matters"


def test_importance_of_idle_dimensions_holds_zero(tmp_path):
    held = []
    for seed in range(12):
        rows = rows_of(tmp_path / str(seed), "importance", configurations=30, seed=seed, seeds=1 + seed % 2)
        held += [row["low"] <= 0 <= row["high"] for row in rows if row["dimension"] in ("warmup", "kind")]
    assert np.mean(held) >= 0.9


def test_effects_have_the_planted_primitive_and_not_the_idle(tmp_path):
    rows = {row["name"]: row for row in rows_of(tmp_path / "run", "effects", configurations=120)}
    mask, idle = rows["transform mask"], rows["transform replace"]
    assert mask["verdict"] == "helps"
    assert mask["low"] < planted_runs.EFFECTS["mask"] < mask["high"]
    assert idle["low"] <= 0 <= idle["high"]
    assert mask["present"] + 0 < 120
    assert mask["response"] == "score"


def test_effects_need_trials_with_other_objectives(tmp_path):
    assert rows_of(tmp_path / "run", "effects", configurations=6) == []


def test_variance_share_is_adjusted_r2():
    rng = np.random.default_rng(0)
    groups, y = rng.integers(0, 3, 50), rng.normal(size=50)
    y += groups
    F = stats.f_oneway(*(y[groups == g] for g in range(3))).statistic
    r2 = 2 * F / (2 * F + 47)
    share = importance.variance_share(np.ones((1, 50)), y[None], groups)[0]
    assert share == pytest.approx(1 - (1 - r2) * 49 / 47)


def test_variance_share_counts_rows_as_often_as_drawn():
    rng = np.random.default_rng(0)
    groups, y, w = rng.integers(0, 3, 30), rng.normal(size=30), rng.integers(0, 3, 30)
    again = np.repeat(np.arange(30), w)
    expected = importance.variance_share(np.ones((1, len(again))), y[again][None], groups[again])
    assert importance.variance_share(w[None].astype(float), y[None], groups) == pytest.approx(expected)


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(40, 3)), rng.normal(size=40), rng.integers(0, 3, 40).astype(float)
    expected = Ridge(alpha=0.7).fit(X, y, sample_weight=w).coef_
    assert objective_effects._ridge(X, y, w, 0.7) == pytest.approx(expected)


def test_stopped_trials_are_compared_at_their_last_step(tmp_path):
    run = open_run(planted_runs.write_planted_run(tmp_path / "run", 40, seed=2, stops=True))
    whole = open_run(planted_runs.write_planted_run(tmp_path / "whole", 40, seed=2))
    views, others = open_views(run), open_views(whole)
    stopped = trial_sample.sample_configurations(views["trials"], views["evaluations"], run.cells)
    complete = trial_sample.sample_configurations(others["trials"], others["evaluations"], run.cells)
    assert not stopped.is_score
    assert complete.is_score
    assert stats.spearmanr(stopped.y, complete.y).statistic == pytest.approx(1)  # scores differ by the same at any step


def test_more_configurations_than_the_limit_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_sample, "MOST", 20)
    rows = rows_of(tmp_path / "run", "importance", configurations=50)
    assert {(row["configurations"], row["total"]) for row in rows} == {(20, 50)}
