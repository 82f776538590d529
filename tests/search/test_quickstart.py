"""The quick start of the README, with little training: its own declaration from launch to the exported model."""

from __future__ import annotations

from pathlib import Path

import pytest

import raysearch
from raysearch.config.loading import load_file
from raysearch.export.exporter import export
from raysearch.schema import catalog
from raysearch.storage.states import ENSEMBLE_ARM

SHORT = {
    "budget": "{trials: 1}",
    "settings.steps": "2",
    "settings.eval_every": "1",
    "settings.basis_every": "1",
    "settings.meta_every": "1",
    "baselines.tfidf_lr.trials": "1",
    "baselines.frozen_lr.trials": "1",
    "baselines.fine_tune.trials": "1",
    "baselines.fine_tune.settings.steps": "2",
    "confirm.seeds": "[101]",
}


@pytest.mark.slow
def test_a_short_quick_start_ends_with_a_model_of_all_arms(tmp_path: Path) -> None:
    search = load_file(catalog.path("trials", "quickstart"), {**SHORT, "runs": str(tmp_path)})
    run = raysearch.launch(search, executor="in_process", progress=False)
    trials = run.trials().to_pylist()
    assert {trial["state"] for trial in trials} == {"complete"}
    assert {trial["arm"] for trial in trials} == {"search", "tfidf_lr", "frozen_lr", "fine_tune", ENSEMBLE_ARM}
    export(run, tmp_path / "model", arm=ENSEMBLE_ARM, test=False)
    model = raysearch.load_model(tmp_path / "model")
    assert set(model.predict(["Returns the sum of the array along an axis."])) <= set(model.labels)
