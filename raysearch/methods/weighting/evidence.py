"""Evidence: weights that move as far as what was seen of the objectives is told from its noise. raysearch's own.

    x          similarity of g_k with the dev gradient of one fold of meta-dev, through a head that was fitted on the
               other folds (`training.step.closed_form`); looks take the folds in turn
    y_k, n_k   mean of all x of objective k so far, and their number
    se_k       standard error of y_k: from the means of the folds, B_k of them, so that the choice of the meta-dev rows
               is in it. With d_k = B_k - 1, v_k = n_k se_k^2 is shrunk to the mean of all objectives' v, which weighs
               as much as PRIOR_FREEDOM degrees of freedom (Smyth, Statist. Appl. Genet. Mol. Biol. 3, 2004)
    m_k, s_k   mean and standard deviation of the effect of k given all y and se, by the model of `effects`: effects
               scatter about a common mean as far as the data say, and objectives that share primitives resemble each
               other (empirical Bayes). While the evidence is weak, all m_k are nearly equal

    u_k = E[max(0, f_k)] = m_k Phi(z_k) + s_k phi(z_k),   z_k = m_k / s_k      expected gain of what can be left out
    w_k = u_k / sum_j u_j                                                      over the sampled objectives
    o   = min(1, 2 sum_k w_k Phi(z_k)),  or with `evidence_start: zero`  sum_k w_k clip(z_k - margin, 0, 1)

The end task has weight lambda_e, the auxiliaries (1 - lambda_e) o, normalised to sum 1. At first all w_k are equal, and
o is 1 or 0. An objective that surely hurts, or does nothing where others help, ends at 0; where all surely hurt, so
does o. There is no learning rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysearch.methods.weighting.base import Coefficients, GradientQuery, StepObservation, Weighting, equal
from raysearch.methods.weighting.effects import EffectModel, Effects
from raysearch.methods.weighting.evidence_settings import EvidenceSettings
from raysearch.objectives.objective import Objective

PRIOR_FREEDOM = 4.0
LEAST_FREEDOM = 4.0  # of all objectives together, for an estimate
WAIT = 8  # the effects are estimated again when the number of looks has grown by this part of itself


class Evidence(Weighting):
    """Sums of similarities by fold, and the weights that follow from them."""

    settings: EvidenceSettings

    def __init__(self, objectives: tuple[Objective, ...], settings: EvidenceSettings) -> None:
        super().__init__(objectives, settings)
        self.sums = torch.zeros(settings.dev_folds, len(objectives), dtype=torch.float64)
        self.counts = torch.zeros_like(self.sums)
        self.look_count = 0
        self.next_estimate = 1  # the effects are estimated when there are so many looks
        self.effects: Effects | None = None
        self.model: EffectModel | None = None

    def required_gradients(self, step: int) -> GradientQuery:
        """Requests similarities to the dev gradient of the next fold, every `evidence_every` steps."""
        if step % self.settings.evidence_every:
            return GradientQuery()
        fold = self.look_count % self.settings.dev_folds
        return GradientQuery("cross_fitted", normalise=self.settings.similarity == "cosine", fold=fold)

    def coefficients(self, sampled: list[int]) -> Coefficients:
        """Returns lambda_e and (1 - lambda_e) o, normalised; objectives share by u_k."""
        if not sampled:
            return Coefficients(1.0, 0.0, equal(0))
        w, o = self._shares(sampled)
        aux = (1 - self.settings.lambda_e) * o
        total = self.settings.lambda_e + aux
        return Coefficients(self.settings.lambda_e / total, aux / total, w) if total > 0 else Coefficients(1.0, 0.0, w)

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        """Adds the similarities of a look; estimates the effects, at growing intervals."""
        if observation.similarities is None:
            return
        fold = self.look_count % self.settings.dev_folds
        self.sums[fold, sampled] += observation.similarities.objectives.to(self.sums)
        self.counts[fold, sampled] += 1
        self.look_count += 1
        if self.look_count < self.next_estimate or (measured := measurements(self.sums, self.counts)) is None:
            return
        numbers, y, errors = measured
        self.model = self.model or EffectModel(self.objectives)
        self.effects = self.model.estimate(numbers, y, torch.diag(errors.square()))
        self.next_estimate = self.look_count + 1 + self.look_count // WAIT

    def _shares(self, sampled: list[int]) -> tuple[Tensor, float]:
        """Returns w (n,) and o."""
        if self.effects is None:
            return equal(len(sampled)), float(self.settings.evidence_start == "equal")
        mean, std = self.effects.mean[sampled], self.effects.std[sampled].clamp_min(1e-12)
        w, helps = expected_gains(mean, std), torch.special.ndtr(mean / std)
        w = w / w.sum() if w.sum() > 0 else equal(len(sampled))
        if self.settings.evidence_start == "zero":
            return w, float(w @ (mean / std - self.settings.evidence_margin).clamp(0, 1))
        return w, min(1.0, 2 * float(w @ helps))

    def signal(self) -> tuple[Tensor, Tensor] | None:
        """Returns the effects of all objectives and their standard deviations."""
        return (self.effects.mean, self.effects.std) if self.effects is not None else None

    def state(self) -> dict[str, Any]:
        """Returns the sums by fold, the counters and the effects."""
        effects = None if self.effects is None else [self.effects.mean, self.effects.std]
        counters = {"looks": self.look_count, "next": self.next_estimate}
        return {"sums": self.sums, "counts": self.counts, "effects": effects} | counters

    def load(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.sums, self.counts = state["sums"].cpu().clone(), state["counts"].cpu().clone()
        self.look_count, self.next_estimate, effects = state["looks"], state["next"], state["effects"]
        self.effects = None if effects is None else Effects(effects[0].cpu(), effects[1].cpu())


def measurements(sums: Tensor, counts: Tensor) -> tuple[list[int], Tensor, Tensor] | None:
    """Returns the objectives that were observed, their means y (P,) and standard errors (P,).

    `sums` and `counts` (F, N) are of the similarities by fold. None while there are too few for a standard error.
    """
    total, used = counts.sum(dim=0), counts > 0
    freedom = (used.sum(dim=0) - 1).clamp_min(0).double()
    if freedom.sum() < LEAST_FREEDOM:
        return None
    y = sums.sum(dim=0) / total.clamp_min(1)
    deviations = torch.where(used, sums - counts * y, 0.0)  # (F, N)
    v = deviations.square().sum(dim=0) / total.clamp_min(1) * (freedom + 1) / freedom.clamp_min(1)  # n_k se_k^2
    pooled = (freedom * v).sum() / freedom.sum()
    shrunk = (PRIOR_FREEDOM * pooled + freedom * v) / (PRIOR_FREEDOM + freedom)
    numbers = torch.nonzero(total > 0)[:, 0]
    return numbers.tolist(), y[numbers], (shrunk / total.clamp_min(1)).sqrt()[numbers]


def expected_gains(mean: Tensor, std: Tensor) -> Tensor:
    """Returns E[max(0, f)] of normal f with these means and standard deviations."""
    z = mean / std
    density = torch.exp(-0.5 * z.square()) / (2 * torch.pi) ** 0.5
    gains: Tensor = (mean * torch.special.ndtr(z) + std * density).clamp_min(0)
    return gains
