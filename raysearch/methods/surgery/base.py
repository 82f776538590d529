"""Surgery between the gradients of a step: what each adds to the update, from their inner products alone.

    r (n + 1, D)        rows: r_0 = c_E g_E, the end task's weighted gradient; r_j = c_aux w_j g_j, an auxiliary's
    G (n + 1, n + 1)    their Gramian r r^T, all that a surgery sees
    factors (n + 1,)    the update is sum_j factors_j r_j; ones are plain multitask learning
GCS is written out here; TorchJD's aggregators are in aggregators.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.methods.surgery import settings as f


class Conflict(ABC):
    """What these surgeries share: a Gramian in, factors out."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def coefficients(self, G: Tensor, generator: Generator) -> Tensor:
        """Factors of the rows, (n + 1,) float64 on the CPU; a surgery that draws, draws from `generator` (of the CPU).

        A row of zeros adds nothing to the update, whatever its factor: 1. Raises ArithmeticError if a gradient or a
        factor is not finite.
        """
        G = G.detach().to("cpu", torch.float64)
        if not G.isfinite().all():
            raise ArithmeticError("the Gramian of the step's gradients is not finite")
        factors = self._factors(G, generator) if len(G) > 1 else torch.ones(len(G), dtype=G.dtype)
        factors = torch.where(G.diagonal() > 0, factors, 1.0)
        if not factors.isfinite().all():
            raise ArithmeticError(f"the surgery's factors are not finite: {factors.tolist()}")
        return factors

    @abstractmethod
    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        """Factors (n + 1,) of two rows or more."""

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on from here."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027, one that remembers nothing does nothing
        """Go on from where `state` was taken."""


class GCS(Conflict):
    """Gradient cosine similarity: an auxiliary takes part as far as its gradient agrees with the end task's.

    Du et al. (2018), https://arxiv.org/abs/1812.02224, for one auxiliary; of several, each has a gate of its own.
    Weighted, a gate is max(0, cos(r_0, r_j)); unweighted, it is open when the cosine is >= 0. The end task's factor
    is 1, and a row of zeros is at right angles to all.
    """

    settings: f.GCSSettings

    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        del generator
        norms = G.diagonal().sqrt()
        cosines = (G[0] / (norms[0] * norms)).nan_to_num(0.0)  # 0 / 0 where a row is zero
        gates = cosines.clamp_min(0.0) if self.settings.gcs_gate == "weighted" else (cosines >= 0).to(G.dtype)
        gates[0] = 1.0
        return gates
