"""Objectives with views, teachers and anchors under every way to compute a step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.ranks import train_on_ranks

from raysearch.objectives.objective import Objective
from raysearch.plan import TrialPlan
from raysearch.training import checkpoint
from raysearch.training.trainer import train

OBJECTIVES = tuple(
    Objective(data=data, transform=transform, representation="bidirectional", output=output)
    for data, transform, output in [
        ("in_domain", "bert", "soft_label"),
        ("in_domain", "cut", "pseudo_label"),
        ("end_task", "dropout", "same_label"),
        ("in_domain", "delete_60", "same_text"),
        ("in_domain", "mask", "agree"),
        ("end_task", "bert", "anchor"),
        ("end_task", "none", "pseudo_label"),
    ]
)


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def view_plan(data: Path, *methods: str, **settings: Any) -> TrialPlan:
    defaults = {"steps": 4, "dropout": 0.0, "lr": 1e-3, "aux_batch_size": 28, "guess_purity": 0.3, "guess_guard": "off"}
    return replace(tiny_plan(data, *methods, **defaults | settings), objectives=OBJECTIVES)


def trained(folder: Path, plan: TrialPlan) -> torch.Tensor:
    list(train(plan, folder=folder))
    values = checkpoint.load(folder / "state.safetensors")["parameters"]
    return torch.cat([value.flatten().float() for _, value in sorted(values.items())])


@pytest.mark.parametrize("teacher", ["ensemble", "average"])
@pytest.mark.parametrize("surgery", ["none", "attittud", "pcgrad"])
def test_view_objectives_products_match_backward(data: Path, tmp_path: Path, teacher: str, surgery: str) -> None:
    plan = view_plan(data, "static", surgery, teacher=teacher)
    fast = trained(tmp_path / "fast", plan)
    slow = trained(tmp_path / "slow", replace(plan, settings=plan.settings | {"engine": "backward"}))
    assert (fast - slow).abs().mean() < 5e-6


def test_view_objectives_unit_surgery_matches_none(data: Path, tmp_path: Path) -> None:
    unit = {"eta_perp": 1.0, "eta_pos": 1.0, "eta_neg": 1.0, "lambda_e": 0.7}
    cut = trained(tmp_path / "cut", view_plan(data, "static", "attittud", **unit))
    plain = trained(tmp_path / "plain", view_plan(data, "static", "none", lambda_e=0.7))
    assert (cut - plain).abs().mean() < 1e-7


def test_view_objectives_by_jvp_match_products(data: Path, tmp_path: Path) -> None:
    fast = trained(tmp_path / "fast", view_plan(data, "meta_tartan"))
    other = trained(tmp_path / "other", view_plan(data, "meta_tartan", engine="jvp"))
    assert (fast - other).abs().mean() < 1e-5


def test_view_objectives_micro_batches_match_whole(data: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", view_plan(data, "static"))
    parts = trained(tmp_path / "parts", view_plan(data, "static", micro_batches=3))
    assert (whole - parts).abs().mean() < 1e-6


def test_view_objectives_bfloat16_is_close(data: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", view_plan(data, "aang", "attittud"))
    lower = trained(tmp_path / "lower", view_plan(data, "aang", "attittud", precision="bfloat16"))
    assert 0 < (whole - lower).abs().mean() < 2e-3


@pytest.mark.parametrize("teacher", ["ensemble", "average"])
def test_view_objectives_resumed_trial_is_bit_equal(data: Path, tmp_path: Path, teacher: str) -> None:
    plan = view_plan(data, "static", teacher=teacher, dropout=0.1)
    expected = trained(tmp_path / "whole", plan)
    first = train(plan, folder=tmp_path / "resumed")
    next(first)
    first.close()
    assert torch.equal(trained(tmp_path / "resumed", plan), expected)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("static", "none"), ("static", "pcgrad"), ("aang", "attittud")], ids=str)
def test_view_objectives_ranks_agree(data: Path, tmp_path: Path, methods: tuple[str, str]) -> None:
    """One step agrees to the last bits; AdamW then divides by the gradient's size, which may itself be rounding."""
    plans = [view_plan(data, *methods, teacher=teacher) for teacher in ("ensemble", "average")]
    plans += [replace(plan, settings=plan.settings | {"steps": 1, "eval_every": 1}) for plan in plans]
    one, two = (train_on_ranks(world, plans, tmp_path) for world in (1, 2))
    for plan, (reports, alone), (others, together) in zip(plans, one, two, strict=True):
        bound = 1e-8 if plan.training.steps == 1 else 5e-6
        assert all(float((values - together[name]).abs().mean()) < bound for name, values in alone.items())
        for report, other in zip(reports, others, strict=True):
            assert other["loss"] == pytest.approx(report["loss"], abs=1e-5)
            assert other["aux_loss"] == pytest.approx(report["aux_loss"], rel=1e-4)


def test_view_objectives_purity_is_in_weights(data: Path, tmp_path: Path) -> None:
    reports = list(train(view_plan(data, "static"), folder=tmp_path))
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    purity = {row["name"]: row["weight"] for row in rows if (row["kind"], row["stage"]) == ("teacher", "purity")}
    assert set(purity) == {"fruit", "metal", "river"}
    assert all(0 < value <= 1 for value in purity.values())
