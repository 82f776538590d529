from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_data, tiny_plan

from raysearch import checkpoint
from raysearch.training import train


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def trained(folder: Path, data: Path, *methods: str, **settings: Any) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """All parameters after a few steps, and every weight that was learned."""
    plan = tiny_plan(data, *methods, **{"steps": 4, "dropout": 0.0, "lr": 1e-3} | settings)
    reports = list(train(plan, folder=folder))
    values = checkpoint.load(folder / "state.safetensors")["parameters"]
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    return torch.cat([value.flatten().float() for _, value in sorted(values.items())]), rows


SEEN_APART = [
    ("static", "attittud", {}),
    ("static", "attittud", {"basis_every": 3}),
    ("static", "attittud", {"basis": "randomized_svd"}),
    ("static", "attittud", {"basis": "range_finder", "scope": "per_layer"}),
    ("static", "attittud", {"scope": "all", "basis_rows": "same"}),
    ("static", "attittud", {"scope": "last", "last_layers": 1}),
    ("meta_tartan", "none", {}),
    ("meta_tartan", "none", {"similarity": "dot"}),
    ("aang", "none", {"meta_every": 2}),
    ("aang", "attittud", {}),
    ("static", "pcgrad", {}),
    ("aang", "upgrad", {"conflict_between": "sum"}),
]


@pytest.mark.parametrize(("weighting", "surgery", "settings"), SEEN_APART, ids=str)
def test_products_of_layers_train_as_a_backward_for_each_gradient_does(
    data: Path, tmp_path: Path, weighting: str, surgery: str, settings: dict[str, Any]
) -> None:
    fast, weights = trained(tmp_path / "fast", data, weighting, surgery, **settings)
    slow, expected = trained(tmp_path / "slow", data, weighting, surgery, engine="backward", **settings)
    # AdamW divides by the gradient's size: where that is rounding, so is the step; hence the mean
    assert (fast - slow).abs().mean() < 1e-6
    for row, other in zip(weights, expected, strict=True):
        assert row["weight"] == pytest.approx(other["weight"], abs=1e-5)
        assert row["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("weighting", "surgery"), [("static", "none"), ("static", "attittud"), ("aang", "attittud"), ("static", "gcs")]
)
def test_micro_batches_train_as_the_whole_batch_does(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    whole, _ = trained(tmp_path / "whole", data, weighting, surgery)
    parts, _ = trained(tmp_path / "parts", data, weighting, surgery, micro_batches=3)
    assert (whole - parts).abs().mean() < 1e-6


@pytest.mark.parametrize(("weighting", "surgery"), [("aang", "attittud"), ("static", "pcgrad")])
def test_bfloat16_trains_near_float32(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    whole, _ = trained(tmp_path / "whole", data, weighting, surgery)
    lower, _ = trained(tmp_path / "lower", data, weighting, surgery, precision="bfloat16")
    assert 0 < (whole - lower).abs().mean() < 1e-3


def test_attittud_with_unit_eta_is_multitask_to_the_last_parameter(data: Path, tmp_path: Path) -> None:
    unit = {"eta_perp": 1.0, "eta_pos": 1.0, "eta_neg": 1.0}
    cut, _ = trained(tmp_path / "cut", data, "static", "attittud", **unit)
    plain, _ = trained(tmp_path / "plain", data, "static", "none")
    assert (cut - plain).abs().mean() < 1e-7


def test_attittud_on_the_average_gradient_is_pcgrads_auxiliary_side(data: Path, tmp_path: Path) -> None:
    pcgrad = {"basis": "unit_average", "k": 1, "eta_perp": 1.0, "eta_pos": 1.0, "eta_neg": 0.0}
    cut, _ = trained(tmp_path / "cut", data, "static", "attittud", **pcgrad)
    canonical, _ = trained(tmp_path / "canonical", data, "static", "attittud", **pcgrad | {"basis": "canonical"})
    assert (cut - canonical).abs().mean() > 1e-5


@pytest.mark.parametrize(("weighting", "surgery"), [("static", "none"), ("aang", "attittud")])
def test_recomputed_activations_train_as_kept_ones_do(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    kept, _ = trained(tmp_path / "kept", data, weighting, surgery)
    again, _ = trained(tmp_path / "again", data, weighting, surgery, recompute=True)
    assert (kept - again).abs().mean() < 1e-7


def test_modules_without_a_product_form_are_said_once(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raysearch.gradients import forms

    monkeypatch.delitem(forms.FORMS, torch.nn.LayerNorm)
    slow, _ = trained(tmp_path / "slow", data, "static", "attittud")
    (said,) = [record.getMessage() for record in caplog.records if "no product form" in record.getMessage()]
    assert "(LayerNorm)" in said
    monkeypatch.undo()
    fast, _ = trained(tmp_path / "fast", data, "static", "attittud")
    assert (slow - fast).abs().mean() < 1e-6
