"""ATTITTUD: keep what helps the end task in an auxiliary gradient; drop or flip what harms it.

Dery, Dauphin & Grangier (ICLR 2021), Algorithm 1, https://arxiv.org/abs/2108.11346
    J (m, D)  per-example end-task gradients, the paper's J*;   G = J J^T (m, m)
    V (k, D)  orthonormal rows that span about what J's rows do, V = C^T J
Directions agree when the product is >= 0, as printed; the authors' code has > 0. Only shared parameters are projected,
as the paper says, unless `scope` says more (their vision code takes the heads in). The gradient that decides the
signs is that of the step's own end-task batch; the basis comes from examples drawn anew (their code: documented as
better), or from the same ones (`basis_rows`). Left out of the authors' code: an end-task head whose gradient is never
zeroed, and a monitor batch that is run through at each step for a picture.

With C, the cut gradient is a re-weighting of the basis examples, and no V is written down:

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
from raysearch.methods.surgery import settings as f
from raysearch.schema.fields import NoSettings

Jacobians = Callable[[], list[Jacobian]]  # J of fresh examples, one for each block of parameters


def check_rank(k: int, m: int, D: int) -> None:
    """Raise ValueError unless 1 <= k <= min(m, D)."""
    if not 1 <= k <= min(m, D):
        raise ValueError(f"k must be in [1, min(m, D)] = [1, {min(m, D)}], got {k}")


def surrogate_gradient(g_aux: Tensor, g_prim: Tensor, V: Tensor, eta: f.AttittudSettings) -> Tensor:
    """Equation 2: g_aux (D,) re-weighted by its effect on the end task, (D,)."""
    p_prim, p_aux = V @ g_prim, V @ g_aux  # (k,)
    return eta.eta_perp * g_aux + kept(p_prim, p_aux, eta) @ V


def kept(p_prim: Tensor, p_aux: Tensor, eta: f.AttittudSettings) -> Tensor:
    """What is added along each direction to eta_perp g_aux, from the projections on it; all of one shape."""
    agree = p_prim * p_aux >= 0
    return torch.where(agree, eta.eta_pos - eta.eta_perp, eta.eta_neg - eta.eta_perp) * p_aux


class Attittud:
    """The surgery: a new basis every `basis_every` steps; with 1 none is ever stored."""

    def __init__(self, settings: f.AttittudSettings) -> None:
        self.settings = settings
        self.V: list[Tensor] = []  # of each block of parameters; empty while none is kept
        self.age = 0

    def __call__(
        self, g_aux: list[Tensor], g_prim: list[Tensor], jacobians: Jacobians, generator: Generator
    ) -> list[Tensor]:
        """g~_aux of each block (D_block,); `jacobians()` gives J when a new basis is due, `generator` what is drawn.

        Raises ValueError where k is not in [1, min(m, D)].
        """
        eta, basis = self.settings, self.settings.basis
        if basis == "canonical":
            return [eta.eta_perp * a + kept(p, a, eta) for a, p in zip(g_aux, g_prim, strict=True)]
        if basis == "unit_average":
            units = [p / p.norm().clamp_min(torch.finfo(p.dtype).tiny) for p in g_prim]
            return [surrogate_gradient(a, p, u[None], eta) for a, p, u in zip(g_aux, g_prim, units, strict=True)]
        if basis != "random" and eta.basis_every == 1:
            parts = zip(g_aux, g_prim, jacobians(), strict=True)
            return [self._in_one_go(a, p, J, generator) for a, p, J in parts]
        if not self.V or self.age >= eta.basis_every:
            self.V, self.age = self._bases(g_aux, jacobians, generator), 0
        self.age += 1
        return [surrogate_gradient(a, p, V, eta) for a, p, V in zip(g_aux, g_prim, self.V, strict=True)]

    def _in_one_go(self, g_aux: Tensor, g_prim: Tensor, J: Jacobian, generator: Generator) -> Tensor:
        check_rank(self.settings.k, J.m, len(g_aux))
        G, along = J.inner_products([g_prim, g_aux])
        C = self._combination(G, J.noise, generator)
        omega = C @ kept(C.T @ along[:, 0], C.T @ along[:, 1], self.settings)
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
        """C (m, k) of the chosen kind."""
        settings = self.settings
        if settings.basis == "exact":
            return subspace.exact(G, settings.k, noise)
        if settings.basis == "range_finder":
            return subspace.range_finder(G, settings.k, noise, generator)
        return subspace.randomized_svd(G, settings.k, noise, settings.oversample, settings.power_iterations, generator)

    def state(self) -> dict[str, Any]:
        """The kept bases and their age."""
        return {"V": self.V, "age": self.age}

    def load(self, state: dict[str, Any]) -> None:
        """Take the bases back."""
        self.V, self.age = list(state["V"]), state["age"]


def keep(settings: NoSettings) -> None:
    """No surgery: the auxiliary gradient stays as it is, and a step needs one backward for all."""
    del settings
