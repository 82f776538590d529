"""Bases of the end task's gradient subspace, as combinations of its examples' gradients.

Whatever is spanned by the rows of J is C^T J for some C (m, k), and what is asked of C (orthonormal rows, leading
directions) can be asked of G = J J^T alone: no basis vector of D numbers is written down to find it.

    V = C^T J (k, D), orthonormal rows;   C^T G C = 1 on the directions that J has
    noise        relative error of G's entries: what is smaller than that is no direction
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def exact(G: Tensor, k: int, noise: float) -> Tensor:
    """C (m, k) of the k leading right singular vectors of J: G's eigenvectors over the roots of its eigenvalues.

    A direction in which J has no extent (its rank is below k) comes back as a column of zeros: it spans nothing.
    """
    values, vectors = torch.linalg.eigh(G.double())  # ascending
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    return torch.where(values > _least(G, noise), vectors / values.clamp_min(_TINY).sqrt(), 0.0)


def randomized_svd(
    G: Tensor, k: int, noise: float, oversample: int, power_iterations: int, generator: Generator
) -> Tensor:
    """C (m, k) by Halko, Martinsson & Tropp 2011 (Algorithms 4.4 and 5.1): a sketch of k + oversample, then an SVD."""
    wide = min(k + oversample, len(G))
    sketch = torch.randn(len(G), wide, generator=generator, dtype=torch.float64).to(G.device)
    for _ in range(power_iterations):
        sketch = torch.linalg.qr(G @ sketch).Q  # (J^T J)^q J^T Omega = J^T G^q Omega
    E = gram_schmidt(G, sketch, noise)  # Q = J^T E
    W = torch.linalg.svd((G @ E), full_matrices=False).Vh.T  # J Q = U S W^T
    C: Tensor = E @ W[:, :k]
    return C


def range_finder(G: Tensor, k: int, noise: float, generator: Generator) -> Tensor:
    """C (m, k): Gram-Schmidt on k Gaussian combinations of the rows, no oversampling and no SVD (ATTITTUD's code).

    It spans about what the leading directions do, rotated at random inside; the split by signs depends on that.
    """
    return gram_schmidt(G, torch.randn(len(G), k, generator=generator, dtype=torch.float64).to(G.device), noise)


def gram_schmidt(G: Tensor, sketch: Tensor, noise: float) -> Tensor:
    """C (m, n): the combinations `sketch` (m, n) of J's rows made orthonormal in their order; zeros where dependent."""
    G, least = G.double(), _least(G, noise)
    columns: list[Tensor] = []
    for column in sketch.double().unbind(dim=1):
        for _ in range(2):  # once more for what rounding left
            for before in columns:
                column = column - (before @ G @ column) * before
        norm = (column @ G @ column).clamp_min(0)
        columns.append(torch.where(norm > least, column / norm.clamp_min(_TINY).sqrt(), torch.zeros_like(column)))
    return torch.stack(columns, dim=1)


def random_basis(k: int, D: int, generator: Generator, like: Tensor) -> Tensor:
    """V (k, D): k Gaussian directions made orthonormal (ATTITTUD, Table 4)."""
    Q: Tensor = torch.linalg.qr(torch.randn(D, k, generator=generator).to(like)).Q
    return Q.T


_TINY = torch.finfo(torch.float64).tiny


def _least(G: Tensor, noise: float) -> Tensor:
    """The smallest squared extent that is not rounding, `noise` being G's relative error."""
    return G.diagonal().max().double() * len(G) * noise
