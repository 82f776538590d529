"""Factored probes: rounds of probes, a model of all effects, and probes during the training."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import OBJECTIVES, prepare_tiny_task, tiny_plan
from helpers.resume import assert_resume_is_bit_equal
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.methods.weighting.branch_merging import Branch
from raysearch.methods.weighting.factored_probes import FactoredProbes, log_decreases
from raysearch.methods.weighting.settings import FactoredProbesSettings as Settings
from raysearch.objectives.objective import Objective
from raysearch.plan import TrialPlan
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial

MANY = tuple(
    Objective(data=d, transform=t, representation="full", output=o) for d, t, o in product("abcdef", "wxyz", "pqr")
)


class PlantedDev:
    """A dev set on which probes of objectives on data a, not transformed by z, lower the errors by half."""

    def __init__(self, branches: list[Branch], helpful: str = "a") -> None:
        self.branches, self.helpful = branches, helpful
        self.before = 1 + 0.2 * torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        raise AssertionError((alphas, number, count))

    def score(self, alphas: Tensor) -> tuple[float, float]:
        raise AssertionError(alphas)

    def leave_one_out_errors(self, alphas: Tensor, *, held_out: bool = False) -> Tensor:
        del held_out
        if not alphas.any():
            return self.before
        k = max(self.branches[int(alphas.argmax())].factors)
        helps = MANY[k].data in self.helpful and MANY[k].transform != "z"
        noise = 0.1 * torch.randn(60, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        return self.before * (0.5 if helps else 1.1) + noise.abs()


def measured(helpful: str = "a", **settings: Any) -> FactoredProbes:
    probes = FactoredProbes(MANY, Settings(**settings))
    while not probes.is_finished:
        branches = probes.branches()
        assert not probes.merge(branches, PlantedDev(branches, helpful)).any()
    return probes


def test_log_decreases_have_the_variance_of_the_log_ratio() -> None:
    generator = torch.Generator().manual_seed(1)
    before = 1 + torch.rand(50, generator=generator, dtype=torch.float64)
    after = before * 0.7 + 0.2 * torch.rand(50, generator=generator, dtype=torch.float64)
    each = log_decreases(before, after)
    assert float(each.mean()) == pytest.approx(float((before.mean() / after.mean()).log()))
    draws = torch.randint(50, (4000, 50), generator=generator)
    bootstrap = (before[draws].mean(1) / after[draws].mean(1)).log()
    assert float(each.std() / 50**0.5) == pytest.approx(float(bootstrap.std()), rel=0.1)


def test_factored_probes_find_helpful_objectives_of_many() -> None:
    probes = measured(lambda_e=0.4)
    assert len(probes.measured) == 24 < len(MANY)
    chosen = probes.sample(torch.Generator())
    assert len(chosen) == 4
    assert all(MANY[k].data == "a" and MANY[k].transform != "z" for k in chosen)
    assert probes.coefficients(chosen).end_task == pytest.approx(0.4)


def test_factored_probes_train_the_end_task_alone_if_all_harm() -> None:
    probes = measured(helpful="")
    assert probes.sample(torch.Generator()) == []
    assert probes.lambda_e == 1


def test_factored_probes_signal_has_all_objectives() -> None:
    mean, error = measured().signal()
    assert mean.shape == error.shape == (len(MANY),)
    assert (error > 0).all()


def test_factored_probes_measure_again_beside_the_end_task() -> None:
    probes = measured(probe_every=2, probe_rounds=1)
    probes.count_step()
    assert probes.is_finished
    probes.count_step()
    assert not probes.is_finished
    first, *others = probes.branches()
    assert first.factors == {-1: 1.0}
    assert all(set(branch.factors) > {-1} and not branch.has_own_schedule for branch in others)


def plan_of(data: Path, **more: Any) -> TrialPlan:
    settings = {"pass_steps": 1, "probes_per_round": 2, "probe_rounds": 2, "probe_margin": -50.0, "steps": 20}
    plan = tiny_plan(data, "factored_probes", **(settings | {"eval_every": 3} | more))
    return replace(plan, objectives=OBJECTIVES)


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def test_factored_probes_repeat_within_the_steps_of_the_phase(data: Path, tmp_path: Path) -> None:
    trial = Trial(plan_of(data, probe_every=5), TrialFolder(tmp_path), ProcessGroup())
    reports = list(trial.run())
    assert reports[-1].step == 20
    assert trial.runner.branch_trainer is not None
    rounds = trial.runner.branch_trainer.round
    assert rounds >= 4
    rows = [row for report in reports if report.weights for row in report.weights.to_pylist()]
    assert {row["name"] for row in rows if row["kind"] == "signal"} == {o.name for o in OBJECTIVES}


def test_factored_probes_resume_is_bit_equal(data: Path, tmp_path: Path) -> None:
    assert_resume_is_bit_equal(plan_of(data, probe_every=5), tmp_path)
