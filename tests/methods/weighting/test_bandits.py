"""EXP3-FLAD and UCB1-FLAD, by hand and on arms of which the best is known."""

import math

import pytest
import torch
from helpers.plans import OBJECTIVES

from raysearch.methods.weighting.bandits import Bandit, Exp3, Ucb1
from raysearch.methods.weighting.base import GradientSimilarities, StepObservation
from raysearch.methods.weighting.settings import StaticSettings, Ucb1Settings

K = len(OBJECTIVES)


def observation(rewards: list[float]) -> StepObservation:
    similarities = GradientSimilarities(torch.tensor(rewards, dtype=torch.float64), 1.0, 0.0)
    return StepObservation(torch.ones(len(rewards) + 1, dtype=torch.float64), similarities)


def play(bandit: Bandit, turns: int, best: int) -> list[int]:
    """How often each arm is played, if the best one has a mean reward of .3 and all others of -.1."""
    generator, counts = torch.Generator().manual_seed(0), [0] * K
    for _ in range(turns):
        arms = bandit.sample(generator)
        noise = 0.1 * torch.randn(K, generator=generator)
        bandit.learn(arms, observation([(0.3 if arm == best else -0.1) + float(noise[arm]) for arm in arms]))
        for arm in arms:
            counts[arm] += 1
    return counts


def test_exp3_shares_follow_the_papers_formula() -> None:
    bandit = Exp3(OBJECTIVES, StaticSettings(objectives_per_step=1))
    assert bandit.shares().tolist() == pytest.approx([1 / K] * K)
    bandit.learn([0], observation([0.5]))
    assert float(bandit.rewards[0]) == pytest.approx(0.5 * K)
    bandit.turn = 50
    before, now = (min(1 / K, math.sqrt(math.log(K) / (K * turn))) for turn in (49, 50))
    weights = [math.exp(before * 0.5 * K), *([1.0] * (K - 1))]
    expected = [(1 - K * now) * each / sum(weights) + now for each in weights]
    assert bandit.shares().tolist() == pytest.approx(expected)


def test_exp3_plays_the_best_arm_most_often() -> None:
    counts = play(Exp3(OBJECTIVES, StaticSettings(objectives_per_step=1)), 600, best=1)
    assert counts[1] == max(counts)
    assert counts[1] > 1.5 * 600 / K


def test_ucb1_plays_every_arm_once_and_then_by_its_bound() -> None:
    bandit = Ucb1(OBJECTIVES, Ucb1Settings(objectives_per_step=1, ucb_smoothing=0.5))
    generator = torch.Generator().manual_seed(0)
    for _ in range(K):
        (arm,) = bandit.sample(generator)
        bandit.learn([arm], observation([0.4 if arm == 1 else 0.0]))
    assert bandit.counts.tolist() == [1.0] * K
    assert bandit.sample(generator) == [1]
    bandit.learn([1], observation([0.0]))
    assert float(bandit.means[1]) == pytest.approx(0.2)
    assert float(bandit.bounds()[1]) == pytest.approx(0.2 + math.sqrt(2 * math.log(K + 2) / 2))


def test_ucb1_with_less_exploration_plays_the_best_arm_most() -> None:
    counts = play(Ucb1(OBJECTIVES, Ucb1Settings(objectives_per_step=1, ucb_reach=0.2)), 100, best=2)
    assert counts[2] > 50


def test_bandits_weigh_the_arms_of_a_step_equally() -> None:
    coefficients = Exp3(OBJECTIVES, StaticSettings(lambda_e=0.25)).coefficients([0, 2])
    assert (coefficients.end_task, coefficients.aux) == (0.25, 0.75)
    assert coefficients.objectives.tolist() == [0.5, 0.5]
    assert Exp3(OBJECTIVES, StaticSettings()).coefficients([]).end_task == 1.0
