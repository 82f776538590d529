"""TorchJD's aggregators as surgeries, a line for each; the one module that imports torchjd (0.18, https://torchjd.org).

    G (m, m)       Gramian of the rows, m = n + 1
    L (m, rank)    L L^T = G: the rows in a rotated basis of few dimensions
TorchJD's weightings take the Gramian. ConFIG and Nash-MTL take a matrix, but their result rotates with the parameter
space, so L can stand for the rows. Left out are aggregators for which G is not enough: GradDrop, TrimmedMean and
ExcessMTL use single coordinates, MoDo and SDMGrad need two independent batches. Krum is left out because it discards
rows, and Random, Mean, Constant and CR-MOGM because they do not depend on conflicts.

Factors must not change when all gradients are scaled alike, so an aggregator gets G divided by the mean of its
diagonal. Otherwise CAGrad, UPGrad and DualProj would treat a Gramian of trace below 1e-4 as zero (and stand still, or
average), and the results of Nash-MTL and FairGrad would not have the length of gradients. Factors are scaled so that
orthonormal rows are summed: by m where TorchJD averages them (MGDA, Aligned-MTL, IMTL-G, UPGrad, DualProj), by
m / (1 + c) for CAGrad, by 1 where it sums them (PCGrad, ConFIG, FairGrad, Nash-MTL, GradVac). PCD alone has a moving
average of norms: it gets G unscaled, and its result has the length of r_0.
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
from raysearch.methods.surgery.base import GramianSurgery

Weigh = Callable[[Tensor], Tensor]  # from G (m, m) to weights (m,)
Scale = Callable[[Any, int], float]  # from settings and m to a factor of the weights
TINY = 1e-30  # GradVac's guard against norms of zero; TorchJD's 1e-8 would change small gradients


@contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """Lets TorchJD, which draws from torch's global CPU generator, draw from `generator` instead."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def eigen(G: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the eigenvalues (rank,) of G that are not zero up to rounding, and their eigenvectors (m, rank)."""
    values, vectors = torch.linalg.eigh(G)  # ascending
    spans = values > values[-1] * len(G) ** 2 * torch.finfo(G.dtype).eps
    return values[spans], vectors[:, spans]


def weights_of_matrix(aggregator: jd.Aggregator) -> Weigh:
    """Returns the function that gives the weights of least norm by which an aggregator combines the rows."""

    def weigh(G: Tensor) -> Tensor:
        values, vectors = eigen(G)
        L = vectors * values.sqrt()  # (m, rank)
        return (vectors / values.sqrt()) @ aggregator(L)  # L^T weights = aggregator(L)

    return weigh


def summed(settings: Any, m: int) -> float:
    """Returns the scale of an aggregator that sums orthonormal rows: 1."""
    del settings, m
    return 1.0


def averaged(settings: Any, m: int) -> float:
    """Returns the scale of an aggregator that averages orthonormal rows: m."""
    del settings
    return float(m)


class StatelessAggregator(GramianSurgery):
    """An aggregator without memory. It does not get rows of zeros: with one, MGDA and CAGrad would stand still."""

    def __init__(self, settings: Any, *, make: Callable[[Any], Weigh], scale: Scale) -> None:
        super().__init__(settings)
        self.weigh, self.scale = make(settings), scale

    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        rows = G.diagonal().nonzero().flatten()
        factors = torch.ones(len(G), dtype=G.dtype)
        if len(rows) > 1:
            nonzero = G[rows][:, rows]
            with drawing_from(generator):
                weights = self.weigh(nonzero / nonzero.diagonal().mean())
            factors[rows] = self.scale(self.settings, len(rows)) * weights
        return factors


class StatefulSurgery(GramianSurgery):
    """A surgery that remembers its rows, by position, from step to step. Raises ValueError if their number changes."""

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
        """Returns the factors (n + 1,) of as many rows as at the first step."""


class StatefulAggregator(StatefulSurgery):
    """An aggregator whose memory is the buffers of a torch module, which its first call creates."""

    def __init__(self, settings: Any, *, make: Callable[[Any], jd.Weighting[Any]]) -> None:
        super().__init__(settings)
        self.weighting = make(settings)

    def _weigh(self, G: Tensor) -> Tensor:
        return self.weighting(G)

    def state(self) -> dict[str, Any]:
        """Returns the number of rows and the buffers."""
        return {"rows": self.rows, "buffers": {name: b.clone() for name, b in self.weighting.state_dict().items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the buffers, which a first call has created."""
        if state["rows"]:
            self._begin(state["rows"])
            with drawing_from(Generator()):
                self._weigh(torch.eye(self.rows, dtype=torch.float64))
            self.weighting.load_state_dict(state["buffers"])


class NashMTL(StatefulSurgery):
    """Nash-MTL: the solver of each step's bargain starts from the last step's weights.

    If it finds no solution, as when gradients cancel, the last weights are used again, as in the authors' code. Their
    bound on the norm of the update is left to the setting `clip`.
    """

    settings: f.NashMTLSettings

    def _begin(self, rows: int) -> None:
        super()._begin(rows)
        every, tries = self.settings.nash_update_every, self.settings.nash_iterations
        self.weighting = jd.NashMTL(rows, max_norm=0.0, update_weights_every=every, optim_niter=tries).weighting

    def _weigh(self, G: Tensor) -> Tensor:
        silent = G.diagonal() == 0  # a row of zeros has no bargain; an orthogonal row takes its place
        if silent.all():
            return torch.ones(len(G), dtype=G.dtype)
        values, vectors = eigen(G / G.diagonal()[~silent].mean() + silent.to(G.dtype).diag())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy: not DPP; a division by zero in a solution that it then rejects
            return self.weighting(vectors * values.sqrt())

    def state(self) -> dict[str, Any]:
        """Returns the number of rows, the last weights, and the number of steps so far."""
        if not self.rows:
            return {"rows": 0}
        return {"rows": self.rows, "alpha": torch.tensor(self.weighting.prvs_alpha), "step": self.weighting.step}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the last weights, in the problem that a first call has created."""
        if state["rows"]:
            self._begin(state["rows"])
            self._weigh(torch.eye(self.rows, dtype=torch.float64))
            self.weighting.prvs_alpha, self.weighting.step = state["alpha"].cpu().numpy(), state["step"]


# The names that METHODS refers to.
PCGRAD = partial(StatelessAggregator, make=lambda _: jd.PCGradWeighting(), scale=summed)
MGDA = partial(StatelessAggregator, make=lambda _: jd.MGDAWeighting(), scale=averaged)
CAGRAD = partial(
    StatelessAggregator, make=lambda s: jd.CAGradWeighting(s.cagrad_c), scale=lambda s, m: m / (1 + s.cagrad_c)
)
ALIGNED_MTL = partial(
    StatelessAggregator, make=lambda s: jd.AlignedMTLWeighting(scale_mode=s.aligned_mtl_scale), scale=averaged
)
IMTL_G = partial(StatelessAggregator, make=lambda _: jd.IMTLGWeighting(), scale=averaged)
UPGRAD = partial(StatelessAggregator, make=lambda _: jd.UPGradWeighting(), scale=averaged)
DUALPROJ = partial(StatelessAggregator, make=lambda _: jd.DualProjWeighting(), scale=averaged)
FAIRGRAD = partial(StatelessAggregator, make=lambda s: jd.FairGradWeighting(s.fairgrad_alpha), scale=summed)
CONFIG = partial(StatelessAggregator, make=lambda _: weights_of_matrix(jd.ConFIG()), scale=summed)
GRADVAC = partial(StatefulAggregator, make=lambda s: jd.GradVacWeighting(s.gradvac_beta, eps=TINY))
PCD = partial(StatefulAggregator, make=lambda s: jd.PCDWeighting(s.pcd_tau, s.pcd_beta))
