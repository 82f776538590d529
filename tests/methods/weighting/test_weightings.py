import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raysearch.methods import METHODS, methods_of
from raysearch.methods.weighting.base import GradientQuery, GradientSimilarities, StepObservation
from raysearch.methods.weighting.meta_gradient import STAGES, Aang, MetaTartan
from raysearch.methods.weighting.settings import AangSettings, MetaTartanSettings, StaticSettings
from raysearch.methods.weighting.static import Searched, Static
from raysearch.methods.weighting.task_sampling import sample_tasks
from raysearch.modalities.loading import load_space
from raysearch.objectives.objective import Objective
from raysearch.training import checkpoint
from raysearch.training_settings import TrainingSettings


def objective(transform: str = "bert", representation: str = "bidirectional") -> Objective:
    return Objective(data="end_task", transform=transform, representation=representation, output="denoise")


OBJECTIVES = tuple(objective(t, r) for t in ("none", "bert") for r in ("bidirectional", "left_to_right"))


def scores(*values: float, end_task: float = 0.0, aux: float = 0.0) -> StepObservation:
    """A step of similarities."""
    found = GradientSimilarities(torch.tensor(values, dtype=torch.float64), end_task, aux)
    tasks = torch.arange(1, len(values) + 2, dtype=torch.float64)
    return StepObservation(tasks.sqrt(), found, torch.diag(tasks))


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_coefficients_are_shares(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    sampled = weighting.sample(torch.Generator().manual_seed(0))
    factors = weighting.coefficients(sampled)
    assert 0 <= factors.lambda_e <= 1
    assert len(factors.objectives) == len(sampled)
    if sampled:
        assert float(factors.objectives.sum()) == pytest.approx(1)
    kinds: dict[tuple[str, str], float] = {}
    for (kind, stage, _), weight in zip(weighting.names(), weighting.weights().tolist(), strict=True):
        if kind != "branch":  # as they are: alphas and gains are no shares
            kinds[kind, stage] = kinds.get((kind, stage), 0) + weight
    assert all(total == pytest.approx(1) for total in kinds.values())


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_continues_from_its_saved_state(name: str, tmp_path: Path) -> None:
    make: Callable[[], Static] = lambda: METHODS[name].load()(OBJECTIVES, METHODS[name].settings())  # noqa: E731
    first, second = make(), make()
    sampled = first.sample(torch.Generator().manual_seed(0))
    seen = scores(*[0.5, -0.2, 0.1, 0.0][: len(sampled)], end_task=0.2, aux=-0.1)
    for _ in range(40):
        first.learn(sampled, seen)
        first.observe_after_update(sampled, seen.losses - 0.1)
    checkpoint.save(tmp_path / "state.safetensors", first.state())
    state = checkpoint.load(tmp_path / "state.safetensors")
    second.load(state)
    assert torch.equal(second.weights(), first.weights())
    for weighting in (first, second):
        weighting.learn(sampled, seen)
        weighting.observe_after_update(sampled, seen.losses - 0.2)
    assert torch.equal(second.weights(), first.weights())
    untouched = make()
    untouched.load(checkpoint.load(tmp_path / "state.safetensors"))  # what was saved has not moved with the second
    third = make()
    third.load(state)
    assert torch.equal(third.weights(), untouched.weights())


def test_static_weights_are_equal_for_any_sample() -> None:
    weighting = Static(OBJECTIVES, StaticSettings(lambda_e=0.3, objectives_per_step=3))
    factors = weighting.coefficients([0, 2, 3])
    assert (factors.end_task, factors.aux) == (0.3, 0.7)
    assert factors.objectives.tolist() == [1 / 3] * 3


def test_searched_weights_are_shares_of_the_auxiliary_part() -> None:
    weighting = Searched(OBJECTIVES, StaticSettings(lambda_e=0.3), (1.0, 0.0, 3.0, 0.0))
    factors = weighting.coefficients([0, 1, 2])
    assert (factors.end_task, factors.aux) == pytest.approx((0.3, 0.7))
    assert factors.objectives.tolist() == pytest.approx([0.25, 0, 0.75])
    alone = weighting.coefficients([1, 3])  # none of these has a weight
    assert (alone.end_task, alone.aux) == (1, 0)


def test_sampling_without_replacement_reaches_all_objectives() -> None:
    weighting = Static(OBJECTIVES, StaticSettings(objectives_per_step=2))
    generator = torch.Generator().manual_seed(0)
    seen = [tuple(weighting.sample(generator)) for _ in range(200)]
    assert all(len(set(sampled)) == 2 for sampled in seen)
    assert {index for sampled in seen for index in sampled} == set(range(4))


def test_aang_starts_uniform_at_the_configured_lambda_e() -> None:
    factors = Aang(OBJECTIVES, AangSettings(lambda_e=0.8)).coefficients([0, 1, 2])
    assert factors.lambda_e == pytest.approx(0.8)
    assert factors.objectives.tolist() == pytest.approx([1 / 3] * 3)


def test_aang_factor_moves_by_the_sum_over_its_objectives() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lr_weights=0.1))
    weighting.learn([1, 2], scores(0.5, -0.2))  # none/left_to_right gains, bert/bidirectional loses
    assert weighting.logits["all"].tolist() == pytest.approx([0, 0.05, -0.02, 0])
    names = weighting.primitives
    assert names["transform"] == ["bert", "none"]
    assert weighting.logits["transform"].tolist() == pytest.approx([-0.02, 0.05])
    assert names["representation"] == ["bidirectional", "left_to_right"]
    assert weighting.logits["representation"].tolist() == pytest.approx([-0.02, 0.05])
    assert weighting.logits["data"].tolist() == pytest.approx([0.03])
    # the objective that was not sampled but shares both gaining factors has gained; that is what factoring is for
    assert weighting.objective_logits()[0].item() == pytest.approx(0.03 + 0.05 - 0.02 + 0.03)


def test_aang_unfactored_moves_only_sampled_objectives() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(factored=False))
    weighting.learn([0], scores(1.0))
    assert weighting.objective_logits().tolist() == pytest.approx([0.1, 0, 0, 0])
    assert {kind for kind, _, _ in weighting.names()} == {"task", "objective"}


def test_aang_lambda_e_rises_when_the_auxiliaries_conflict() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lambda_e=0.5, lr_lambda=0.1))
    weighting.learn([0], scores(-0.5, end_task=0.6, aux=-0.5))
    expected = 1 / (1 + math.exp(-0.1 * (0.6 + 0.5)))
    assert weighting.coefficients([0]).lambda_e == pytest.approx(expected)


def test_aang_with_zero_rates_requests_no_meta_gradient() -> None:
    still = Aang(OBJECTIVES, AangSettings(lr_weights=0.0, lr_lambda=0.0))
    assert not any(still.required_gradients(step) for step in range(1, 10))
    every_third = Aang(OBJECTIVES, AangSettings(meta_every=3))
    assert [step for step in range(1, 10) if every_third.required_gradients(step) == GradientQuery("dev_head")] == [
        3,
        6,
        9,
    ]


def test_aang_score_sums_objective_and_primitive_weights() -> None:
    weighting = Aang(OBJECTIVES, AangSettings())
    weighting.logits["all"] += torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for number, stage in enumerate(STAGES):
        weighting.logits[stage] += 10.0 ** (number + 1)
    assert weighting.objective_logits().tolist() == [11111, 11112, 11113, 11114]


def test_meta_tartan_weights_all_tasks_in_one_softmax() -> None:
    weighting = MetaTartan(OBJECTIVES[:2], MetaTartanSettings(lr_tasks=1.0))
    assert weighting.coefficients([0, 1]).lambda_e == pytest.approx(1 / 3)
    weighting.learn([0, 1], scores(0.0, -1.0, end_task=1.0))
    z = torch.softmax(torch.tensor([1.0, 0.0, -1.0]), 0)
    factors = weighting.coefficients([0, 1])
    assert factors.end_task == pytest.approx(float(z[0]))
    assert (factors.aux * factors.objectives).tolist() == pytest.approx(z[1:].tolist())


def test_meta_tartan_through_softmax_moves_by_gain_above_mean() -> None:
    weighting = MetaTartan(OBJECTIVES[:2], MetaTartanSettings(lr_tasks=0.5, through_softmax=True))
    weighting.logits["tasks"] = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    w, m = torch.softmax(weighting.logits["tasks"], 0), [0.7, 0.2, -0.4]
    mean = sum(float(a) * b for a, b in zip(w, m, strict=True))
    expected = [z + 0.5 * float(a) * (b - mean) for z, a, b in zip([0.3, -0.2, 0.1], w, m, strict=True)]
    weighting.learn([0, 1], scores(*m[1:], end_task=m[0]))
    assert weighting.logits["tasks"].tolist() == pytest.approx(expected)


def randomise_logits(weighting: Aang) -> None:
    """Give every factor a number of its own."""
    generator = torch.Generator().manual_seed(3)
    for name in ("all", *STAGES):
        weighting.logits[name] = torch.randn(len(weighting.logits[name]), generator=generator, dtype=torch.float64)


def test_aang_through_softmax_moves_by_gain_above_mean() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lr_weights=0.2, lr_lambda=0.1, through_softmax=True, lambda_e=0.7))
    randomise_logits(weighting)
    before = {name: value.clone() for name, value in weighting.logits.items()}
    w, m = weighting.coefficients([0, 1, 3]).objectives.tolist(), [0.9, -0.3, 0.4]
    mean = sum(a * b for a, b in zip(w, m, strict=True))
    d = dict(zip([0, 1, 3], [a * (b - mean) for a, b in zip(w, m, strict=True)], strict=True))
    weighting.learn([0, 1, 3], scores(*m, end_task=0.5, aux=0.1))
    moved = {name: ((weighting.logits[name] - before[name]) / 0.2).tolist() for name in before}
    assert moved["all"] == pytest.approx([d[0], d[1], 0, d[3]])
    assert moved["transform"] == pytest.approx([d[3], d[0] + d[1]])  # bert, none
    assert moved["representation"] == pytest.approx([d[0], d[1] + d[3]])
    step = 0.7 * 0.3 * (0.5 - 0.1)
    assert moved["lambda_e"] == pytest.approx([step / 2, -step / 2])


def test_aang_scalar_lambda_e_moves_and_stays_in_range() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lambda_form="scalar", lambda_e=0.6, lr_lambda=0.5))
    weighting.learn([0], scores(0.0, end_task=0.1, aux=0.3))
    assert weighting.lambda_e == pytest.approx(0.5)
    assert weighting.coefficients([0]).end_task == pytest.approx(0.5)
    for end_task, expected in ((9.0, 1.0), (-9.0, 0.0)):
        weighting.learn([0], scores(0.0, end_task=end_task))
        assert weighting.lambda_e == expected
        assert weighting.coefficients([0, 1]).aux == 1 - expected


def test_aang_meta_mean_moves_by_the_mean_of_its_steps() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(meta_every=3, meta_mean=True, lr_weights=0.1, factored=False))
    assert all(weighting.required_gradients(step) for step in range(1, 7))
    for value in (0.6, 0.0):
        weighting.learn([1], scores(value))
        assert weighting.logits["all"].tolist() == [0, 0, 0, 0]
    weighting.learn([2], scores(0.9))
    assert weighting.logits["all"].tolist() == pytest.approx([0, 0.02, 0.03, 0])
    assert weighting.observed_steps == 0


TD_OBJECTIVES = load_space("aang_td").objectives


def hierarchical(weighting: Aang, sampled: list[int]) -> tuple[list[float], list[int]]:
    """Coefficients and rows of 50 by the authors' loops: representations, data, transforms, then W^All + W^O."""
    of = lambda stage, k: weighting.primitives[stage].index(getattr(weighting.objectives[k], stage))  # noqa: E731
    order = ("representation", "data", "transform")
    power = lambda stage, name: math.exp(float(weighting.logits[stage][name]))  # noqa: E731
    own = {
        k: math.exp(float(weighting.logits["all"][k] + weighting.logits["output"][of("output", k)])) for k in sampled
    }
    coefficients, rows = [], []
    for k in sampled:
        siblings, share, left = sampled, 1.0, 50.0
        for stage in order:
            names = {of(stage, other) for other in siblings}
            part = power(stage, of(stage, k)) / sum(power(stage, name) for name in names)
            siblings = [other for other in siblings if of(stage, other) == of(stage, k)]
            share, left = share * part, math.ceil(left * part - 1e-9)
        coefficients.append(share * own[k] / sum(own.values()))
        rows.append(int(left))
    return coefficients, rows


def test_hierarchical_weights_are_shares_among_siblings() -> None:
    weighting = Aang(TD_OBJECTIVES, AangSettings(weight_form="hierarchical", batch_split="hierarchical", lambda_e=0.6))
    randomise_logits(weighting)
    for sampled in ([0, 3, 4, 11, 12, 20], [7], list(range(24))):
        expected, rows = hierarchical(weighting, sampled)
        factors = weighting.coefficients(sampled)
        assert factors.end_task == pytest.approx(0.6)
        assert (factors.aux * factors.objectives).tolist() == pytest.approx([0.4 * c for c in expected])
        assert float(factors.objectives.sum()) == pytest.approx(1)
        assert weighting.split_batch(sampled, 50) == rows
    assert weighting.weights()[:2].tolist() == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize(("n", "expected"), [(3, 0.35), (6, 0.19), (24, 0.06)])
def test_hierarchical_weights_start_at_the_sums_of_the_code(n: int, expected: float) -> None:
    weighting = Aang(TD_OBJECTIVES, AangSettings(weight_form="hierarchical", lambda_e=0.5, objectives_per_step=n))
    generator = torch.Generator().manual_seed(0)
    sums = [2 * weighting.coefficients(weighting.sample(generator)).aux for _ in range(400 if n < 24 else 1)]
    assert sum(sums) / len(sums) == pytest.approx(expected, abs=0.011)


def test_hierarchical_weights_with_large_logits_are_finite() -> None:
    weighting = Aang(TD_OBJECTIVES, AangSettings(weight_form="hierarchical"))
    weighting.logits["representation"] += torch.tensor([0.0, 2000.0, 0.0, -2000.0], dtype=torch.float64)
    assert weighting.weights().isfinite().all()


def test_batch_is_split_by_weight_or_equally() -> None:
    weighting = Aang(OBJECTIVES, AangSettings())
    weighting.logits["all"][0] = math.log(9.0)
    assert weighting.split_batch([0, 1, 2, 3], 24) == [18, 2, 2, 2]
    equal = Aang(OBJECTIVES, AangSettings(batch_split="equal"))
    equal.logits["all"][0] = 50.0
    assert equal.split_batch([0, 1, 2, 3], 24) == [6, 6, 6, 6]
    assert equal.split_batch([0, 1, 2, 3], 2) == [1, 1, 1, 1]


def test_micro_step_samples_are_averaged_into_one_step() -> None:
    settings = AangSettings(sample_every="micro_step", objectives_per_step=2, lr_weights=0.1)
    weighting = Aang(OBJECTIVES, settings)
    randomise_logits(weighting)
    training = TrainingSettings(micro_batches=3, aux_batch_size=48)
    found = sample_tasks(weighting, training, torch.Generator().manual_seed(1))
    assert len(found.sets) == 3
    assert found.sampled == sorted(set(itertools.chain(*found.sets)))
    expected, rows = dict.fromkeys(found.sampled, 0.0), dict.fromkeys(found.sampled, 0)
    score = weighting.objective_logits()
    for some in found.sets:
        power = {k: math.exp(float(score[k])) for k in some}
        for k in some:
            expected[k] += power[k] / sum(power.values()) / 3
            rows[k] += max(1, round(16 * power[k] / sum(power.values())))
    assert found.coefficients.objectives.tolist() == pytest.approx(list(expected.values()))
    assert found.batch_sizes == rows
    before = weighting.logits["all"].clone()
    similar = torch.tensor([0.1 * (k + 1) for k in found.sampled], dtype=torch.float64)
    losses = torch.ones(len(similar) + 1, dtype=torch.float64)
    weighting.learn(found.sampled, StepObservation(losses, GradientSimilarities(similar, 0.0, 0.0, found.sets)))
    times = [sum(k in some for some in found.sets) / 3 for k in range(4)]
    moved = (weighting.logits["all"] - before).tolist()
    assert moved == pytest.approx([0.1 * 0.1 * (k + 1) * times[k] for k in range(4)])


@pytest.mark.parametrize("name", ["static", "eta_prim", "aang", "meta_tartan"])
def test_draw_of_a_single_sample_is_unchanged(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    found = sample_tasks(weighting, TrainingSettings(), torch.Generator().manual_seed(1))
    assert found.sampled == weighting.sample(torch.Generator().manual_seed(1))
    assert found.sets == ()
    assert list(found.batch_sizes) == found.sampled
