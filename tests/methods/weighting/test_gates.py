"""Gates, and the dev head's leave-one-out errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.resume import assert_resume_is_bit_equal
from sklearn.linear_model import Ridge

from raysearch.methods.weighting.base import GradientSimilarities, StepObservation
from raysearch.methods.weighting.gates import Gates
from raysearch.methods.weighting.settings import GatesSettings as Settings
from raysearch.objectives.objective import Objective
from raysearch.training.step.dev_head import leave_one_out_errors

OBJECTIVES = tuple(
    Objective(data=f"extra_{i}", transform="none", representation="full", output="extra_label") for i in range(4)
)


def observation(*values: float) -> StepObservation:
    return StepObservation(torch.zeros(5), GradientSimilarities(torch.tensor(values, dtype=torch.float64), 0.1, 0.1))


def test_gate_evidence_is_clipped_sum_above_margin() -> None:
    gates = Gates(OBJECTIVES, Settings(lr_gates=2.0, gate_start=0.0, gate_margin=0.1, gate_limit=1.0))
    for _ in range(3):
        gates.learn([0, 1, 2, 3], observation(0.3, 0.1, 0.05, -1.0))
    assert gates.evidence.tolist() == pytest.approx([1.0, 0.0, -0.3, -1.0])


def test_equal_gates_are_multitask_and_closed_are_fine_tuning() -> None:
    gates = Gates(OBJECTIVES, Settings(lambda_e=0.4, gate_start=0.0))
    first = gates.coefficients([0, 1, 2, 3])
    assert (first.end_task, first.aux) == pytest.approx((0.4, 0.6))
    assert first.objectives.tolist() == pytest.approx([0.25] * 4)
    gates.evidence -= 30
    closed = gates.coefficients([0, 1, 2, 3])
    assert closed.lambda_e == pytest.approx(1.0, abs=1e-9)
    assert closed.objectives.sum().item() == pytest.approx(1.0)


def test_single_open_gate_gets_all_auxiliary_weight() -> None:
    gates = Gates(OBJECTIVES, Settings(lambda_e=0.4, gate_start=0.0))
    gates.evidence = torch.tensor([40.0, -40, -40, -40], dtype=torch.float64)
    coefficients = gates.coefficients([0, 1, 2, 3])
    assert coefficients.objectives.tolist() == pytest.approx([1, 0, 0, 0])
    assert coefficients.aux == pytest.approx(0.6)


@pytest.mark.parametrize("label_type", ["number", "class", "several"])
def test_leave_one_out_errors_equal_explicit_ridge_refits(label_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    n, ridge = 12, 0.3
    features = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    labels = {
        "number": torch.randn(n, generator=generator, dtype=torch.float64),
        "class": torch.arange(n) % 3,
        "several": (torch.rand(n, 2, generator=generator) < 0.5).long(),
    }[label_type]
    Y = {
        "number": labels[:, None],
        "class": torch.eye(3)[labels] if label_type == "class" else None,
        "several": labels,
    }[label_type]
    x, y = features.numpy(), np.asarray(Y, dtype=np.float64)
    decay = n * ridge * float((x**2).mean())
    errors = []
    for i in range(n):
        others = np.arange(n) != i
        A = np.column_stack([x[others], np.ones(n - 1)])
        W = np.linalg.solve(A.T @ A + np.diag([decay] * 3 + [0]), A.T @ y[others])
        errors.append(((y[i] - np.append(x[i], 1) @ W) ** 2).sum())
    assert leave_one_out_errors(features, labels, 3, ridge).tolist() == pytest.approx(errors)


def test_leave_one_out_errors_zero_features_use_mean_of_others() -> None:
    y = torch.tensor([1.0, 2.0, 4.0])
    expected = [(1 - 3) ** 2, (2 - 2.5) ** 2, (4 - 1.5) ** 2]
    assert leave_one_out_errors(torch.zeros(3, 2), y, 1, 1.0).tolist() == pytest.approx(expected)
    assert Ridge().fit(np.zeros((2, 1)), [2.0, 4.0]).predict([[0.0]])[0] == 3


def test_gates_trial_resumes_bit_equal_with_nonzero_evidence(tiny_task: dict[str, str], tmp_path: Path) -> None:
    plan = tiny_plan(prepare_tiny_task(tiny_task, tmp_path / "data"), "gates")
    end = assert_resume_is_bit_equal(plan, tmp_path)
    assert end["weighting"]["evidence"].abs().min() > 0
