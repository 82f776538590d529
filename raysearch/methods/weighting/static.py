"""Weightings that learn nothing: the end task alone, equal or searched weights, ATTITTUD's sum."""

from __future__ import annotations

import torch
from torch import Generator

from raysearch.methods.weighting.base import Coefficients, Weighting, coefficients_of, equal
from raysearch.methods.weighting.settings import EtaPrimSettings, StaticSettings
from raysearch.objectives.objective import Objective


class EndTaskOnly(Weighting):
    """Fine-tuning: no objective takes part."""

    def sample(self, generator: Generator) -> list[int]:
        """Returns no objectives."""
        del generator
        return []

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns 1 for the end task and 0 for the auxiliaries."""
        return Coefficients(1.0, 0.0, equal(len(sampled)))


class Static(Weighting):
    """Multitask learning: lambda_e for the end task, the rest in equal parts (AANG's Static Multitask)."""

    settings: StaticSettings

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) / n; without objectives the end task has weight 1."""
        if not sampled:
            return Coefficients(1.0, 0.0, equal(0))
        lambda_e = self.settings.lambda_e
        return Coefficients(lambda_e, 1 - lambda_e, equal(len(sampled)))


class Searched(Weighting):
    """Static multitask learning with `weights` (n,) that a search draws; equal weights if none are given."""

    settings: StaticSettings

    def __init__(
        self, objectives: tuple[Objective, ...], settings: StaticSettings, weights: tuple[float, ...] = ()
    ) -> None:
        super().__init__(objectives, settings)
        self.searched_weights = torch.tensor(weights or [1.0] * len(objectives), dtype=torch.float64)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) times the sampled objectives' shares; the end task alone if all are 0."""
        lambda_e, weights = self.settings.lambda_e, self.searched_weights[sampled]
        if not weights.sum() > 0:
            return coefficients_of(1.0, weights)
        return coefficients_of(lambda_e, (1 - lambda_e) * weights / weights.sum())


class EtaPrimSum(Weighting):
    """ATTITTUD's update g~_aux + eta_prim g_prim, auxiliaries in equal parts.

    Dery, Dauphin & Grangier (ICLR 2021), section 3, after equation 2, https://arxiv.org/abs/2108.11346
    """

    settings: EtaPrimSettings

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns eta_prim and 1; with `eta_prim_form: count_ratio` both are divided by 1 + eta_prim."""
        total = 1.0 + self.settings.eta_prim if self.settings.eta_prim_form == "count_ratio" else 1.0
        return Coefficients(self.settings.eta_prim / total, (1.0 if sampled else 0.0) / total, equal(len(sampled)))
