"""TorchJD's aggregators as surgeries, a line for each; the one module that imports torchjd (0.18, https://torchjd.org).

    G (m, m)       Gramian of the rows, m = n + 1
    L (m, rank)    L L^T = G, the rows in few dimensions, turned
TorchJD's weightings take the Gramian. ConFIG and Nash-MTL take a matrix, but what they return turns with the parameter
space, so that L serves for the rows. Left out are those of which G does not know enough: GradDrop, TrimmedMean and
ExcessMTL look at the coordinates one by one, MoDo and SDMGrad want two independent batches. Left out too: Krum, which
discards rows, and Random, Mean, Constant and CR-MOGM, which weigh without looking at conflicts.

Factors do not change when all gradients grow alike: an aggregator is given G over the mean of its diagonal. Otherwise
CAGrad, UPGrad and DualProj would take a Gramian of trace below 1e-4 for zero (and stand still, or average), and the
length of what Nash-MTL and FairGrad return would not be that of gradients. And factors are scaled so that orthonormal
rows are summed: by m where TorchJD averages them (MGDA, Aligned-MTL, IMTL-G, UPGrad, DualProj), by m / (1 + c) for
CAGrad, by 1 where it sums them (PCGrad, ConFIG, FairGrad, Nash-MTL, GradVac). PCD alone has a moving average of norms,
is given G as it is, and keeps the length of r_0: it sums nothing.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torchjd import aggregation as jd

from raysearch.methods.surgery import settings as f
from raysearch.methods.surgery.base import Conflict

Weigh = Callable[[Tensor], Tensor]  # G (m, m) to weights (m,)
Scale = Callable[[Any, int], float]  # settings and m to what the weights are multiplied by
TINY = 1e-30  # GradVac's guard against norms of zero; TorchJD's 1e-8 is felt where gradients are small


@contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """TorchJD draws from torch's global CPU generator: inside, that one goes on from ours; after, it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def eigen(G: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (rank,) and eigenvectors (m, rank) of G, less those that are zero up to rounding."""
    values, vectors = torch.linalg.eigh(G)  # ascending
    spans = values > values[-1] * len(G) ** 2 * torch.finfo(G.dtype).eps
    return values[spans], vectors[:, spans]


def of_matrix(aggregator: jd.Aggregator) -> Weigh:
    """The weights by which an aggregator of matrices combines the rows: those of the least norm."""

    def weigh(G: Tensor) -> Tensor:
        values, vectors = eigen(G)
        L = vectors * values.sqrt()  # (m, rank)
        return (vectors / values.sqrt()) @ aggregator(L)  # L^T weights = aggregator(L)

    return weigh


def summed(settings: Any, m: int) -> float:
    """The scale of an aggregator that sums orthonormal rows."""
    del settings, m
    return 1.0


def averaged(settings: Any, m: int) -> float:
    """The scale of an aggregator that averages orthonormal rows."""
    del settings
    return float(m)


class OfGramian(Conflict):
    """An aggregator without memory. It is not shown rows of zeros: before one, MGDA and CAGrad would stand still."""

    def __init__(self, settings: Any, *, make: Callable[[Any], Weigh], scale: Scale) -> None:
        super().__init__(settings)
        self.weigh, self.scale = make(settings), scale

    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        rows = G.diagonal().nonzero().flatten()
        factors = torch.ones(len(G), dtype=G.dtype)
        if len(rows) > 1:
            shown = G[rows][:, rows]
            with drawing_from(generator):
                weights = self.weigh(shown / shown.diagonal().mean())
            factors[rows] = self.scale(self.settings, len(rows)) * weights
        return factors


class Remembering(Conflict):
    """A surgery that remembers its rows, by position, from step to step; ValueError when their number changes."""

    rows = 0  # 0 before the first step

    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        if not self.rows:
            self._begin(len(G))
        if len(G) != self.rows:
            raise ValueError(f"the surgery remembers {self.rows} gradients, and this step has {len(G)}")
        with drawing_from(generator):
            return self._weigh(G)

    def _begin(self, rows: int) -> None:
        self.rows = rows

    @abstractmethod
    def _weigh(self, G: Tensor) -> Tensor:
        """Factors (n + 1,) of as many rows as before."""


class OfGramianWithMemory(Remembering):
    """A weighting whose memory is its buffers as a torch module, made at its first call."""

    def __init__(self, settings: Any, *, make: Callable[[Any], jd.Weighting[Any]]) -> None:
        super().__init__(settings)
        self.weighting = make(settings)

    def _weigh(self, G: Tensor) -> Tensor:
        return self.weighting(G)

    def state(self) -> dict[str, Any]:
        """The number of rows and the buffers."""
        return {"rows": self.rows, "buffers": {name: b.clone() for name, b in self.weighting.state_dict().items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Take the buffers back, into those that a first call made."""
        if state["rows"]:
            self._begin(state["rows"])
            with drawing_from(Generator()):
                self._weigh(torch.eye(self.rows, dtype=torch.float64))
            self.weighting.load_state_dict(state["buffers"])


class NashMTL(Remembering):
    """Nash-MTL: each step's bargain is sought from the last one's weights.

    Where the solver finds none, as when gradients cancel, the last weights stand, as in the authors' code. Their bound
    on the norm of the update is left to the setting `clip`.
    """

    settings: f.NashMTLSettings

    def _begin(self, rows: int) -> None:
        super()._begin(rows)
        every, tries = self.settings.nash_update_every, self.settings.nash_iterations
        self.weighting = jd.NashMTL(rows, max_norm=0.0, update_weights_every=every, optim_niter=tries).weighting

    def _weigh(self, G: Tensor) -> Tensor:
        silent = G.diagonal() == 0  # a row of zeros has no bargain: one at right angles to all keeps its place
        if silent.all():
            return torch.ones(len(G), dtype=G.dtype)
        values, vectors = eigen(G / G.diagonal()[~silent].mean() + silent.to(G.dtype).diag())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy: the problem is not DPP, a division by zero in what it then rejects
            return self.weighting(vectors * values.sqrt())

    def state(self) -> dict[str, Any]:
        """The number of rows, the last weights, and the steps so far."""
        if not self.rows:
            return {"rows": 0}
        return {"rows": self.rows, "alpha": torch.tensor(self.weighting.prvs_alpha), "step": self.weighting.step}

    def load(self, state: dict[str, Any]) -> None:
        """Take the last weights back, into the problem that a first call made."""
        if state["rows"]:
            self._begin(state["rows"])
            self._weigh(torch.eye(self.rows, dtype=torch.float64))
            self.weighting.prvs_alpha, self.weighting.step = state["alpha"].cpu().numpy(), state["step"]


# What METHODS names.
PCGRAD = partial(OfGramian, make=lambda _: jd.PCGradWeighting(), scale=summed)
MGDA = partial(OfGramian, make=lambda _: jd.MGDAWeighting(), scale=averaged)
CAGRAD = partial(
    OfGramian, make=lambda own: jd.CAGradWeighting(own.cagrad_c), scale=lambda own, m: m / (1 + own.cagrad_c)
)
ALIGNED_MTL = partial(
    OfGramian, make=lambda own: jd.AlignedMTLWeighting(scale_mode=own.aligned_mtl_scale), scale=averaged
)
IMTL_G = partial(OfGramian, make=lambda _: jd.IMTLGWeighting(), scale=averaged)
UPGRAD = partial(OfGramian, make=lambda _: jd.UPGradWeighting(), scale=averaged)
DUALPROJ = partial(OfGramian, make=lambda _: jd.DualProjWeighting(), scale=averaged)
FAIRGRAD = partial(OfGramian, make=lambda own: jd.FairGradWeighting(own.fairgrad_alpha), scale=summed)
CONFIG = partial(OfGramian, make=lambda _: of_matrix(jd.ConFIG()), scale=summed)
GRADVAC = partial(OfGramianWithMemory, make=lambda own: jd.GradVacWeighting(own.gradvac_beta, eps=TINY))
PCD = partial(OfGramianWithMemory, make=lambda own: jd.PCDWeighting(own.pcd_tau, own.pcd_beta))
