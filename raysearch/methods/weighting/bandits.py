"""Bandits over objectives: each step trains a few of them, and its rewards say which to train next.

FLAD   Albalak, Raffel & Wang (NeurIPS 2023), https://arxiv.org/abs/2302.00674, EXP3-FLAD and UCB1-FLAD
EXP3   Auer, Cesa-Bianchi, Freund & Schapire (SIAM J. Comput. 32, 2002);  UCB1  Auer, Cesa-Bianchi & Fischer (2002)

    K            objectives, the arms;  `objectives_per_step` of them are played in a step
    t            the turn, from 1: steps in which an arm was played
    r_k          the reward: cosine of g_k with the end task's gradient of the same step, in [-1, 1]

exp3   E_t = min(1/K, sqrt(ln K / (K t)));  pi_k = (1 - K E_t) softmax_k(E_{t-1} R_k) + E_t;  R_k += r_k / p_k
ucb1   play the largest M_k + reach sqrt(2 ln t / n_k), unplayed arms first;  M_k <- (1 - beta) M_k + beta r_k

A step computes the gradients of the played arms alone, so its cost does not grow with K. The end task has weight
lambda_e; the arms of a step share the rest equally. Differences from the paper: it plays one arm in a turn; here a turn
draws several without replacement, and p_k = 1 - (1 - pi_k)^n, the probability that n draws contain k, divides the
reward. Its reward may also compare the gradients' sizes; `ucb_reach` 1 is the paper's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting, equal
from raysearch.methods.weighting.settings import StaticSettings, Ucb1Settings
from raysearch.objectives.objective import Objective


class Bandit(Weighting):
    """The base of both: the arms of a step share the auxiliaries' part."""

    settings: StaticSettings
    rests_idle_heads = True

    def __init__(self, objectives: tuple[Objective, ...], settings: StaticSettings) -> None:
        super().__init__(objectives, settings)
        self.turn = 1

    @property
    def arms_per_turn(self) -> int:
        """How many arms are played in a step."""
        total = len(self.objectives)
        return min(self.settings.objectives_per_step or total, total)

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests the cosines with the end task's gradient at every step."""
        del step
        return GradientQuery(compare="end_task", normalise=True)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e, and equal weights of the sampled objectives."""
        lambda_e = self.settings.lambda_e if sampled else 1.0
        return Coefficients(lambda_e, 1 - lambda_e, equal(len(sampled)))

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Takes the rewards of a turn."""
        if observation.similarities is None:
            return
        self.take_rewards(sampled, observation.similarities.objectives.double())
        self.turn += 1

    @abstractmethod
    def take_rewards(self, arms: list[int], rewards: Tensor) -> None:
        """Updates what is known of the played arms from their rewards (n,)."""

    @abstractmethod
    def shares(self) -> Tensor:
        """Returns by how much each arm is preferred now (K,), summing to 1."""

    def weights(self) -> Tensor:
        """Returns lambda_e and the arms' shares."""
        sides = torch.tensor([self.settings.lambda_e, 1 - self.settings.lambda_e], dtype=torch.float64)
        return torch.cat([sides, self.shares()])


class Exp3(Bandit):
    """EXP3-FLAD: arms are drawn by exponential weights of their importance-weighted rewards."""

    def __init__(self, objectives: tuple[Objective, ...], settings: StaticSettings) -> None:
        super().__init__(objectives, settings)
        self.rewards = torch.zeros(len(objectives), dtype=torch.float64)  # R

    def exploration(self, turn: int) -> float:
        """Returns E of a turn; the turn before the first has 1/K."""
        K = len(self.objectives)
        return min(1 / K, math.sqrt(math.log(K) / (K * turn))) if turn else 1 / K

    def shares(self) -> Tensor:
        """Returns pi (K,) of the current turn."""
        K, now = len(self.objectives), self.exploration(self.turn)
        before = self.exploration(self.turn - 1)
        pi: Tensor = (1 - K * now) * torch.softmax(before * self.rewards, dim=0) + now
        return pi / pi.sum()

    def sample(self, generator: Generator) -> list[int]:
        """Draws arms by pi."""
        drawn = torch.multinomial(self.shares(), self.arms_per_turn, generator=generator)
        return sorted(drawn.tolist())

    def take_rewards(self, arms: list[int], rewards: Tensor) -> None:
        """Adds r_k / p_k."""
        played = 1 - (1 - self.shares()[arms]) ** len(arms)
        self.rewards[arms] += rewards / played

    def state(self) -> dict[str, Any]:
        """Returns R and the turn."""
        return {"rewards": self.rewards, "turn": self.turn}

    def load(self, state: dict[str, Any]) -> None:
        """Restores R and the turn."""
        self.rewards, self.turn = state["rewards"].cpu().clone(), state["turn"]


class Ucb1(Bandit):
    """UCB1-FLAD: the arms with the largest upper confidence bounds are played."""

    settings: Ucb1Settings

    def __init__(self, objectives: tuple[Objective, ...], settings: Ucb1Settings) -> None:
        super().__init__(objectives, settings)
        self.means = torch.zeros(len(objectives), dtype=torch.float64)  # M
        self.counts = torch.zeros(len(objectives), dtype=torch.float64)  # n

    def bounds(self) -> Tensor:
        """Returns the upper confidence bounds (K,); infinite for arms that were not played yet."""
        reach = self.settings.ucb_reach * torch.sqrt(2 * math.log(self.turn) / self.counts.clamp_min(1))
        return torch.where(self.counts > 0, self.means + reach, torch.inf)

    def shares(self) -> Tensor:
        """Returns the share of the turns in which each arm was played (K,)."""
        total = float(self.counts.sum())
        return self.counts / total if total else equal(len(self.objectives))

    def sample(self, generator: Generator) -> list[int]:
        """Returns the arms with the largest bounds; equal ones in random order."""
        order = torch.randperm(len(self.objectives), generator=generator)
        ranked = self.bounds()[order].argsort(descending=True, stable=True)
        return sorted(order[ranked[: self.arms_per_turn]].tolist())

    def take_rewards(self, arms: list[int], rewards: Tensor) -> None:
        """Moves the means; the first reward of an arm is its mean."""
        beta = torch.where(self.counts[arms] > 0, self.settings.ucb_smoothing, 1.0)
        self.means[arms] += beta * (rewards - self.means[arms])
        self.counts[arms] += 1

    def state(self) -> dict[str, Any]:
        """Returns means, counts and the turn."""
        return {"means": self.means, "counts": self.counts, "turn": self.turn}

    def load(self, state: dict[str, Any]) -> None:
        """Restores means, counts and the turn."""
        self.means, self.counts = state["means"].cpu().clone(), state["counts"].cpu().clone()
        self.turn = state["turn"]
