"""Probes: an objective takes part if a training on it alone improves the body."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import OBJECTIVES, prepare_tiny_task, tiny_plan
from helpers.resume import assert_resume_is_bit_equal
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.methods.weighting.probes import Probes
from raysearch.methods.weighting.settings import ProbesSettings as Settings
from raysearch.plan import TrialPlan
from raysearch.training import branch_trainer
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.parameters import parameters_of
from raysearch.training.trainer import Trial, train

THREE_OBJECTIVES = OBJECTIVES[:3]
LOSSES_BEFORE = torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64)
GAINS = torch.tensor([[0.5, 0.6, 0.4, 0.5], [0.1, -0.1, 0.3, 0.1], [-1.0, 0, 0, 0]], dtype=torch.float64)


class FixedGains:
    """A dev set on which each probe has a fixed gain."""

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        raise AssertionError((alphas, number, count))

    def score(self, alphas: Tensor) -> tuple[float, float]:
        raise AssertionError(alphas)

    def leave_one_out_errors(self, alphas: Tensor, *, held_out: bool = False) -> Tensor:
        assert not held_out
        return LOSSES_BEFORE - alphas @ GAINS


def probes_after_merge(**settings: Any) -> Probes:
    probes = Probes(THREE_OBJECTIVES, Settings(**settings))
    assert not probes.is_finished
    assert probes.merge(probes.branches(), FixedGains()).tolist() == [0, 0, 0]
    assert probes.is_finished
    return probes


def probes_plan(data: Path, **more: Any) -> TrialPlan:
    plan = tiny_plan(data, "probes", **({"pass_steps": 3, "steps": 24, "eval_every": 5, "probe_margin": -50.0} | more))
    return replace(plan, objectives=THREE_OBJECTIVES)


def test_probes_share_is_gain_over_its_standard_error() -> None:
    probes = probes_after_merge(lambda_e=0.4, probe_margin=0.5)
    gains = [float(d.mean() / (d.std() / len(d) ** 0.5)) for d in GAINS]
    assert list(probes.last_values.values()) == pytest.approx(gains)
    parts = [1.0, gains[1] - 0.5, 0.0]
    assert 0 < parts[1] < 1
    assert probes.sample(torch.Generator()) == [0, 1]
    shares = probes.coefficients([0, 1])
    assert (shares.end_task, shares.aux) == pytest.approx((0.4, 0.6))
    assert shares.objectives.tolist() == pytest.approx([part / sum(parts) for part in parts[:2]])


def test_probes_small_gain_gets_small_share_and_none_gets_zero() -> None:
    margin = float(GAINS[0].mean() / (GAINS[0].std() / 2)) - 0.25
    doubtful = probes_after_merge(lambda_e=0.5, probe_margin=margin)
    shares = doubtful.coefficients(doubtful.sample(torch.Generator()))
    assert shares.aux / shares.end_task == pytest.approx(0.25)
    none = probes_after_merge(probe_margin=margin + 1)
    assert none.sample(torch.Generator()) == []
    assert none.lambda_e == 1


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def test_probes_restore_parameters_and_full_lr_schedule(data: Path, tmp_path: Path) -> None:
    trial = Trial(probes_plan(data), TrialFolder(tmp_path), ProcessGroup())
    first = {name: value.detach().clone() for name, value in parameters_of(trial.network).items()}
    rates: list[float] = []
    (phase,) = trial.phases
    trial.runner.begin(phase)
    trial.runner.advance(phase)
    assert trial.runner.position.phase_step == 9
    assert all(torch.equal(value, first[name]) for name, value in parameters_of(trial.network).items())
    while not trial.runner.is_over(phase):
        trial.runner.advance(phase)
        rates.append(trial.runner.optimizer.param_groups[0]["lr"])
    assert len(rates) == 15
    assert max(rates) == rates[0] == pytest.approx(phase.lr)
    assert rates[-1] == pytest.approx(phase.lr / 15)


def record_optimizers(monkeypatch: pytest.MonkeyPatch) -> list[torch.optim.Optimizer]:
    """The optimizers that branches will be trained with."""
    optimizers: list[torch.optim.Optimizer] = []
    make_optimizer = branch_trainer.make_optimizer

    def make_and_record(*arguments: Any) -> torch.optim.Optimizer:
        optimizers.append(make_optimizer(*arguments))
        return optimizers[-1]

    monkeypatch.setattr(branch_trainer, "make_optimizer", make_and_record)
    return optimizers


def test_probes_train_at_the_learning_rate_of_probes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    for rate in (1.0, 4.0):
        trial = Trial(probes_plan(data, probe_rate=rate), TrialFolder(tmp_path / str(rate)), ProcessGroup())
        with monkeypatch.context() as patch:
            optimizers = record_optimizers(patch)
            trial.runner.begin(trial.phases[0])
            trial.runner.advance(trial.phases[0])
        peaks.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
    assert len(peaks[0]) == 3
    assert peaks[1] == pytest.approx([4 * lr for lr in peaks[0]])


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2])
def test_probes_resume_is_bit_equal(data: Path, tmp_path: Path, after: int) -> None:
    assert_resume_is_bit_equal(probes_plan(data), tmp_path, after=after)


def test_probes_with_unreachable_margin_become_fine_tuning(data: Path, tmp_path: Path) -> None:
    last = [report.evaluation for report in train(probes_plan(data, probe_margin=1e6), folder=tmp_path)][-1]
    assert last["lambda_e"] == 1
    assert last["aux_loss"] == 0
