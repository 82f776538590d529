import math
from collections.abc import Callable

import pytest
import torch

from raysearch.methods import METHODS, named
from raysearch.methods.meta import STAGES, Aang, MetaTartan
from raysearch.methods.static import Scores, Static
from raysearch.plan import Objective
from raysearch.settings import Aang as AangSettings
from raysearch.settings import MetaTartan as MetaTartanSettings
from raysearch.settings import Static as StaticSettings


def objective(transform: str = "bert", representation: str = "bidirectional") -> Objective:
    return Objective(data="end_task", transform=transform, representation=representation, output="denoise")


OBJECTIVES = tuple(objective(t, r) for t in ("none", "bert") for r in ("bidirectional", "left_to_right"))


def scores(*values: float, end_task: float = 0.0, aux: float = 0.0) -> Scores:
    return Scores(torch.tensor(values, dtype=torch.float64), end_task, aux)


@pytest.mark.parametrize("name", named("weighting"))
def test_coefficients_of_a_weighting_are_shares(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    sampled = weighting.sample(torch.Generator().manual_seed(0))
    factors = weighting.coefficients(sampled)
    assert 0 <= factors.lambda_e <= 1
    assert len(factors.objectives) == len(sampled)
    if sampled:
        assert float(factors.objectives.sum()) == pytest.approx(1)
    kinds: dict[tuple[str, str], float] = {}
    for share in weighting.shares() if sampled else ():
        kinds[share.kind, share.stage] = kinds.get((share.kind, share.stage), 0) + share.weight
    assert all(total == pytest.approx(1) for total in kinds.values())


@pytest.mark.parametrize("name", named("weighting"))
def test_a_weighting_goes_on_from_its_saved_state(name: str) -> None:
    make: Callable[[], Static] = lambda: METHODS[name].load()(OBJECTIVES, METHODS[name].settings())  # noqa: E731
    first, second = make(), make()
    sampled = first.sample(torch.Generator().manual_seed(0))
    first.learn(sampled, scores(*[0.5] * len(sampled), end_task=0.2, aux=-0.1))
    second.load(first.state())
    assert second.shares() == first.shares()


def test_static_weights_are_equal_whatever_is_sampled() -> None:
    weighting = Static(OBJECTIVES, StaticSettings(lambda_e=0.3, objectives_per_step=3))
    factors = weighting.coefficients([0, 2, 3])
    assert (factors.end_task, factors.aux) == (0.3, 0.7)
    assert factors.objectives.tolist() == [1 / 3] * 3


def test_sampling_is_without_replacement_and_reaches_every_objective() -> None:
    weighting = Static(OBJECTIVES, StaticSettings(objectives_per_step=2))
    generator = torch.Generator().manual_seed(0)
    seen = [tuple(weighting.sample(generator)) for _ in range(200)]
    assert all(len(set(sampled)) == 2 for sampled in seen)
    assert {index for sampled in seen for index in sampled} == set(range(4))


def test_aang_begins_uniform_at_the_declared_lambda_e() -> None:
    factors = Aang(OBJECTIVES, AangSettings(lambda_e=0.8)).coefficients([0, 1, 2])
    assert factors.lambda_e == pytest.approx(0.8)
    assert factors.objectives.tolist() == pytest.approx([1 / 3] * 3)


def test_aang_moves_each_factor_by_the_sum_over_the_objectives_that_use_it() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lr_weights=0.1))
    weighting.learn([1, 2], scores(0.5, -0.2))  # none/left_to_right gains, bert/bidirectional loses
    assert weighting.w_all.tolist() == pytest.approx([0, 0.05, -0.02, 0])
    names = weighting.primitives
    assert names["transform"] == ["bert", "none"]
    assert weighting.factors["transform"].tolist() == pytest.approx([-0.02, 0.05])
    assert names["representation"] == ["bidirectional", "left_to_right"]
    assert weighting.factors["representation"].tolist() == pytest.approx([-0.02, 0.05])
    assert weighting.factors["data"].tolist() == pytest.approx([0.03])
    # the objective that was not sampled but shares both gaining factors has gained; that is what factoring is for
    assert weighting.scores()[0].item() == pytest.approx(0.03 + 0.05 - 0.02 + 0.03)


def test_aang_unfactored_moves_sampled_objectives_alone() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(factored=False))
    weighting.learn([0], scores(1.0))
    assert weighting.scores().tolist() == pytest.approx([0.1, 0, 0, 0])
    assert {share.kind for share in weighting.shares()} == {"task", "objective"}


def test_aang_lambda_e_rises_when_the_auxiliaries_oppose_the_end_task() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lambda_e=0.5, lr_lambda=0.1))
    weighting.learn([0], scores(-0.5, end_task=0.6, aux=-0.5))
    expected = 1 / (1 + math.exp(-0.1 * (0.6 + 0.5)))
    assert weighting.coefficients([0]).lambda_e == pytest.approx(expected)


def test_aang_asks_for_no_meta_gradient_when_nothing_can_move() -> None:
    still = Aang(OBJECTIVES, AangSettings(lr_weights=0.0, lr_lambda=0.0))
    assert not any(still.wants_scores(step) for step in range(1, 10))
    every_third = Aang(OBJECTIVES, AangSettings(meta_every=3))
    assert [step for step in range(1, 10) if every_third.wants_scores(step)] == [3, 6, 9]


def test_aang_scores_of_an_objective_count_its_own_and_its_four_primitives_weights() -> None:
    weighting = Aang(OBJECTIVES, AangSettings())
    weighting.w_all += torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for number, stage in enumerate(STAGES):
        weighting.factors[stage] += 10.0 ** (number + 1)
    assert weighting.scores().tolist() == [11111, 11112, 11113, 11114]


def test_meta_tartan_weighs_end_task_and_objectives_in_one_softmax() -> None:
    weighting = MetaTartan(OBJECTIVES[:2], MetaTartanSettings(lr_tasks=1.0))
    assert weighting.coefficients([0, 1]).lambda_e == pytest.approx(1 / 3)
    weighting.learn([0, 1], scores(0.0, -1.0, end_task=1.0))
    z = torch.softmax(torch.tensor([1.0, 0.0, -1.0]), 0)
    factors = weighting.coefficients([0, 1])
    assert factors.end_task == pytest.approx(float(z[0]))
    assert (factors.aux * factors.objectives).tolist() == pytest.approx(z[1:].tolist())
