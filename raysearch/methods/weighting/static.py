"""Weightings that learn nothing: the end task alone, equal weights, ATTITTUD's sum."""

from __future__ import annotations

import torch
from torch import Generator

from raysearch.methods.weighting import settings as s
from raysearch.methods.weighting.base import Coefficients, Weighting, coefficients_of, equal
from raysearch.objectives.objective import Objective


class EndTaskOnly(Weighting):
    """Fine-tuning: no objective takes part."""

    def sample(self, generator: Generator) -> list[int]:
        """None."""
        del generator
        return []

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The end task's gradient as it is."""
        return Coefficients(1.0, 0.0, equal(len(sampled)))


class Static(Weighting):
    """Multitask learning: lambda_e for the end task, the rest in equal parts (AANG's Static Multitask)."""

    settings: s.StaticSettings

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Fixed; without objectives the end task has it all."""
        if not sampled:
            return Coefficients(1.0, 0.0, equal(0))
        lambda_e = self.settings.lambda_e
        return Coefficients(lambda_e, 1 - lambda_e, equal(len(sampled)))


class Searched(Weighting):
    """Static multitask learning with weights from outside, as a search draws them; equal ones if none are given."""

    settings: s.StaticSettings

    def __init__(
        self, objectives: tuple[Objective, ...], settings: s.StaticSettings, weights: tuple[float, ...] = ()
    ) -> None:
        super().__init__(objectives, settings)
        self.given = torch.tensor(weights or [1.0] * len(objectives), dtype=torch.float64)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Lambda_e against the sampled objectives' weights, brought to sum 1; the end task alone if these are 0."""
        lambda_e, weights = self.settings.lambda_e, self.given[sampled]
        if not weights.sum() > 0:
            return coefficients_of(1.0, weights)
        return coefficients_of(lambda_e, (1 - lambda_e) * weights / weights.sum())


class EtaPrimSum(Weighting):
    """ATTITTUD's update g~_aux + eta_prim g_prim, auxiliaries in equal parts (section 3, after equation 2)."""

    settings: s.EtaPrimSettings

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """The auxiliary gradient in full, the end task's times eta_prim; or both as shares of a batch of both."""
        whole = 1.0 + self.settings.eta_prim if self.settings.eta_prim_form == "count_ratio" else 1.0
        return Coefficients(self.settings.eta_prim / whole, (1.0 if sampled else 0.0) / whole, equal(len(sampled)))
