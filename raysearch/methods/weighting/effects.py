"""A factored model of the objectives' effects: from effects measured on a few objectives to those of all of them.

    y (P,)      measured effects of P objectives;  S (P, P) covariance of their errors, known
    f (N,)      effects of all N objectives, from a normal distribution with a common mean and the covariance
                    cov(f_i, f_j) = a prod_s (1 if i and j have the same primitive at stage s, or else c_s)
    c_s         in [0, 1], how much an effect survives a change of the primitive of stage s alone

Multiplied out, the product is a sum over all subsets of the stages: an effect of each stage, one of each pair, and so
on up to an effect of the objective by itself. These are the random effects of a factorial design (Box & Meyer,
Technometrics 28, 1986; Plumlee & Joseph, Statistica Sinica 28, 2018, for the product), shrunk as far as the data say:
`a` and all c_s are averaged over a grid, by the likelihood of y. The common mean is estimated by generalised least
squares; its error is part of the standard deviations.

Without measurements of an objective its effect follows from those that share primitives with it. So few measurements
are enough where primitives matter, and where only whole objectives do (all c_s 0), every objective has to be measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raysearch.objectives.objective import Objective

STAGES = ("data", "transform", "representation", "output")
SURVIVAL = (0.0, 0.5, 0.85, 1.0)  # the grid of each c_s
SCALES = (0.1, 0.4, 1.5, 6.0)  # the grid of `a`, in units of the mean square of the measured effects about their mean
NEGLIGIBLE = 1e-3  # a grid point of a smaller share of the largest likelihood is left out
JITTER = 1e-6  # of a covariance's diagonal, relative to its mean


@dataclass(frozen=True)
class Effects:
    """What is known of the effects of all objectives, (N,) float64 each."""

    mean: Tensor
    std: Tensor

    @property
    def z(self) -> Tensor:
        """The means in units of their standard deviations."""
        return self.mean / self.std.clamp_min(1e-12)


class EffectModel:
    """Estimates effects, and says which objectives to measure next."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.same = same_primitive(objectives)  # (stages, N, N) bool, of the stages that differ
        grid = itertools.product(SURVIVAL, repeat=len(self.same))
        self.survival = torch.tensor(list(grid), dtype=torch.float64)  # (G, stages)

    def correlations(self, survival: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Returns the product over stages for every row of `survival` (G, stages), (G, rows, columns)."""
        total = torch.ones(len(survival), len(rows), len(columns), dtype=torch.float64)
        for stage, same in enumerate(self.same):
            total *= torch.where(same[rows][:, columns], 1.0, survival[:, stage, None, None])
        return total

    def estimate(self, measured: Sequence[int], y: Tensor, S: Tensor) -> Effects:
        """Returns the effects of all objectives given y (P,) of the `measured` ones, whose errors have covariance S.

        An objective may be measured several times.
        """
        rows = torch.tensor(list(measured), dtype=torch.long)
        spread = float((y - y.mean()).square().mean()) or float(S.diagonal().mean()) or 1.0
        among = self.correlations(self.survival, rows, rows)
        fits = [_Fit(scale * spread * among + S, y) for scale in SCALES]
        likelihoods = torch.stack([fit.likelihood for fit in fits])  # (scales, G)
        shares = torch.softmax(likelihoods.flatten(), dim=0).view_as(likelihoods)
        every = torch.arange(self.same.shape[-1])
        total = torch.zeros(3, len(every), dtype=torch.float64)  # sums of means, of their squares and of variances
        relevant = shares >= NEGLIGIBLE * shares.max()
        for scale, fit, share, keep in zip(SCALES, fits, shares, relevant, strict=True):
            if keep.any():
                a = scale * spread
                mean, variance = fit.at(keep, a * self.correlations(self.survival[keep], every, rows), a)
                total += torch.stack([share[keep] @ each for each in (mean, mean.square(), variance)])
        total /= shares[relevant].sum()
        return Effects(total[0], (total[2] + total[1] - total[0].square()).clamp_min(0).sqrt())

    def next_objectives(self, count: int, effects: Effects | None, measured: Sequence[int], reach: float) -> list[int]:
        """Returns `count` objectives to measure: one by one that with the largest mean + `reach` x its std.

        After each, the standard deviations are those that its measurement would leave. Without `effects` yet the means
        are equal, so the objectives spread over the primitives. Objectives that are measured already come last.
        """
        N = self.same.shape[-1]
        everything = torch.arange(N)
        K = self._typical_correlations()
        mean = torch.zeros(N, dtype=torch.float64) if effects is None else effects.mean
        if effects is not None:
            std = effects.std
            K = K * std[:, None] * std
        K = K + JITTER * K.diagonal().mean() * torch.eye(N, dtype=torch.float64)
        is_chosen = torch.zeros(N, dtype=torch.bool)
        is_chosen[list(measured)] = True
        chosen: list[int] = []
        for _ in range(min(count, N)):
            value = mean + reach * K.diagonal().clamp_min(0).sqrt()
            candidates = everything[~is_chosen] if not bool(is_chosen.all()) else everything
            best = int(candidates[value[candidates].argmax()])
            chosen.append(best)
            is_chosen[best] = True
            K = K - torch.outer(K[:, best], K[best]) / K[best, best].clamp_min(1e-12)
        return chosen

    def _typical_correlations(self) -> Tensor:
        """Returns the product (N, N) with every c_s one half."""
        N = self.same.shape[-1]
        total = torch.ones(N, N, dtype=torch.float64)
        for same in self.same:
            total *= torch.where(same, 1.0, 0.5)
        return total


def same_primitive(objectives: Sequence[Objective]) -> Tensor:
    """Returns for each stage at which objectives differ whether two have the same primitive, (stages, N, N) bool."""
    stages = []
    for stage in STAGES:
        names = [getattr(objective, stage) for objective in objectives]
        if len(set(names)) > 1:
            numbers = torch.tensor([sorted(set(names)).index(name) for name in names])
            stages.append(numbers[:, None] == numbers)
    empty = torch.ones(0, len(objectives), len(objectives), dtype=torch.bool)
    return torch.stack(stages) if stages else empty


class _Fit:
    """The distribution of y for each of G covariances; the common mean has a flat prior.

    So the likelihood is the restricted one (REML; Patterson & Thompson, Biometrika 58, 1971).
    """

    def __init__(self, C: Tensor, y: Tensor) -> None:
        """C (G, P, P) are covariances of y (P,)."""
        P = len(y)
        self.C = C + JITTER * C.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(P, dtype=C.dtype)
        self.L = torch.linalg.cholesky(self.C)
        self.solved_ones = torch.cholesky_solve(torch.ones(len(C), P, 1, dtype=C.dtype), self.L)[..., 0]  # C^-1 1
        self.weight = self.solved_ones.sum(dim=1)  # 1' C^-1 1
        self.mean = (self.solved_ones @ y) / self.weight  # (G,)
        residual = y - self.mean[:, None]
        self.solved = torch.cholesky_solve(residual[..., None], self.L)[..., 0]  # (G, P)
        log_det = 2 * self.L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.likelihood = -0.5 * ((residual * self.solved).sum(-1) + log_det + self.weight.log())  # its logarithm

    def at(self, keep: Tensor, K: Tensor, a: float) -> tuple[Tensor, Tensor]:
        """Returns means and variances (g, N) of f for the g covariances of `keep` (G,) bool.

        K (g, N, P) is the covariance of f with y, `a` the variance of each f.
        """
        mean = self.mean[keep, None] + (K @ self.solved[keep, :, None])[..., 0]
        explained = (K * torch.cholesky_solve(K.mT, self.L[keep]).mT).sum(-1)
        unsure_mean = (1 - (K @ self.solved_ones[keep, :, None])[..., 0]).square() / self.weight[keep, None]
        return mean, (a - explained + unsure_mean).clamp_min(0)
