"""A weight of 0 is 0: in the body and in the heads, with every surgery and every way to compute a step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.methods import methods_of
from raysearch.methods.surgery.settings import ConflictSettings
from raysearch.methods.weighting.base import END_TASK
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial

GRAMIAN = [name for name, each in methods_of("surgery").items() if issubclass(each.settings, ConflictSettings)]
WITHOUT_SECOND = (0.5, 0.0, 0.3, 0.2)


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


class OneStep:
    """The gradient of a first step, and each task's own gradient, by a backward pass for each."""

    def __init__(self, data: Path, folder: Path, surgery: str, weights: tuple[float, ...], **settings: Any) -> None:
        if surgery == "nash_mtl":
            pytest.importorskip("ecos", reason="ecos has no wheel for Python 3.13 and later")
        schedule = settings.pop("schedule", "joint")
        settings = {"dropout": 0.0, "engine": "backward", "objectives_per_step": 0} | settings
        plan = replace(tiny_plan(data, "static_searched", surgery, schedule, **settings), weights=weights)
        trial = Trial(plan, TrialFolder(folder), ProcessGroup())
        losses: dict[int, Tensor] = {}
        task_losses = trial.update.forward.losses

        def record_losses(batches: Any) -> Any:
            computed = task_losses(batches)
            for task, loss in computed.items():
                parameters = trial.network.body_parameters() + trial.network.head_parameters()
                g = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
                losses[task] = torch.cat([part.flatten() for part in g])
            return computed

        trial.update.forward.losses = record_losses  # type: ignore[method-assign]
        trial.update(trial.phases[0], 1)
        D = sum(p.numel() for p in trial.network.body_parameters())
        self.task_bodies = {task: g[:D].double() for task, g in losses.items()}
        self.task_heads = {task: g[D:].double() for task, g in losses.items()}
        self.body, self.heads = (
            torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in group]).double()
            for group in (trial.network.body_parameters(), trial.network.head_parameters())
        )


def share_outside(g: Tensor, rows: Tensor) -> float:
    """Returns the norm of the part of g outside the span of the rows, over that of g."""
    Q = torch.linalg.qr(rows.T).Q
    return float((g - Q @ (Q.T @ g)).norm() / g.norm())


@pytest.mark.parametrize("surgery", GRAMIAN)
def test_objective_with_weight_zero_moves_nothing(data: Path, tmp_path: Path, surgery: str) -> None:
    step = OneStep(data, tmp_path, surgery, WITHOUT_SECOND, lambda_e=0.4)
    others = torch.stack([g for task, g in step.task_bodies.items() if task != 1])
    assert share_outside(step.task_bodies[1], others) > 0.1
    assert share_outside(step.body, others) < 1e-5
    coefficients = {END_TASK: 0.4, 0: 0.3, 2: 0.18, 3: 0.12}
    expected = sum(c * step.task_heads[task] for task, c in coefficients.items())
    torch.testing.assert_close(step.heads, expected, rtol=1e-4, atol=1e-8)


def test_weight_zero_equals_upgrad_by_hand_without_the_row(data: Path, tmp_path: Path) -> None:
    from torchjd.aggregation import UPGrad

    step = OneStep(data, tmp_path, "upgrad", WITHOUT_SECOND, lambda_e=0.4)
    rows = torch.stack([c * step.task_bodies[task] for task, c in ((END_TASK, 0.4), (0, 0.3), (2, 0.18), (3, 0.12))])
    scale = rows.square().sum(1).mean().sqrt()
    torch.testing.assert_close(step.body, 4 * scale * UPGrad()(rows / scale), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("engine", ["auto", "backward"])
@pytest.mark.parametrize("surgery", [*GRAMIAN, "attittud", "none"])
def test_lambda_one_is_the_end_task_alone(data: Path, tmp_path: Path, surgery: str, engine: str) -> None:
    if engine == "auto" and surgery not in ("gcs", "attittud", "none"):
        pytest.skip("one surgery of a kind for each engine")
    step = OneStep(data, tmp_path, surgery, (0.25,) * 4, lambda_e=1.0, engine=engine, m=4, k=2)
    torch.testing.assert_close(step.body, step.task_bodies[END_TASK], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(step.heads, step.task_heads[END_TASK], rtol=1e-4, atol=1e-7)


def test_end_task_with_weight_zero_moves_its_head_for_surgery(data: Path, tmp_path: Path) -> None:
    plain = OneStep(data, tmp_path / "plain", "none", (0.25,) * 4, lambda_e=0.0)
    assert share_outside(plain.body, torch.stack([plain.task_bodies[k] for k in range(4)])) < 1e-5
    assert not (plain.heads * (plain.task_heads[END_TASK] != 0)).any()
    for surgery in ("gcs", "attittud"):
        step = OneStep(data, tmp_path / surgery, surgery, (0.25,) * 4, lambda_e=0.0, m=4, k=2, eta_perp=1.0)
        is_of_end_task = step.task_heads[END_TASK] != 0
        torch.testing.assert_close(step.heads[is_of_end_task], step.task_heads[END_TASK][is_of_end_task])


def test_way_to_compute_a_step_does_not_change_zero_heads(data: Path, tmp_path: Path) -> None:
    joint = OneStep(data, tmp_path / "joint", "none", WITHOUT_SECOND, lambda_e=0.4)
    unit = {"m": 4, "k": 2, "eta_perp": 1.0, "eta_pos": 1.0, "eta_neg": 1.0}
    sides = OneStep(data, tmp_path / "sides", "attittud", WITHOUT_SECOND, lambda_e=0.4, **unit)
    torch.testing.assert_close(joint.body, sides.body, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(joint.heads, sides.heads, rtol=1e-4, atol=1e-7)
