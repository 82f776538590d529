"""ATTITTUD: keep what helps the end task in an auxiliary gradient; drop or flip what harms it.

Dery, Dauphin & Grangier (ICLR 2021), Algorithm 1, https://arxiv.org/abs/2108.11346
    J (m, D)  per-example end-task gradients, the paper's J*
    V (k, D)  orthonormal rows, the k leading right singular vectors of J
Directions agree when the product is >= 0, as printed; the authors' code has > 0. Only the shared body is projected, as
the paper says (their code takes the heads in as well). The basis comes from examples drawn anew; the gradient that
decides the signs is that of the step's own end-task batch (their code: documented as better than one batch for both).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raysearch import settings as s

CHUNK = 1 << 18  # columns of J that are summed at a time


def leading_right_singular_vectors(J: Tensor, k: int) -> Tensor:
    """V (k, D) of J (m, D), by the eigenvectors of G = J J^T, which is small; G is summed in float64.

    A direction in which J has no extent (its rank is below k) comes back as a row of zeros: it spans nothing.
    Raises ValueError unless 1 <= k <= min(m, D).
    """
    if not 1 <= k <= min(J.shape):
        raise ValueError(f"k must be in [1, min(m, D)] = [1, {min(J.shape)}], got {k}")
    G = sum(part @ part.T for part in (J[:, i : i + CHUNK].double() for i in range(0, J.shape[1], CHUNK)))
    assert isinstance(G, Tensor)
    values, vectors = torch.linalg.eigh(G)  # ascending
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    spans = values > values[0] * len(J) * torch.finfo(J.dtype).eps ** 1.5
    C = torch.where(spans, vectors / values.clamp_min(torch.finfo(G.dtype).tiny).sqrt(), 0.0)  # (m, k)
    return C.T.to(J.dtype) @ J


def surrogate_gradient(g_aux: Tensor, g_prim: Tensor, V: Tensor, eta: s.Attittud) -> Tensor:
    """Equation 2: g_aux (D,) re-weighted by its effect on the end task, (D,)."""
    p_prim, p_aux = V @ g_prim, V @ g_aux  # (k,)
    agree = p_prim * p_aux >= 0  # (k,)
    g_pos, g_neg = (p_aux * agree) @ V, (p_aux * ~agree) @ V  # (D,)
    g_perp = g_aux - (g_pos + g_neg)  # (D,)
    return eta.eta_perp * g_perp + eta.eta_pos * g_pos + eta.eta_neg * g_neg


class Attittud:
    """The surgery with its basis, which lives for `basis_every` steps."""

    def __init__(self, settings: s.Attittud) -> None:
        self.settings = settings
        self.V: Tensor | None = None
        self.age = 0

    def __call__(self, g_aux: Tensor, g_prim: Tensor, jacobian: Callable[[int], Tensor]) -> Tensor:
        """g~_aux (D,); `jacobian(m)` gives J of m fresh examples when a new basis is due."""
        if self.V is None or self.age >= self.settings.basis_every:
            self.V = leading_right_singular_vectors(jacobian(self.settings.m), self.settings.k)
            self.age = 0
        self.age += 1
        return surrogate_gradient(g_aux, g_prim, self.V, self.settings)

    def state(self) -> dict[str, Any]:
        """The basis and its age."""
        return {"V": self.V, "age": self.age}

    def load(self, state: dict[str, Any]) -> None:
        """Take the basis back."""
        self.V, self.age = state["V"], state["age"]


def keep(settings: s.NoSettings) -> None:
    """No surgery: the auxiliary gradient stays as it is, and a step needs one backward for all."""
    del settings
