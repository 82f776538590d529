"""A modality is a folder and one line: a fourth one is added in this way, and searched with auxiliary objectives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raysearch
from raysearch.cli.describe import described
from raysearch.config.search_config import Search
from raysearch.errors import RunError, SpecError
from raysearch.export.exporter import export
from raysearch.modalities import MODALITIES
from raysearch.modalities.loading import load_space

SPACE = """\
kind: sequence
stages:
  data: [end_task]
  transform: [jitter, reverse]
  representation: [full, prefix]
  output: [restore, direction]
exclude:
  - {output: direction, transform: [jitter]}
objectives: 6
"""


@pytest.fixture(autouse=True)
def sequence_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of the registry."""
    monkeypatch.setitem(MODALITIES, "sequence", "helpers.sequence_modality.modality:SEQUENCE")


@pytest.fixture
def declared(tmp_path: Path) -> dict[str, Any]:
    """A search on rising and falling sequences."""
    rng = np.random.default_rng(0)
    slopes = rng.choice([-1.0, 1.0], 80)
    values = slopes[:, None] * np.linspace(-1, 1, 6) + 0.2 * rng.standard_normal((80, 6))
    rows = [
        json.dumps({"values": row.round(3).tolist(), "label": "up" if slope > 0 else "down"})
        for row, slope in zip(values, slopes, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "sequences.yaml").write_text(SPACE)
    return {
        "name": "slopes",
        "task": {"kind": "sequence", "name": "slopes", "train": "rows.jsonl", "base": str(tmp_path)},
        "model": "small_gru",
        "space": str(tmp_path / "sequences.yaml"),
        "method": {"weighting": "static"},
        "settings": {"steps": 20, "eval_every": 10, "batch_size": 8, "aux_batch_size": 12, "lr": 0.02},
        "dimensions": {"lambda_e": {"choice": [0.5, 0.8]}},
        "baselines": {"fine_tune": {"method": {"weighting": "end_task_only"}}},
        "budget": {"trials": 2},
        "executor": "in_process",
        "runs": str(tmp_path / "runs"),
    }


def test_fourth_modality_search_runs_to_its_end(declared: dict[str, Any], tmp_path: Path) -> None:
    search = Search.from_dict(declared)
    assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search
    run = raysearch.launch(search, progress=False)
    trials = run.trials().to_pylist()
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    plans = [json.loads(trial["plan"]) for trial in trials]
    assert sorted(len(plan["objectives"]) for plan in plans) == [0, 6, 6]
    assert all(row["aux_loss"] > 0 for row in run.evaluations().to_pylist() if row["lambda_e"] < 1)
    assert run.best()["score"] > 0.5
    with pytest.raises(RunError, match=r"models of sequences are not exported; the weights are in best\.safetensors"):
        export(run, tmp_path / "model")


def test_fourth_modality_primitives_are_described() -> None:
    assert described("jitter") == [
        {
            "primitive": "jitter",
            "of": "sequence",
            "stage": "transform",
            "meaning": "Gaussian noise is added to every value",
        }
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "tiny"}, r"model: is no model for sequences; such as small_gru, or \{gru: 8\}"),
        ({"model": {"gru": 0}}, "model.gru: must be at least 1, got 0"),
        ({"space": "image_td"}, "space: image_td has objectives on images, and the task is of sequences"),
        ({"task": {"kind": "sequence", "name": "x"}}, "task: the key 'train' is missing"),
    ],
)
def test_fourth_modality_wrong_parts_are_rejected(
    declared: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        raysearch.launch(Search.from_dict(declared | change), progress=False)


def test_fourth_modality_space_needs_something_to_predict(tmp_path: Path) -> None:
    file = tmp_path / "sequences.yaml"
    file.write_text(SPACE.replace("exclude:\n  - {output: direction, transform: [jitter]}\n", "").replace("6", "8"))
    with pytest.raises(SpecError, match="predicts which sequences are reversed, and none is; exclude it"):
        load_space(file)
