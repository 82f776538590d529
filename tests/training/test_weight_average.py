from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.ranks import train_on_ranks
from helpers.resume import assert_resume_is_bit_equal
from torch import nn

from raysearch.distributed import ProcessGroup
from raysearch.training import checkpoint
from raysearch.training.evaluation import evaluate
from raysearch.training.parameters import parameters_of, set_parameters
from raysearch.training.trainer import Trial, TrialFolder, train
from raysearch.training.weight_average import WeightAverage


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def test_mean_weighs_steps_by_powers_of_the_decay() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.9)
    for value in (1.0, 5.0, 2.0):
        nn.init.constant_(layer.weight, value)
        average.update()
    expected = (0.81 * 1 + 0.9 * 5 + 2) / (0.81 + 0.9 + 1)
    assert float(average.mean["weight"]) == pytest.approx(expected)
    with average.loaded():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 2.0
    average.finish()
    assert layer.weight.item() == pytest.approx(expected)
    average.finish()
    assert layer.weight.item() == pytest.approx(expected)


def test_statistics_are_averaged_and_counts_are_not() -> None:
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(norm, 0.5)
    for mean in (1.0, 4.0):
        norm.running_mean.fill_(mean)  # type: ignore[union-attr]
        norm.num_batches_tracked += 1  # type: ignore[operator]
        average.update()
    assert average.mean["running_mean"].tolist() == [3.0, 3.0]
    assert int(average.mean["num_batches_tracked"]) == 2


def test_evaluation_and_best_state_are_of_the_mean(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", steps=4, eval_every=4, weight_average=0.7, dropout=0.0)
    trial = Trial(plan, TrialFolder(tmp_path), ProcessGroup())
    steps = []
    advance = trial.runner.advance

    def record(phase: object) -> bool:
        is_round = advance(phase)  # type: ignore[arg-type]
        steps.append({name: value.detach().clone() for name, value in parameters_of(trial.network).items()})
        return is_round

    trial.runner.advance = record  # type: ignore[method-assign,assignment]
    (report,) = trial.run()
    weights = [0.7**3, 0.7**2, 0.7, 1.0]
    best = checkpoint.load(tmp_path / "best.safetensors")["parameters"]
    for name, value in best.items():
        mean = sum(w * step[name] for w, step in zip(weights, steps, strict=True)) / sum(weights)
        torch.testing.assert_close(value, mean, atol=1e-6, rtol=1e-5)
        assert torch.equal(value, parameters_of(trial.network)[name])  # with which the phase ends
    stored = checkpoint.load(tmp_path / "state.safetensors")["parameters"]
    assert all(torch.equal(stored[name], value) for name, value in steps[-1].items())
    set_parameters(trial.network, best)
    context = trial.context
    score = evaluate(trial.network, context.splits("select_dev"), context.batches, context.metric)
    assert score == (report.evaluation["score"], report.evaluation["loss"])


@pytest.mark.parametrize(
    ("weighting", "surgery", "schedule"),
    [
        ("end_task_only", "none", "joint"),
        ("aang", "attittud", "joint_then_finetune"),
        pytest.param("forkmerge", "none", "joint_then_finetune", marks=pytest.mark.slow),
    ],
)
def test_average_resumes_bit_equal(data: Path, tmp_path: Path, weighting: str, surgery: str, schedule: str) -> None:
    rounds = {"pass_steps": 1, "steps": 12} if weighting == "forkmerge" else {}
    plan = tiny_plan(data, weighting, surgery, schedule, weight_average=0.8, micro_batches=2, **rounds)
    state = assert_resume_is_bit_equal(plan, tmp_path)
    whole = checkpoint.load(tmp_path / "whole" / "state.safetensors")
    assert state["average"]["steps"] == whole["average"]["steps"] > 0
    for name, value in whole["average"]["mean"].items():
        assert torch.equal(state["average"]["mean"][name], value)


def test_without_an_average_the_checkpoint_has_none(data: Path, tmp_path: Path) -> None:
    list(train(tiny_plan(data, "end_task_only", steps=2), folder=tmp_path))
    assert "average" not in checkpoint.load(tmp_path / "state.safetensors")


@pytest.mark.slow
def test_average_on_two_ranks_is_that_of_one(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, dropout=0.0, steps=4, weight_average=0.8)
    (one,) = train_on_ranks(1, [plan], tmp_path)
    (two,) = train_on_ranks(2, [replace(plan, workers=2)], tmp_path)
    assert max(float((two[1][name] - value).abs().mean()) for name, value in one[1].items()) < 1e-5
    assert [row["score"] for row in one[0]] == [row["score"] for row in two[0]]
