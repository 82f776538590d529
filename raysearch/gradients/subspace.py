"""Bases of the end task's gradient subspace, as combinations of its examples' gradients.

Every vector in the span of J's rows is J^T c for some c (m,). What is required of a basis (orthonormal rows, leading
directions) can be computed from G = J J^T alone, so no basis vector of D numbers is materialised to find it.

    J (m, D)     one example's gradient a row
    C (m, k)     the coefficients of the basis V = C^T J (k, D), whose rows are orthonormal: C^T G C = 1 in the
                 directions that J has
    noise        relative error of G's entries; a direction of smaller extent is treated as absent
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_TINY = torch.finfo(torch.float64).tiny


def exact(G: Tensor, k: int, noise: float) -> Tensor:
    """Returns C (m, k) of J's k leading right singular vectors: G's eigenvectors over the roots of its eigenvalues.

    A direction in which J has no extent (because its rank is below k) is a column of zeros.
    """
    values, vectors = torch.linalg.eigh(G.double())  # in ascending order
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    is_present = values > _smallest_extent(G, noise)
    return torch.where(is_present, vectors / values.clamp_min(_TINY).sqrt(), 0.0)


def randomized_svd(
    G: Tensor, k: int, noise: float, oversample: int, power_iterations: int, generator: Generator
) -> Tensor:
    """Returns C (m, k) by Halko, Martinsson & Tropp 2011 (Algorithms 4.4 and 5.1): a sketch of J, then its SVD.

    The sketch has k + oversample columns.
    """
    width = min(k + oversample, len(G))
    sketch = torch.randn(len(G), width, generator=generator, dtype=torch.float64).to(G.device)
    for _ in range(power_iterations):
        sketch = torch.linalg.qr(G @ sketch).Q  # (J^T J)^q J^T Omega = J^T G^q Omega
    E = gram_schmidt(G, sketch, noise)  # Q = J^T E
    W = torch.linalg.svd((G @ E), full_matrices=False).Vh.T  # J Q = U S W^T
    C: Tensor = E @ W[:, :k]
    return C


def range_finder(G: Tensor, k: int, noise: float, generator: Generator) -> Tensor:
    """Returns C (m, k) by Gram-Schmidt on k Gaussian combinations of J's rows, as ATTITTUD's code does.

    There is no oversampling and no SVD: C spans roughly the leading directions, but randomly rotated within their
    span. ATTITTUD's split by signs depends on that rotation.
    """
    sketch = torch.randn(len(G), k, generator=generator, dtype=torch.float64).to(G.device)
    return gram_schmidt(G, sketch, noise)


def gram_schmidt(G: Tensor, sketch: Tensor, noise: float) -> Tensor:
    """Returns C (m, n): the combinations `sketch` (m, n) of J's rows, orthonormalised in their order.

    A combination that depends on those before it is a column of zeros.
    """
    G, least = G.double(), _smallest_extent(G, noise)
    columns: list[Tensor] = []
    for column in sketch.double().unbind(dim=1):
        for _ in range(2):  # the second pass removes what rounding left of the first
            for previous in columns:
                column = column - (previous @ G @ column) * previous
        norm = (column @ G @ column).clamp_min(0)
        columns.append(torch.where(norm > least, column / norm.clamp_min(_TINY).sqrt(), torch.zeros_like(column)))
    return torch.stack(columns, dim=1)


def random_basis(k: int, D: int, generator: Generator, like: Tensor) -> Tensor:
    """Returns V (k, D): k Gaussian directions, orthonormalised (ATTITTUD, Table 4)."""
    Q: Tensor = torch.linalg.qr(torch.randn(D, k, generator=generator).to(like)).Q
    return Q.T


def _smallest_extent(G: Tensor, noise: float) -> Tensor:
    """Returns the smallest squared extent that is not rounding error."""
    return G.diagonal().max().double() * len(G) * noise
