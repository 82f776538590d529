"""The protocol of surgeries: how the gradients of a step become its update.

g_E, g_aux (D + H,)   the sides: gradients of the end task and of the objectives' sum, g_aux = sum_k w_k g_k,
                      in the body (D) and in the heads (H)
c_E, c_aux            their coefficients; without surgery the update is c_E g_E + c_aux g_aux
r (n + 1, D)          rows of a Gramian surgery: r_0 = c_E g_E, and r_j = c_aux w_j g_j of an objective; the body's
G (n + 1, n + 1)      their Gramian r r^T, all that it sees
factors (n + 1,)      its update is sum_j factors_j r_j; ones are plain multitask learning
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from raysearch.gradients.jacobian import Jacobian
from raysearch.gradients.parameter_blocks import ParameterBlocks
from raysearch.methods.surgery.settings import ConflictSettings
from raysearch.methods.weighting.base import Coefficients
from raysearch.schema.fields import NoSettings


class NetworkGradient(NamedTuple):
    """The gradient that a step assigns."""

    body: Tensor  # (D,)
    heads: Tensor  # (H,)


@dataclass(frozen=True)
class BasisQuery:
    """The per-example gradients of the end task that a surgery requests."""

    m: int  # examples
    fresh: bool  # other examples at each request, or those of the step's own batch
    scope: str  # the parameters, as `select_parameter_blocks` names them
    last_layers: int
    couples_rows: bool  # BatchNorm mixes the examples, or its running statistics count as constants
    sketch_rows: int  # a random combination of so many rows of J is all that is needed where rows are coupled; 0: J


class Basis(Protocol):
    """The answer to a `BasisQuery` at one step; what is not asked for is not computed."""

    @property
    def blocks(self) -> ParameterBlocks:
        """The parameters."""

    def jacobians(self) -> list[Jacobian]:
        """Returns J (m, D_block) of every block."""

    def mean_gradients(self) -> list[Tensor]:
        """Returns the mean of J's rows in every block, (D_block,)."""


class StepGradients(Protocol):
    """The gradients of one step, summed over ranks, with the coefficients that the weighting has fixed."""

    @property
    def coefficients(self) -> Coefficients:
        """c_E, c_aux and w."""

    def sides(self) -> tuple[Tensor, Tensor]:
        """Returns g_E and g_aux, (D + H,) each."""

    def task_coefficients(self) -> list[float]:
        """Returns c_E and every c_aux w_k; if c_E is 0, 1 in its place: the end task then only takes part in G."""

    def gramian(self) -> Tensor:
        """Returns the Gramian (n + 1, n + 1) of g_E and every g_k in the body, if the surgery has `needs_gramian`."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Returns the sum (D,) of g_E and every g_k in the body by `weights` (n + 1,), likewise."""

    def from_sides(self, gradient: Tensor) -> NetworkGradient:
        """Splits a combination (D + H,) of the sides.

        The end task's head gets its own gradient times c_E; or times 1 if c_E is 0, so that it still learns.
        """

    def from_body(self, gradient: Tensor) -> NetworkGradient:
        """Adds the heads to a gradient of the body (D,): each has its own, times its task's coefficient.

        The end task's is as in `from_sides`.
        """


class Surgery(ABC):
    """A way to combine the gradients of a step."""

    needs_gramian = False  # whether it uses inner products of all pairs of tasks, or the two sides alone

    @property
    def basis_query(self) -> BasisQuery | None:
        """The per-example gradients that it requests."""
        return None

    @abstractmethod
    def combine(self, gradients: StepGradients, basis: Basis | None, generator: Generator) -> NetworkGradient:
        """Returns the update's gradient; a surgery that draws, draws from `generator`."""

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume from here."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027, a surgery without memory has nothing to load
        """Resumes from what `state` returned."""


class GramianSurgery(Surgery):
    """The base of surgeries that see a step's gradients through their Gramian alone: G in, factors out."""

    needs_gramian = True

    def __init__(self, settings: ConflictSettings) -> None:
        self.settings = settings

    def combine(self, gradients: StepGradients, basis: Basis | None, generator: Generator) -> NetworkGradient:
        """Returns the sum of the rows by their factors.

        An end task with c_E = 0 is a row, but not in the sum; an objective with weight 0 is a row of zeros.
        """
        del basis
        rows = torch.diag(torch.tensor(gradients.task_coefficients(), dtype=torch.float64))
        if self.settings.conflict_between == "sum":
            rows = torch.stack([rows[0], rows[1:].sum(dim=0)])
        factors = self.factors(rows @ gradients.gramian() @ rows.T, generator)
        if not gradients.coefficients.end_task:
            factors[0] = 0.0
        return gradients.from_body(gradients.weighted_sum(factors @ rows))

    def factors(self, G: Tensor, generator: Generator) -> Tensor:
        """Returns the factors of the rows, (n + 1,) float64 on the CPU; `generator` is of the CPU.

        A row of zeros adds nothing to the update; its factor is 1. Raises ArithmeticError if a gradient or a factor is
        not finite.
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
        """Returns the factors (n + 1,) of two rows or more."""


def no_surgery(settings: NoSettings) -> None:
    """Returns no surgery: the update is c_E g_E + c_aux g_aux."""
    del settings
