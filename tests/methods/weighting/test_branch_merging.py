from typing import Any

import pytest
import torch
from helpers.plans import OBJECTIVES
from torch import Tensor

from raysearch.methods.weighting.base import END_TASK
from raysearch.methods.weighting.branch_merging import DIW, AlphaVIL, BranchWeighting, ForkMerge
from raysearch.methods.weighting.settings import AlphaVILSettings, DIWSettings, ForkMergeSettings

TWO_OBJECTIVES = OBJECTIVES[:2]
HELPS, HARMS = TWO_OBJECTIVES[0].name, TWO_OBJECTIVES[1].name


class LinearMetaDev:
    """A meta-dev whose loss is <slope, alpha>, as it is for small changes of the parameters."""

    def __init__(self, slope: list[float]) -> None:
        self.slope = torch.tensor(slope, dtype=torch.float64)
        self.batch_requests: list[tuple[int, int]] = []

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        self.batch_requests.append((number, count))
        return float(alphas @ self.slope), self.slope

    def score(self, alphas: Tensor) -> tuple[float, float]:
        loss = float(alphas @ self.slope)
        return round(-loss), -loss


def merge_with_slope(weighting: BranchWeighting, slope: list[float]) -> tuple[Tensor, LinearMetaDev]:
    dev = LinearMetaDev(slope)
    return weighting.merge(weighting.branches(), dev), dev


def test_alphavil_starts_one_branch_per_task_with_weight_one() -> None:
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings())
    assert [(b.name, b.factors, b.rate) for b in weighting.branches()] == [
        ("end_task", {END_TASK: 1.0}, 1.0), (HELPS, {0: 1.0}, 1.0), (HARMS, {1: 1.0}, 1.0),
    ]  # fmt: skip
    assert weighting.w.tolist() == [1, 1, 1]


def test_alphavil_lowers_weight_of_task_opposing_dev_gradient() -> None:
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_steps=3, alpha_lr=0.1))
    alphas, dev = merge_with_slope(weighting, [-1.0, -0.5, 2.0])
    assert alphas.tolist() == pytest.approx([1.3, 1.15, 0.4])
    assert weighting.w.tolist() == pytest.approx([1.3, 1.15, 0.4])  # w += alpha - 1
    assert dev.batch_requests == [(0, 32), (1, 32), (2, 32)]
    merge_with_slope(weighting, [-1.0, -0.5, 0.5])
    assert weighting.w.tolist() == pytest.approx([1.6, 1.3, 0.25])


@pytest.mark.parametrize("optimizer", ["gd", "newton", "black_box"])
def test_alphavil_zero_dev_gradient_keeps_weights(optimizer: str) -> None:
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_optimizer=optimizer))
    alphas, _ = merge_with_slope(weighting, [0.0, 0.0, 0.0])
    assert alphas.tolist() == weighting.w.tolist() == [1, 1, 1]


def test_alphavil_weight_floor_holds_and_zero_branch_rests() -> None:
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_steps=1, alpha_lr=1.0, weight_floor=0.1))
    merge_with_slope(weighting, [0.0, 0.0, 1.5])
    assert weighting.w.tolist() == [1, 1, 0.1]
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_steps=1, alpha_lr=1.0, weight_floor=0.0))
    merge_with_slope(weighting, [0.0, 0.0, 1.5])
    assert [branch.is_idle for branch in weighting.branches()] == [False, False, True]
    alphas, _ = merge_with_slope(weighting, [0.0, 0.0, 1.5])  # an idle branch cannot have this slope
    assert alphas.tolist() == [1, 1, 1]


def test_alphavil_all_zero_weights_raise_with_remedy() -> None:
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_steps=1, alpha_lr=1.0, weight_floor=0.0))
    merge_with_slope(weighting, [1.0, 1.0, 1.5])
    with pytest.raises(ArithmeticError, match="give a weight_floor"):
        weighting.branches()


def test_alphavil_weights_scale_learning_rate_or_loss() -> None:
    for scales, renormalise in (("rate", False), ("loss", False), ("rate", True)):
        weighting = AlphaVIL(
            TWO_OBJECTIVES,
            AlphaVILSettings(alpha_steps=1, alpha_lr=1.0, weight_scales=scales, renormalise=renormalise),
        )
        merge_with_slope(weighting, [-1.0, -0.5, 0.5])
        sizes = [branch.rate * next(iter(branch.factors.values())) for branch in weighting.branches()]
        assert sizes == pytest.approx([1.5, 1.125, 0.375])
        assert float(weighting.w.sum()) == pytest.approx(3 if renormalise else 4)
        assert [branch.rate for branch in weighting.branches()] == pytest.approx(sizes if scales == "rate" else [1] * 3)


class MisleadingMetaDev(LinearMetaDev):
    """A meta-dev whose batches have the opposite gradient of the whole."""

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        value, slope = super().gradient(alphas, number, count)
        return -value, -slope


def test_alpha_accept_better_rejects_alphas_that_raise_dev_loss() -> None:
    for accept, expected in (("always", [1.5, 1.0, 1.0]), ("better", [1.0, 1.0, 1.0])):
        weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_steps=1, alpha_lr=0.5, alpha_accept=accept))
        assert weighting.merge(weighting.branches(), MisleadingMetaDev([1.0, 0.0, 0.0])).tolist() == expected


def test_diw_alternates_joint_training_and_evaluation_rounds() -> None:
    weighting = DIW(TWO_OBJECTIVES, DIWSettings(diw_rate=0.5))
    assert [(b.name, b.factors) for b in weighting.branches()] == [
        ("together", pytest.approx({-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}))
    ]
    assert merge_with_slope(weighting, [0.0])[0].tolist() == [1]
    assert [(b.name, b.factors) for b in weighting.branches()] == [(HELPS, {0: 1.0}), (HARMS, {1: 1.0})]
    assert merge_with_slope(weighting, [-1.0, 2.0])[0].tolist() == [0, 0]  # the evaluated copies are dropped
    assert weighting.w.tolist() == pytest.approx([1, 1.25, 0.5])  # w + eta gain / max |gain|
    (together,) = weighting.branches()
    assert together.factors == pytest.approx({-1: 4 / 11, 0: 5 / 11, 1: 2 / 11})
    for _ in range(4):
        merge_with_slope(weighting, [0.0] if not weighting.is_evaluation_round else [-1.0, 2.0])
    assert weighting.w.tolist() == pytest.approx([1, 1.75, 0.0])


def test_diw_gain_score_uses_metric_gains() -> None:
    weighting = DIW(TWO_OBJECTIVES, DIWSettings(diw_rate=0.5, diw_gain="score"))
    merge_with_slope(weighting, [0.0])
    merge_with_slope(weighting, [-0.4, 2.0])  # the metric is rounded here, so the first gains nothing
    assert weighting.w.tolist() == pytest.approx([1, 1.0, 0.5])


def test_forkmerge_objective_weight_is_its_branch_weight() -> None:
    weighting = ForkMerge(TWO_OBJECTIVES, ForkMergeSettings())
    assert [b.factors for b in weighting.branches()] == [
        {END_TASK: 1.0},
        {END_TASK: 1.0, 0: 1.0},
        {END_TASK: 1.0, 1: 1.0},
    ]
    alphas, _ = merge_with_slope(weighting, [0.0, -1.0, 1.0])
    assert alphas.tolist() == [0.0, 1.0, 0.0]
    coefficients = weighting.coefficients([0, 1])
    assert (coefficients.end_task, coefficients.aux, coefficients.objectives.tolist()) == (0.5, 0.5, [1.0, 0.0])


def test_forkmerge_prunes_zero_branches_and_keeps_the_largest() -> None:
    three = OBJECTIVES[:3]
    weighting = ForkMerge(three, ForkMergeSettings(prune_after=1, keep_branches=1))

    class QuadraticMetaDev(LinearMetaDev):
        def score(self, alphas: Tensor) -> tuple[float, float]:
            return 0.0, -float((alphas - self.slope).square().sum())

    dev = QuadraticMetaDev([0.1, 0.5, 0.0, 0.4])
    alphas = weighting.merge(weighting.branches(), dev)
    assert alphas[2] == 0
    assert min(alphas[1], alphas[3]) > 0
    assert [branch.name for branch in weighting.branches()] == ["end_task", three[0].name]
    pruned = ForkMerge(three, ForkMergeSettings(prune_after=1))
    pruned.merge(pruned.branches(), dev)
    assert [branch.name for branch in pruned.branches()] == ["end_task", three[0].name, three[2].name]


def test_forkmerge_together_has_two_branches() -> None:
    weighting = ForkMerge(TWO_OBJECTIVES, ForkMergeSettings(fork_branches="together"))
    assert [b.factors for b in weighting.branches()] == [{END_TASK: 1.0}, {END_TASK: 1.0, 0: 0.5, 1: 0.5}]
    assert merge_with_slope(weighting, [-1.0, 1.0])[0].tolist() == [1.0, 0.0]
    assert weighting.coefficients([0, 1]).lambda_e == 1.0


@pytest.mark.parametrize(
    ("weighting_type", "settings"),
    [
        (AlphaVIL, AlphaVILSettings()),
        (DIW, DIWSettings()),
        (ForkMerge, ForkMergeSettings(prune_after=1)),
    ],
)
def test_branch_weighting_resumes_from_saved_state(weighting_type: type[BranchWeighting], settings: Any) -> None:
    first, second = weighting_type(TWO_OBJECTIVES, settings), weighting_type(TWO_OBJECTIVES, settings)
    merge_with_slope(first, [-1.0, 0.5, 2.0][: len(first.branches())])
    second.load(first.state())
    assert second.branches() == first.branches()
    assert second.weights().tolist() == first.weights().tolist()


def test_alphavil_logs_normalised_shares_and_raw_branch_weights() -> None:
    weighting = AlphaVIL(TWO_OBJECTIVES, AlphaVILSettings(alpha_steps=1, alpha_lr=1.0))
    merge_with_slope(weighting, [-1.0, -0.5, 0.5])
    rows = dict(zip(weighting.names(), weighting.weights().tolist(), strict=True))
    for row_type in ("task", "objective"):
        assert sum(weight for name, weight in rows.items() if name[0] == row_type) == pytest.approx(1)
    logged_rows = {name[1:]: weight for name, weight in rows.items() if name[0] == "branch"}
    assert logged_rows == pytest.approx(
        {("weight", "end_task"): 2, ("weight", HELPS): 1.5, ("weight", HARMS): 0.5}
        | {("alpha", "end_task"): 2, ("alpha", HELPS): 1.5, ("alpha", HARMS): 0.5}
    )


def test_branch_coefficients_equal_branch_factors() -> None:
    _, pair, _ = ForkMerge(TWO_OBJECTIVES, ForkMergeSettings()).branches()
    coefficients = pair.coefficients()
    assert (coefficients.end_task, coefficients.aux, coefficients.objectives.tolist()) == (1.0, 1.0, [1.0])
