"""Evidence: standard errors, the weights they give, against plain float64 references."""

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.resume import assert_resume_is_bit_equal

from raysearch.methods.weighting.base import GradientSimilarities, StepObservation
from raysearch.methods.weighting.effects import EffectModel
from raysearch.methods.weighting.evidence import Evidence, expected_gains, measurements
from raysearch.methods.weighting.evidence_settings import EvidenceSettings as Settings
from raysearch.objectives.objective import Objective

OBJECTIVES = tuple(
    Objective(data=f"extra_{i}", transform="none", representation="full", output="extra_label") for i in range(4)
)


def observation(values: list[float]) -> StepObservation:
    similarities = GradientSimilarities(torch.tensor(values, dtype=torch.float64), 0.1, 0.1)
    return StepObservation(torch.zeros(len(values) + 1), similarities)


def weighting_after(means: list[float], count: int, *, noise: float = 0.1, start: str = "equal") -> Evidence:
    """Evidence after looks at objectives with these mean similarities."""
    weighting = Evidence(OBJECTIVES, Settings(evidence_start=start, lambda_e=0.5, dev_folds=4))
    chance = np.random.default_rng(0)
    for _ in range(count):
        weighting.learn([0, 1, 2, 3], observation([mean + noise * chance.standard_normal() for mean in means]))
    return weighting


def test_measurements_match_a_plain_computation() -> None:
    chance = np.random.default_rng(1)
    x = {(f, k): chance.standard_normal(3 + (f + k) % 2).tolist() for f in range(4) for k in range(3)}
    x[2, 1] = []
    sums, counts = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    for (f, k), values in x.items():
        sums[f, k], counts[f, k] = sum(values), len(values)
    y, v, freedom = [], [], []
    for k in range(3):
        folds = [x[f, k] for f in range(4) if x[f, k]]
        values = [value for fold in folds for value in fold]
        y.append(sum(values) / len(values))
        squares = sum(sum(value - y[k] for value in fold) ** 2 for fold in folds)
        freedom.append(len(folds) - 1)
        v.append(squares / len(values) * len(folds) / freedom[k])
    pooled = sum(d * each for d, each in zip(freedom, v, strict=True)) / sum(freedom)
    n = [len([value for f in range(4) for value in x[f, k]]) for k in range(3)]
    errors = [math.sqrt((4 * pooled + d * each) / (4 + d) / m) for d, each, m in zip(freedom, v, n, strict=True)]
    measured = measurements(sums, counts)
    assert measured is not None
    numbers, means, standard_errors = measured
    assert numbers == [0, 1, 2]  # the fourth was never observed
    assert means.tolist() == pytest.approx(y)
    assert standard_errors.tolist() == pytest.approx(errors)


def test_standard_errors_cover_the_choice_of_rows() -> None:
    """Each fold has an effect of its own, which all its looks share; errors of the means must include it."""
    chance = np.random.default_rng(2)
    misses = []
    for _ in range(200):
        of_fold = 0.3 * chance.standard_normal((8, 4))
        x = of_fold[None] + 0.2 * chance.standard_normal((50, 8, 4))
        measured = measurements(torch.from_numpy(x.sum(axis=0)), torch.full((8, 4), 50.0).double())
        assert measured is not None
        misses.append((measured[1] / measured[2]).square().mean().item())
    assert 0.8 < float(np.mean(misses)) < 1.4  # mean square of z; 16 if the looks counted as independent


def test_measurements_wait_for_a_second_fold() -> None:
    sums, counts = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    counts[0] = 30
    assert measurements(sums, counts) is None


def test_expected_gains_equal_numerical_integration() -> None:
    for mean, std in ((0.3, 0.2), (-0.1, 0.4), (0.0, 1.0)):
        points = np.linspace(mean - 10 * std, mean + 10 * std, 200001)
        density = np.exp(-0.5 * ((points - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        expected = float((np.maximum(points, 0) * density).sum() * (points[1] - points[0]))
        gains = expected_gains(torch.tensor([mean]).double(), torch.tensor([std]).double())
        assert gains.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("start", "lambda_e"), [("equal", 0.5), ("zero", 1.0)])
def test_evidence_begins_equal_or_with_the_end_task_alone(start: str, lambda_e: float) -> None:
    weighting = weighting_after([], 0, start=start)
    coefficients = weighting.coefficients([0, 1, 2, 3])
    assert coefficients.lambda_e == lambda_e
    assert coefficients.objectives.tolist() == [0.25] * 4


def test_noise_alone_leaves_the_weights_nearly_equal() -> None:
    w = weighting_after([0.3] * 4, 64).coefficients([0, 1, 2, 3]).objectives
    assert float((w - 0.25).abs().max()) < 0.03


def test_evidence_follows_effects_and_closes_what_harms() -> None:
    coefficients = weighting_after([0.3, 0.0, -0.3, 0.1], 400).coefficients([0, 1, 2, 3])
    assert coefficients.lambda_e == pytest.approx(0.5, abs=0.02)
    assert coefficients.objectives[2] < 1e-3
    assert coefficients.objectives.tolist()[0] == pytest.approx(0.75, abs=0.05)
    assert coefficients.objectives[1] < 0.05


@pytest.mark.parametrize("start", ["equal", "zero"])
def test_where_all_harm_the_end_task_is_alone(start: str) -> None:
    coefficients = weighting_after([-0.2] * 4, 100, start=start).coefficients([0, 1, 2, 3])
    assert coefficients.lambda_e > 0.999
    assert coefficients.objectives.sum().item() == pytest.approx(1)


def test_weights_are_those_of_the_formula() -> None:
    weighting = weighting_after([0.2, 0.1, -0.1, 0.05], 20)
    assert weighting.effects is not None
    measured = measurements(weighting.sums, weighting.counts)
    assert measured is not None
    numbers, y, errors = measured
    expected = EffectModel(OBJECTIVES).estimate(numbers, y, torch.diag(errors**2))
    weighting.effects = expected
    normal, u, helps = NormalDist(), [], []
    for m, s in zip(expected.mean.tolist(), expected.std.tolist(), strict=True):
        u.append(m * normal.cdf(m / s) + s * normal.pdf(m / s))
        helps.append(normal.cdf(m / s))
    w = [each / sum(u) for each in u]
    o = min(1.0, 2 * sum(a * b for a, b in zip(w, helps, strict=True)))
    coefficients = weighting.coefficients([0, 1, 2, 3])
    assert coefficients.objectives.tolist() == pytest.approx(w)
    assert coefficients.lambda_e == pytest.approx(0.5 / (0.5 + 0.5 * o))


def test_evidence_looks_at_the_folds_in_turn() -> None:
    weighting = Evidence(OBJECTIVES, Settings(evidence_every=2, dev_folds=3, similarity="dot"))
    folds = []
    for step in range(1, 13):
        query = weighting.required_gradients(step)
        assert bool(query) == (step % 2 == 0)
        if query:
            assert query.is_of_dev_head
            assert not query.normalise
            folds.append(query.fold)
            weighting.learn([0, 1], observation([0.1, 0.2]))
    assert folds == [0, 1, 2, 0, 1, 2]


def test_resumed_evidence_run_is_bit_equal(tiny_task: dict[str, str], tmp_path: Path) -> None:
    plan = tiny_plan(prepare_tiny_task(tiny_task, tmp_path / "data"), "evidence", evidence_every=1, dev_folds=2)
    assert_resume_is_bit_equal(plan, tmp_path)
