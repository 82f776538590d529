"""ATTITTUD: keep what helps the end task in an auxiliary gradient; drop or flip what harms it.

Dery, Dauphin & Grangier (ICLR 2021), Algorithm 1, https://arxiv.org/abs/2108.11346
    J (m, D)  per-example end-task gradients, the paper's J*;   G = J J^T (m, m)
    V (k, D)  orthonormal rows that span about what J's rows do, V = C^T J
Directions agree when the product is >= 0, as printed; the authors' code has > 0. Only shared parameters are projected,
as the paper says, unless `scope` says more (their vision code includes the heads). By default, as in the authors' code,
the gradient that decides the signs is that of the step's own end-task batch, and the basis comes from other examples,
without dropout. With `basis_rows: same` and `sign_gradient: basis` both are as in Algorithm 1: of one batch and of one
function, g_prim = J^T 1/m. Two things in the authors' code are left out: an end-task head whose gradient is never
zeroed, and a monitor batch that is run at each step for a plot.

With C, the projected gradient is a re-weighting of the basis examples, and V is not materialised:

    g~ = eta_perp g_aux + J^T omega,   omega = C ((eta_pos - eta_perp) s + (eta_neg - eta_perp) (1 - s)) p_aux,
    p_prim = C^T J g_prim,   p_aux = C^T J g_aux,   s = [p_prim p_aux >= 0]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.gradients import subspace
from raysearch.gradients.jacobian import Jacobian
from raysearch.methods.surgery.base import Basis, BasisQuery, NetworkGradient, StepGradients, Surgery
from raysearch.methods.surgery.settings import SPANNED_BY_EXAMPLES, AttittudSettings

Jacobians = Callable[[], list[Jacobian]]  # returns J, one for each block of parameters


def check_rank(k: int, m: int, D: int) -> None:
    """Raises ValueError unless 1 <= k <= min(m, D)."""
    if not 1 <= k <= min(m, D):
        raise ValueError(f"k must be in [1, min(m, D)] = [1, {min(m, D)}], got {k}")


def surrogate_gradient(g_aux: Tensor, g_prim: Tensor, V: Tensor, eta: AttittudSettings) -> Tensor:
    """Returns equation 2: g_aux (D,) re-weighted by its effect on the end task, (D,)."""
    p_prim, p_aux = V @ g_prim, V @ g_aux  # (k,)
    return eta.eta_perp * g_aux + correction(p_prim, p_aux, eta) @ V


def correction(p_prim: Tensor, p_aux: Tensor, eta: AttittudSettings) -> Tensor:
    """Returns what each direction adds to eta_perp g_aux, from the projections on it; all of one shape."""
    agree = p_prim * p_aux >= 0
    return torch.where(agree, eta.eta_pos - eta.eta_perp, eta.eta_neg - eta.eta_perp) * p_aux


class Attittud(Surgery):
    """The surgery: a new basis every `basis_every` steps; with 1 none is stored."""

    def __init__(self, settings: AttittudSettings) -> None:
        self.settings = settings
        self.V: list[Tensor] = []  # of each block of parameters; empty while no basis is stored
        self.age = 0

    @property
    def basis_query(self) -> BasisQuery:
        """J of m examples, in the blocks of `scope`."""
        settings = self.settings
        return BasisQuery(
            m=settings.m,
            fresh=settings.basis_rows == "fresh",
            scope=settings.scope,
            last_layers=settings.last_layers,
            couples_rows=settings.batch_norm == "coupled",
            sketch_rows=settings.k if settings.basis == "range_finder" else 0,
        )

    def combine(self, gradients: StepGradients, basis: Basis | None, generator: Generator) -> NetworkGradient:
        """Returns c_E g_E + c_aux g~, with g~ the surrogate of g_aux in the blocks of the basis."""
        assert basis is not None
        g_prim, g_aux = gradients.sides()
        blocks, coefficients = basis.blocks, gradients.coefficients
        signs = self._sign_gradients(blocks.split(g_prim), basis)
        surrogates = self.surrogates(blocks.split(g_aux), signs, basis.jacobians, generator)
        total = blocks.replace(g_aux, surrogates).mul_(coefficients.aux).add_(g_prim, alpha=coefficients.end_task)
        return gradients.from_sides(total)

    def _sign_gradients(self, g_prim: list[Tensor], basis: Basis) -> list[Tensor]:
        """Returns the gradient that decides the signs, of each block, (D_block,); `g_prim` is the step's."""
        if self.settings.sign_gradient == "step" or self.settings.basis not in SPANNED_BY_EXAMPLES:
            return g_prim
        if self._is_due:
            basis.jacobians()  # J is computed once, and has the mean
        return basis.mean_gradients()

    @property
    def _is_due(self) -> bool:
        """Whether a new basis is computed at this step."""
        return self.settings.basis_every == 1 or not self.V or self.age >= self.settings.basis_every

    def surrogates(
        self, g_aux: list[Tensor], g_prim: list[Tensor], jacobians: Jacobians, generator: Generator
    ) -> list[Tensor]:
        """Returns g~ of each block, (D_block,); `jacobians` is called when a new basis is due.

        Raises ValueError if k is not in [1, min(m, D)].
        """
        eta, basis = self.settings, self.settings.basis
        if basis == "canonical":
            return [eta.eta_perp * a + correction(p, a, eta) for a, p in zip(g_aux, g_prim, strict=True)]
        if basis == "unit_average":
            units = [p / p.norm().clamp_min(torch.finfo(p.dtype).tiny) for p in g_prim]
            return [surrogate_gradient(a, p, u[None], eta) for a, p, u in zip(g_aux, g_prim, units, strict=True)]
        if basis != "random" and eta.basis_every == 1:
            blocks = zip(g_aux, g_prim, jacobians(), strict=True)
            return [self._surrogate_from_gramian(a, p, J, generator) for a, p, J in blocks]
        if self._is_due:
            self.V, self.age = self._bases(g_aux, jacobians, generator), 0
        self.age += 1
        return [surrogate_gradient(a, p, V, eta) for a, p, V in zip(g_aux, g_prim, self.V, strict=True)]

    def _surrogate_from_gramian(self, g_aux: Tensor, g_prim: Tensor, J: Jacobian, generator: Generator) -> Tensor:
        check_rank(self.settings.k, J.m, len(g_aux))
        G, products = J.inner_products([g_prim, g_aux])
        C = self._combination(G, J.noise, generator)
        omega = C @ correction(C.T @ products[:, 0], C.T @ products[:, 1], self.settings)
        return J.combine(omega[None])[0].to(g_aux.dtype).add_(g_aux, alpha=self.settings.eta_perp)

    def _bases(self, like: list[Tensor], jacobians: Jacobians, generator: Generator) -> list[Tensor]:
        k = self.settings.k
        if self.settings.basis == "random":
            return [subspace.random_basis(min(k, len(g)), len(g), generator, g) for g in like]
        bases = []
        for g, J in zip(like, jacobians(), strict=True):
            check_rank(k, J.m, len(g))
            G, _ = J.inner_products([])
            bases.append(J.combine(self._combination(G, J.noise, generator).T).to(g.dtype))
        return bases

    def _combination(self, G: Tensor, noise: float, generator: Generator) -> Tensor:
        """Returns C (m, k) for the kind of basis that is set."""
        settings = self.settings
        if settings.basis == "exact":
            return subspace.exact(G, settings.k, noise)
        if settings.basis == "range_finder":
            return subspace.range_finder(G, settings.k, noise, generator)
        return subspace.randomized_svd(G, settings.k, noise, settings.oversample, settings.power_iterations, generator)

    def state(self) -> dict[str, Any]:
        """Returns the stored bases and their age."""
        return {"V": self.V, "age": self.age}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the bases."""
        self.V, self.age = list(state["V"]), state["age"]
