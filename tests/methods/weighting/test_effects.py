"""The factored model of effects, against a normal distribution conditioned by hand."""

from itertools import product

import pytest
import torch
from torch import Tensor

from raysearch.methods.weighting.effects import EffectModel, same_primitive
from raysearch.objectives.objective import Objective

OBJECTIVES = [
    Objective(data=d, transform=t, representation="full", output=o) for d, t, o in product("abcd", "xyz", "pq")
]


def planted_effects() -> Tensor:
    """Objectives on data a or b help, unless they are transformed by z."""
    helps = [o.data in "ab" and o.transform != "z" for o in OBJECTIVES]
    return torch.tensor(helps, dtype=torch.float64) - 0.2


def test_same_primitive_leaves_out_stages_without_a_choice() -> None:
    same = same_primitive(OBJECTIVES)
    assert same.shape == (3, 24, 24)
    assert same[0, 0].sum() == 6


def test_estimate_is_the_conditional_mean_of_its_grid_point() -> None:
    model = EffectModel(OBJECTIVES[:6])
    model.survival = torch.tensor([[0.5, 0.25]], dtype=torch.float64)  # one grid point: transform, output
    y, S = torch.tensor([1.0, 0.2, -0.3], dtype=torch.float64), 0.1 * torch.eye(3, dtype=torch.float64)
    rows = [0, 3, 4]
    K = torch.tensor([
        [(1 if i.transform == j.transform else 0.5) * (1 if i.output == j.output else 0.25) for j in OBJECTIVES[:6]]
        for i in OBJECTIVES[:6]
    ]).double()  # fmt: skip
    expected, weights = [], []
    for scale in (0.1, 0.4, 1.5, 6.0):
        a = scale * float((y - y.mean()).square().mean())
        # a common mean with a very wide prior in place of a flat one
        C = a * K + 1e6
        among = C[rows][:, rows] + S
        expected.append(C[:, rows] @ torch.linalg.solve(among, y))
        weights.append(torch.distributions.MultivariateNormal(torch.zeros(3).double(), among).log_prob(y))
    share = torch.softmax(torch.stack(weights), dim=0)
    effects = model.estimate(rows, y, S)
    assert effects.mean.tolist() == pytest.approx((share @ torch.stack(expected)).tolist(), abs=1e-3)


def test_estimate_finds_helpful_objectives_from_half_of_them() -> None:
    truth, model = planted_effects(), EffectModel(OBJECTIVES)
    measured = model.next_objectives(12, None, [], reach=1.0)
    generator = torch.Generator().manual_seed(0)
    y = truth[measured] + 0.05 * torch.randn(12, generator=generator, dtype=torch.float64)
    effects = model.estimate(measured, y, 0.0025 * torch.eye(12, dtype=torch.float64))
    unmeasured = [k for k in range(24) if k not in measured]
    helpful = truth[unmeasured] > 0
    assert effects.mean[unmeasured][helpful].min() > effects.mean[unmeasured][~helpful].max()


def test_noise_leaves_no_objective_that_is_sure() -> None:
    model, sure = EffectModel(OBJECTIVES), 0
    for seed in range(20):
        y = 0.1 * torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        measured = model.next_objectives(12, None, [], reach=1.0)
        sure += int((model.estimate(measured, y, 0.01 * torch.eye(12, dtype=torch.float64)).z > 2).any())
    assert sure <= 3


def test_next_objectives_spread_then_follow_effects() -> None:
    model = EffectModel(OBJECTIVES)
    first = model.next_objectives(6, None, [], reach=1.0)
    assert {OBJECTIVES[k].data for k in first} == set("abcd")
    assert {OBJECTIVES[k].transform for k in first} == set("xyz")
    effects = model.estimate(first, planted_effects()[first], 1e-4 * torch.eye(6, dtype=torch.float64))
    second = model.next_objectives(6, effects, first, reach=1.0)
    assert not set(first) & set(second)
    assert planted_effects()[second].mean() > planted_effects().mean()
