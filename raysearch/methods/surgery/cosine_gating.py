"""Gradient cosine similarity: an objective takes part as far as its gradient agrees with the end task's.

Du et al. (2018), https://arxiv.org/abs/1812.02224, for one auxiliary; of several, each has a gate of its own.
    r, G, factors   as in base.py; the factors are the gates
"""

from __future__ import annotations

from torch import Generator, Tensor

from raysearch.methods.surgery.base import GramianSurgery
from raysearch.methods.surgery.settings import GCSSettings


class GCS(GramianSurgery):
    """A gate for each objective: max(0, cos(r_0, r_j)) if weighted; if unweighted, open when the cosine is >= 0.

    The end task's factor is 1. A row of zeros counts as orthogonal to all others.
    """

    settings: GCSSettings

    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        del generator
        norms = G.diagonal().sqrt()
        cosines = (G[0] / (norms[0] * norms)).nan_to_num(0.0)  # 0 / 0 where a row is zero
        gates = cosines.clamp_min(0.0) if self.settings.gcs_gate == "weighted" else (cosines >= 0).to(G.dtype)
        gates[0] = 1.0
        return gates
