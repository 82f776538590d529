from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import OBJECTIVES, prepare_tiny_task, tiny_plan
from helpers.ranks import saved_parameters, train_on_ranks
from helpers.resume import assert_resume_is_bit_equal
from torch import Tensor, nn

from raysearch.distributed import ProcessGroup
from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.branch_merging import Branch
from raysearch.plan import TrialPlan
from raysearch.training.branch_deltas import BranchDeltas, MetaDevEvaluator, Snapshot
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.parameters import parameters_of, set_parameters
from raysearch.training.trainer import Trial, train

pytestmark = pytest.mark.slow  # whole trainings or pages

TWO_OBJECTIVES = OBJECTIVES[:2]
BRANCH_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "alphavil": ("alphavil", {"alpha_lr": 1.0}),
    "alphavil, moments kept": ("alphavil", {"alpha_lr": 1.0, "branch_optimizer": "kept", "weight_scales": "loss"}),
    "alphavil by newton": (
        "alphavil",
        {"alpha_optimizer": "newton", "weight_floor": 0.1, "delta_precision": "bfloat16"},
    ),
    "diw": ("diw", {"branch_optimizer": "kept"}),
    "forkmerge": ("forkmerge", {"prune_after": 2}),
}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def branch_plan(data: Path, way: str, schedule: str = "joint", **more: Any) -> TrialPlan:
    weighting, settings = BRANCH_METHODS[way]
    quick = {"pass_steps": 2, "steps": 24, "eval_every": 6, "alpha_steps": 2, "lr": 2e-3} | settings | more
    known = tiny_plan(data, weighting).settings.keys()
    unused = {"alpha_steps"} - known
    plan = tiny_plan(data, weighting, "none", schedule, **{k: v for k, v in quick.items() if k not in unused})
    return replace(plan, objectives=TWO_OBJECTIVES)


@pytest.mark.parametrize("way", BRANCH_METHODS)
def test_rounds_count_steps_of_all_branches_and_log_weights(data: Path, tmp_path: Path, way: str) -> None:
    reports = list(train(branch_plan(data, way, "joint_then_finetune", steps=25), folder=tmp_path))
    expected = {"diw": [6, 12, 18, 24], "forkmerge": [6, 12]}.get(way, [6, 12, 18, 24])
    joint = [report.step for report in reports if report.evaluation["phase"] == "joint"]
    assert joint[: len(expected)] == expected
    assert max(joint) in (24, 25) or way == "forkmerge"  # a round is taken whole, or not at all
    assert reports[-1].step == max(joint) + 4
    assert reports[-1].last
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    stages = {row["stage"] for row in rows if row["kind"] == "branch"}
    assert stages == {"weight", "gain" if way == "diw" else "alpha"}
    moved = {row["weight"] for row in rows if row["kind"] == "branch" and row["stage"] == "weight"}
    assert len(moved) > 1


@pytest.mark.parametrize("moments", ["kept", "fresh"])
def test_rounds_of_one_task_with_alpha_one_are_plain_training(data: Path, tmp_path: Path, moments: str) -> None:
    settings = {"steps": 6, "eval_every": 3, "dropout": 0.0}
    alone = {"alpha_steps": 0, "pass_steps": 3 if moments == "kept" else 6, "branch_optimizer": moments}
    plain = tiny_plan(data, "end_task_only", **settings)
    rounds = replace(tiny_plan(data, "alphavil", **settings, **alone), objectives=())
    expected = list(train(plain, folder=tmp_path / "plain"))
    reports = list(train(rounds, folder=tmp_path / "rounds"))
    assert reports[-1].evaluation["loss"] == pytest.approx(expected[-1].evaluation["loss"], abs=1e-6)
    assert reports[-1].evaluation["train_loss"] > 0
    ends = saved_parameters(tmp_path / "plain"), saved_parameters(tmp_path / "rounds")
    assert max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("way", BRANCH_METHODS)
@pytest.mark.parametrize("stop_after", [1, 3])
def test_rounds_resume_is_bit_equal(data: Path, tmp_path: Path, way: str, stop_after: int) -> None:
    assert_resume_is_bit_equal(branch_plan(data, way, "joint_then_finetune"), tmp_path, after=stop_after)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_rounds_on_several_ranks_match_one_rank(data: Path, tmp_path: Path, world: int) -> None:
    ways = ("alphavil, moments kept", "alphavil by newton", "forkmerge", "diw")
    plans = [branch_plan(data, way, workers=world, steps=18) for way in ways]
    alone, together = train_on_ranks(1, plans, tmp_path), train_on_ranks(world, plans, tmp_path, resumed=True)
    for (one, end), (several, other) in zip(alone, together, strict=True):
        for report, again in zip(one, several, strict=True):
            assert again["loss"] == pytest.approx(report["loss"], abs=1e-6)
            assert again["weights"] == report["weights"]
        assert all(torch.equal(end[name], other[name]) for name in end)


def test_round_without_enough_steps_is_rejected(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a round takes 6 steps \(2 \+ 2 \+ 2, a branch each\), and there are 5"):
        list(train(branch_plan(data, "alphavil", steps=5), folder=tmp_path))


def test_round_length_follows_data_size_and_batch_size(data: Path, tmp_path: Path) -> None:
    plan = branch_plan(data, "alphavil", pass_steps=0, rho=0.5, batch_size=16, aux_batch_size=4, steps=100)
    trial = Trial(plan, TrialFolder(tmp_path), ProcessGroup())
    assert trial.runner.branch_trainer is not None
    train_rows = len(trial.context.splits("train"))
    assert trial.runner.branch_trainer.steps(trial.phases[0], 0) == round(train_rows / 16 / 2) + 2 * round(
        train_rows / 4 / 2
    )


def test_branch_non_finite_loss_names_the_branch(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="branch end_task, step 2: the loss is not finite"):
        list(train(branch_plan(data, "alphavil", lr=1e30, head_lr=1e30, clip=0.0, warmup=0.0), folder=tmp_path))


def trial_after_one_round(data: Path, folder: Path, way: str, **more: Any) -> tuple[Trial, dict[str, Tensor]]:
    """Returns a trial after one round, and its parameters before."""
    trial = Trial(branch_plan(data, way, **more), TrialFolder(folder), ProcessGroup())
    before = {name: value.clone() for name, value in parameters_of(trial.network).items()}
    assert trial.runner.branch_trainer is not None
    trial.runner.branch_trainer(trial.phases[0], 0)
    return trial, before


def test_round_that_only_evaluates_keeps_the_parameters(data: Path, tmp_path: Path) -> None:
    trial, _ = trial_after_one_round(data, tmp_path, "diw")
    before = {name: value.clone() for name, value in parameters_of(trial.network).items()}
    assert trial.runner.branch_trainer is not None
    trial.runner.branch_trainer(trial.phases[0], 2)
    assert all(torch.equal(before[name], value) for name, value in parameters_of(trial.network).items())


def test_branch_trains_the_body_and_heads_of_its_tasks(data: Path, tmp_path: Path) -> None:
    trial = Trial(branch_plan(data, "alphavil", head_weight_decay=1.0), TrialFolder(tmp_path), ProcessGroup())
    before = {name: value.clone() for name, value in parameters_of(trial.network).items()}
    assert trial.runner.branch_trainer is not None
    trial.runner.branch_trainer._train(Branch(TWO_OBJECTIVES[1].name, {1: 1.0}), 2, 2, trial.phases[0], 0)
    moved = {name for name, value in parameters_of(trial.network).items() if not torch.equal(before[name], value)}
    assert any(name.startswith("body.") for name in moved)
    assert any(name.startswith("heads.1.") for name in moved)
    assert not any(name.startswith(("heads.0.", "end_task.")) for name in moved)


def random_deltas(trial: Trial, count: int) -> tuple[Snapshot, BranchDeltas]:
    """Returns a snapshot and random deltas of a trial's network, as branches would leave them."""
    assert trial.runner.branch_trainer is not None
    before = Snapshot(trial.network, trial.context.parameters)
    deltas = BranchDeltas(before, s.AlphaVILSettings(), ProcessGroup())
    chance = torch.Generator().manual_seed(0)
    for b in range(count):
        with torch.no_grad():
            for parameter in trial.context.parameters:
                parameter += 0.02 * torch.randn(parameter.shape, generator=chance)
        deltas.record(b)
        before.restore()
    deltas.exchange([1] * count)
    return before, deltas


def test_alpha_gradient_matches_finite_differences(data: Path, tmp_path: Path) -> None:
    trial = Trial(branch_plan(data, "alphavil"), TrialFolder(tmp_path), ProcessGroup())
    before, deltas = random_deltas(trial, 3)
    assert trial.runner.branch_trainer is not None
    dev = MetaDevEvaluator(
        trial.runner.branch_trainer.context, trial.runner.branch_trainer.dev_gradients, before, deltas
    )
    at = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
    value, slope = dev.gradient(at, 0, 0)
    assert value == pytest.approx(-dev.score(at)[1], abs=1e-6)
    for b in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[b] = 0.05
        by_difference = (dev.score(at - shift)[1] - dev.score(at + shift)[1]) / 0.1
        assert float(slope[b]) == pytest.approx(by_difference, rel=0.02, abs=2e-3)


def test_alphas_accepted_if_better_never_raise_the_dev_loss(data: Path, tmp_path: Path) -> None:
    for optimizer in ("gd", "newton", "black_box"):
        plan = branch_plan(data, "alphavil", alpha_optimizer=optimizer, alpha_accept="better", alpha_lr=100.0)
        trial = Trial(plan, TrialFolder(tmp_path / optimizer), ProcessGroup())
        before, deltas = random_deltas(trial, 3)
        assert trial.runner.branch_trainer is not None
        dev = MetaDevEvaluator(
            trial.runner.branch_trainer.context, trial.runner.branch_trainer.dev_gradients, before, deltas
        )
        alphas = trial.runner.branch_trainer.weighting.merge(trial.runner.branch_trainer.weighting.branches(), dev)
        assert dev.score(alphas)[1] >= dev.score(torch.ones(3, dtype=torch.float64))[1]


class BatchNormLinear(nn.Module):
    """A linear layer behind a batch norm, whose statistics are a mean, a variance and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out


def test_merge_averages_statistics_and_takes_first_counts() -> None:
    torch.manual_seed(0)
    network: Any = BatchNormLinear()
    before = Snapshot(network, list(network.parameters()))
    deltas, seen = BranchDeltas(before, s.AlphaVILSettings(), ProcessGroup()), []
    for b, passes in enumerate((2, 5)):
        for _ in range(passes):
            network(torch.randn(8, 3) + 3 * b)
        deltas.record(b)
        seen.append({name: value.clone() for name, value in network.named_buffers()})
        before.restore()
    deltas.exchange([1, 1])
    start = {name: value.clone() for name, value in network.named_buffers()}
    before.load_merged(torch.tensor([0.5, -1.5], dtype=torch.float64), deltas)
    mean = 0.25 * seen[0]["norm.running_mean"] + 0.75 * seen[1]["norm.running_mean"]
    assert torch.allclose(network.norm.running_mean, mean, atol=1e-6)
    assert int(network.norm.num_batches_tracked) == 2
    before.load_merged(torch.zeros(2, dtype=torch.float64), deltas)
    assert all(torch.equal(start[name], value) for name, value in network.named_buffers())


@pytest.mark.parametrize(
    ("settings", "tolerance"), [(s.AlphaVILSettings(), 1e-6), (s.AlphaVILSettings(delta_precision="bfloat16"), 1e-2)]
)
def test_merge_adds_alpha_times_delta(settings: s.AlphaVILSettings, tolerance: float) -> None:
    torch.manual_seed(0)
    network: Any = nn.Linear(5, 4)
    theta = torch.cat([p.detach().flatten() for p in network.parameters()]).double()
    before = Snapshot(network, list(network.parameters()))
    deltas = BranchDeltas(before, settings, ProcessGroup())
    changes = torch.randn(2, 24)
    for b in range(2):
        with torch.no_grad():
            network.weight += changes[b, :20].view(4, 5)
            network.bias += changes[b, 20:]
        deltas.record(b)
        before.restore()
    deltas.exchange([3, 3, 0])
    alphas = torch.tensor([0.7, -0.4, 5.0], dtype=torch.float64)  # the third did not train
    before.load_merged(alphas, deltas)
    expected = theta + alphas[:2] @ changes.double()
    assert torch.allclose(before.current_theta().double(), expected, atol=tolerance)
    deltas.equalise_norms()
    norms = [float(delta.float().norm()) for delta in deltas.deltas if delta is not None]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    assert sum(norms) == pytest.approx(float(changes.norm(dim=1).sum()), rel=1e-2)


def test_set_parameters_restores_the_snapshot(data: Path, tmp_path: Path) -> None:
    trial, before = trial_after_one_round(data, tmp_path, "alphavil")
    assert not all(torch.equal(before[name], value) for name, value in parameters_of(trial.network).items())
    set_parameters(trial.network, before)
    assert all(torch.equal(before[name], value) for name, value in parameters_of(trial.network).items())
