"""Trials that are interrupted and resumed from their checkpoints."""

from pathlib import Path
from typing import Any

import torch

from raysearch.plan import TrialPlan
from raysearch.training import checkpoint
from raysearch.training.trainer import train


def assert_resume_is_bit_equal(plan: TrialPlan, folder: Path, *, after: int = 1) -> dict[str, Any]:
    """Asserts that a trial that is interrupted after some reports and resumed equals one that is not interrupted.

    Returns its last checkpoint.
    """
    whole = list(train(plan, folder=folder / "whole"))
    interrupted = train(plan, folder=folder / "cut")
    for _ in range(after):
        next(interrupted)
    interrupted.close()
    resumed = list(train(plan, folder=folder / "cut"))
    values = [
        [(report.evaluation | {"seconds": 0}, report.weights) for report in reports] for reports in (whole, resumed)
    ]
    assert values[0] == values[1]
    ends = [checkpoint.load(folder / name / "state.safetensors") for name in ("whole", "cut")]
    for part in ("parameters", "weighting"):
        torch.testing.assert_close(ends[1][part], ends[0][part], rtol=0, atol=0)
    return ends[1]
