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


def similarity_observation(*values: float, end_task: float = 0.0, aux: float = 0.0) -> StepObservation:
    """The observation of a step with these similarities."""
    similarities = GradientSimilarities(torch.tensor(values, dtype=torch.float64), end_task, aux)
    tasks = torch.arange(1, len(values) + 2, dtype=torch.float64)
    return StepObservation(tasks.sqrt(), similarities, torch.diag(tasks))


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_coefficients_are_shares(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    sampled = weighting.sample(torch.Generator().manual_seed(0))
    coefficients = weighting.coefficients(sampled)
    assert 0 <= coefficients.lambda_e <= 1
    assert len(coefficients.objectives) == len(sampled)
    if sampled:
        assert float(coefficients.objectives.sum()) == pytest.approx(1)
    totals: dict[tuple[str, str], float] = {}
    for (row_type, stage, _), weight in zip(weighting.names(), weighting.weights().tolist(), strict=True):
        if row_type != "branch":  # alphas and gains are not shares
            totals[row_type, stage] = totals.get((row_type, stage), 0) + weight
    assert all(total == pytest.approx(1) for total in totals.values())


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_continues_from_its_saved_state(name: str, tmp_path: Path) -> None:
    make: Callable[[], Static] = lambda: METHODS[name].load()(OBJECTIVES, METHODS[name].settings())  # noqa: E731
    first, second = make(), make()
    sampled = first.sample(torch.Generator().manual_seed(0))
    observation = similarity_observation(*[0.5, -0.2, 0.1, 0.0][: len(sampled)], end_task=0.2, aux=-0.1)
    for _ in range(40):
        first.learn(sampled, observation)
        first.observe_after_update(sampled, observation.losses - 0.1)
    checkpoint.save(tmp_path / "state.safetensors", first.state())
    state = checkpoint.load(tmp_path / "state.safetensors")
    second.load(state)
    assert torch.equal(second.weights(), first.weights())
    for weighting in (first, second):
        weighting.learn(sampled, observation)
        weighting.observe_after_update(sampled, observation.losses - 0.2)
    assert torch.equal(second.weights(), first.weights())
    untouched = make()
    untouched.load(checkpoint.load(tmp_path / "state.safetensors"))  # the second did not change the loaded state
    third = make()
    third.load(state)
    assert torch.equal(third.weights(), untouched.weights())


def test_static_weights_are_equal_for_any_sample() -> None:
    weighting = Static(OBJECTIVES, StaticSettings(lambda_e=0.3, objectives_per_step=3))
    coefficients = weighting.coefficients([0, 2, 3])
    assert (coefficients.end_task, coefficients.aux) == (0.3, 0.7)
    assert coefficients.objectives.tolist() == [1 / 3] * 3


def test_searched_weights_are_shares_of_the_auxiliary_part() -> None:
    weighting = Searched(OBJECTIVES, StaticSettings(lambda_e=0.3), (1.0, 0.0, 3.0, 0.0))
    coefficients = weighting.coefficients([0, 1, 2])
    assert (coefficients.end_task, coefficients.aux) == pytest.approx((0.3, 0.7))
    assert coefficients.objectives.tolist() == pytest.approx([0.25, 0, 0.75])
    alone = weighting.coefficients([1, 3])  # none of these has a weight
    assert (alone.end_task, alone.aux) == (1, 0)


def test_sampling_without_replacement_reaches_all_objectives() -> None:
    weighting = Static(OBJECTIVES, StaticSettings(objectives_per_step=2))
    generator = torch.Generator().manual_seed(0)
    samples = [tuple(weighting.sample(generator)) for _ in range(200)]
    assert all(len(set(sampled)) == 2 for sampled in samples)
    assert {index for sampled in samples for index in sampled} == set(range(4))


def test_aang_starts_uniform_at_the_configured_lambda_e() -> None:
    coefficients = Aang(OBJECTIVES, AangSettings(lambda_e=0.8)).coefficients([0, 1, 2])
    assert coefficients.lambda_e == pytest.approx(0.8)
    assert coefficients.objectives.tolist() == pytest.approx([1 / 3] * 3)


def test_aang_factor_moves_by_the_sum_over_its_objectives() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lr_weights=0.1))
    weighting.learn([1, 2], similarity_observation(0.5, -0.2))  # none/left_to_right gains, bert/bidirectional loses
    assert weighting.logits["all"].tolist() == pytest.approx([0, 0.05, -0.02, 0])
    names = weighting.primitives
    assert names["transform"] == ["bert", "none"]
    assert weighting.logits["transform"].tolist() == pytest.approx([-0.02, 0.05])
    assert names["representation"] == ["bidirectional", "left_to_right"]
    assert weighting.logits["representation"].tolist() == pytest.approx([-0.02, 0.05])
    assert weighting.logits["data"].tolist() == pytest.approx([0.03])
    # the objective that was not sampled gains through both primitives that it shares; this is the point of factoring
    assert weighting.objective_logits()[0].item() == pytest.approx(0.03 + 0.05 - 0.02 + 0.03)


def test_aang_unfactored_moves_only_sampled_objectives() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(factored=False))
    weighting.learn([0], similarity_observation(1.0))
    assert weighting.objective_logits().tolist() == pytest.approx([0.1, 0, 0, 0])
    assert {row_type for row_type, _, _ in weighting.names()} == {"task", "objective"}


def test_aang_lambda_e_rises_when_the_auxiliaries_conflict() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lambda_e=0.5, lr_lambda=0.1))
    weighting.learn([0], similarity_observation(-0.5, end_task=0.6, aux=-0.5))
    expected = 1 / (1 + math.exp(-0.1 * (0.6 + 0.5)))
    assert weighting.coefficients([0]).lambda_e == pytest.approx(expected)


def test_aang_with_zero_rates_requests_no_meta_gradient() -> None:
    still = Aang(OBJECTIVES, AangSettings(lr_weights=0.0, lr_lambda=0.0))
    assert not any(still.required_gradients(step) for step in range(1, 10))
    every_third = Aang(OBJECTIVES, AangSettings(meta_every=3))
    query = GradientQuery("dev_head", normalise=True)
    assert [step for step in range(1, 10) if every_third.required_gradients(step) == query] == [3, 6, 9]


def test_aang_score_sums_objective_and_primitive_weights() -> None:
    weighting = Aang(OBJECTIVES, AangSettings())
    weighting.logits["all"] += torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for number, stage in enumerate(STAGES):
        weighting.logits[stage] += 10.0 ** (number + 1)
    assert weighting.objective_logits().tolist() == [11111, 11112, 11113, 11114]


def test_meta_tartan_weights_all_tasks_in_one_softmax() -> None:
    weighting = MetaTartan(OBJECTIVES[:2], MetaTartanSettings(lr_tasks=1.0))
    assert weighting.coefficients([0, 1]).lambda_e == pytest.approx(1 / 3)
    weighting.learn([0, 1], similarity_observation(0.0, -1.0, end_task=1.0))
    z = torch.softmax(torch.tensor([1.0, 0.0, -1.0]), 0)
    coefficients = weighting.coefficients([0, 1])
    assert coefficients.end_task == pytest.approx(float(z[0]))
    assert (coefficients.aux * coefficients.objectives).tolist() == pytest.approx(z[1:].tolist())


def test_meta_tartan_moves_by_the_mean_of_three_steps() -> None:
    weighting = MetaTartan(OBJECTIVES[:2], MetaTartanSettings(lr_tasks=0.5, tasks_every=3))
    observed = [(0.9, 0.2, -0.4), (-0.3, 0.6, 0.1), (0.0, 0.4, 0.6)]
    for m in observed:
        assert weighting.logits["tasks"].tolist() == pytest.approx([1 / 3] * 3)
        weighting.learn([0, 1], similarity_observation(*m[1:], end_task=m[0]))
    expected = [1 / 3 + 0.5 * sum(of_task) / 3 for of_task in zip(*observed, strict=True)]
    assert weighting.logits["tasks"].tolist() == pytest.approx(expected)


def test_meta_tartan_through_softmax_moves_by_gain_above_mean() -> None:
    weighting = MetaTartan(OBJECTIVES[:2], MetaTartanSettings(lr_tasks=0.5, through_softmax=True))
    weighting.logits["tasks"] = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    w, m = torch.softmax(weighting.logits["tasks"], 0), [0.7, 0.2, -0.4]
    mean = sum(float(a) * b for a, b in zip(w, m, strict=True))
    expected = [z + 0.5 * float(a) * (b - mean) for z, a, b in zip([0.3, -0.2, 0.1], w, m, strict=True)]
    weighting.learn([0, 1], similarity_observation(*m[1:], end_task=m[0]))
    assert weighting.logits["tasks"].tolist() == pytest.approx(expected)


def randomise_logits(weighting: Aang) -> None:
    """Gives every logit a different number."""
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
    weighting.learn([0, 1, 3], similarity_observation(*m, end_task=0.5, aux=0.1))
    moved = {name: ((weighting.logits[name] - before[name]) / 0.2).tolist() for name in before}
    assert moved["all"] == pytest.approx([d[0], d[1], 0, d[3]])
    assert moved["transform"] == pytest.approx([d[3], d[0] + d[1]])  # bert, none
    assert moved["representation"] == pytest.approx([d[0], d[1] + d[3]])
    step = 0.7 * 0.3 * (0.5 - 0.1)
    assert moved["lambda_e"] == pytest.approx([step / 2, -step / 2])


def test_aang_scalar_lambda_e_moves_and_stays_in_range() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(lambda_form="scalar", lambda_e=0.6, lr_lambda=0.5))
    weighting.learn([0], similarity_observation(0.0, end_task=0.1, aux=0.3))
    assert weighting.lambda_e == pytest.approx(0.5)
    assert weighting.coefficients([0]).end_task == pytest.approx(0.5)
    for end_task, expected in ((9.0, 1.0), (-9.0, 0.0)):
        weighting.learn([0], similarity_observation(0.0, end_task=end_task))
        assert weighting.lambda_e == expected
        assert weighting.coefficients([0, 1]).aux == 1 - expected


def test_aang_meta_mean_moves_by_the_mean_of_its_steps() -> None:
    weighting = Aang(OBJECTIVES, AangSettings(meta_every=3, meta_mean=True, lr_weights=0.1, factored=False))
    assert all(weighting.required_gradients(step) for step in range(1, 7))
    for value in (0.6, 0.0):
        weighting.learn([1], similarity_observation(value))
        assert weighting.logits["all"].tolist() == [0, 0, 0, 0]
    weighting.learn([2], similarity_observation(0.9))
    assert weighting.logits["all"].tolist() == pytest.approx([0, 0.02, 0.03, 0])
    assert weighting.observed_steps == 0


TD_OBJECTIVES = load_space("aang_td").objectives


def hierarchical(weighting: Aang, sampled: list[int]) -> tuple[list[float], list[int]]:
    """Coefficients, and a batch of 50 divided, by the authors' loops over representations, data and transforms."""

    def primitive(stage: str, k: int) -> int:
        return weighting.primitives[stage].index(getattr(weighting.objectives[k], stage))

    def power(stage: str, number: int) -> float:
        return math.exp(float(weighting.logits[stage][number]))

    last = {k: power("all", k) * power("output", primitive("output", k)) for k in sampled}
    coefficients, batch_sizes = [], []
    for k in sampled:
        siblings, share, size = sampled, 1.0, 50.0
        for stage in ("representation", "data", "transform"):
            numbers = {primitive(stage, other) for other in siblings}
            stage_share = power(stage, primitive(stage, k)) / sum(power(stage, number) for number in numbers)
            siblings = [other for other in siblings if primitive(stage, other) == primitive(stage, k)]
            share, size = share * stage_share, math.ceil(size * stage_share - 1e-9)
        coefficients.append(share * last[k] / sum(last.values()))
        batch_sizes.append(int(size))
    return coefficients, batch_sizes


def test_hierarchical_weights_are_shares_among_siblings() -> None:
    weighting = Aang(TD_OBJECTIVES, AangSettings(weight_form="hierarchical", batch_split="hierarchical", lambda_e=0.6))
    randomise_logits(weighting)
    for sampled in ([0, 3, 4, 11, 12, 20], [7], list(range(24))):
        expected, batch_sizes = hierarchical(weighting, sampled)
        coefficients = weighting.coefficients(sampled)
        assert coefficients.end_task == pytest.approx(0.6)
        assert (coefficients.aux * coefficients.objectives).tolist() == pytest.approx([0.4 * c for c in expected])
        assert float(coefficients.objectives.sum()) == pytest.approx(1)
        assert weighting.split_batch(sampled, 50) == batch_sizes
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
    tasks = sample_tasks(weighting, training, torch.Generator().manual_seed(1))
    assert len(tasks.sets) == 3
    assert tasks.sampled == sorted(set(itertools.chain(*tasks.sets)))
    expected, batch_sizes = dict.fromkeys(tasks.sampled, 0.0), dict.fromkeys(tasks.sampled, 0)
    logits = weighting.objective_logits()
    for sampled_set in tasks.sets:
        power = {k: math.exp(float(logits[k])) for k in sampled_set}
        for k in sampled_set:
            expected[k] += power[k] / sum(power.values()) / 3
            batch_sizes[k] += max(1, round(16 * power[k] / sum(power.values())))
    assert tasks.coefficients.objectives.tolist() == pytest.approx(list(expected.values()))
    assert tasks.batch_sizes == batch_sizes
    before = weighting.logits["all"].clone()
    m = torch.tensor([0.1 * (k + 1) for k in tasks.sampled], dtype=torch.float64)
    losses = torch.ones(len(m) + 1, dtype=torch.float64)
    weighting.learn(tasks.sampled, StepObservation(losses, GradientSimilarities(m, 0.0, 0.0, tasks.sets)))
    frequency = [sum(k in sampled_set for sampled_set in tasks.sets) / 3 for k in range(4)]
    moved = (weighting.logits["all"] - before).tolist()
    assert moved == pytest.approx([0.1 * 0.1 * (k + 1) * frequency[k] for k in range(4)])


@pytest.mark.parametrize("name", ["static", "eta_prim", "aang", "meta_tartan"])
def test_draw_of_a_single_sample_is_unchanged(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    tasks = sample_tasks(weighting, TrainingSettings(), torch.Generator().manual_seed(1))
    assert tasks.sampled == weighting.sample(torch.Generator().manual_seed(1))
    assert tasks.sets == ()
    assert list(tasks.batch_sizes) == tasks.sampled
