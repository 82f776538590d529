import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raysearch.methods.attittud import Attittud, leading_right_singular_vectors, surrogate_gradient
from raysearch.settings import Attittud as Eta

M, D = 6, 40


@pytest.fixture
def parts() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(M, D, generator=generator, dtype=torch.float64)
    return J, J.mean(0), torch.randn(D, generator=generator, dtype=torch.float64)


def eta(perp: float, pos: float, neg: float) -> Eta:
    return Eta(eta_perp=perp, eta_pos=pos, eta_neg=neg)


def test_attittud_of_unit_eta_is_the_auxiliary_gradient(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = parts
    V = leading_right_singular_vectors(J, 3)
    torch.testing.assert_close(surrogate_gradient(g_aux, g_prim, V, eta(1, 1, 1)), g_aux, rtol=0, atol=1e-14)


def test_attittud_of_zero_eta_leaves_nothing_of_the_auxiliary(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = parts
    V = leading_right_singular_vectors(J, 3)
    assert surrogate_gradient(g_aux, g_prim, V, eta(0, 0, 0)).abs().max() == 0


def test_attittud_on_the_average_gradient_is_pcgrad_of_the_auxiliary(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    _, g_prim, g_aux = parts
    V = (g_prim / g_prim.norm())[None]
    for g in (g_aux, -g_aux):  # one of them opposes the end task
        expected = g - min(float(g @ g_prim), 0.0) / (g_prim @ g_prim) * g_prim
        torch.testing.assert_close(surrogate_gradient(g, g_prim, V, eta(1, 1, 0)), expected)


def test_basis_spans_what_numpy_finds_and_is_orthonormal(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    J, _, _ = parts
    V = leading_right_singular_vectors(J, 4)
    torch.testing.assert_close(V @ V.T, torch.eye(4, dtype=torch.float64))
    values, vectors = torch.linalg.eigh(J.T @ J)
    leading = vectors[:, values.argsort(descending=True)[:4]]
    torch.testing.assert_close(V.T @ V, leading @ leading.T)


def test_parts_are_orthogonal_and_their_signs_are_the_papers(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = parts
    V = leading_right_singular_vectors(J, 4)
    perp, pos, neg = (surrogate_gradient(g_aux, g_prim, V, e) for e in (eta(1, 0, 0), eta(0, 1, 0), eta(0, 0, 1)))
    assert math.isclose(g_aux @ g_aux, perp @ perp + pos @ pos + neg @ neg, rel_tol=1e-12)
    assert pos @ g_prim >= 0
    assert neg @ g_prim <= 0
    torch.testing.assert_close(V @ perp, torch.zeros(4, dtype=torch.float64))


def test_re_weighting_the_end_task_batch_gives_the_same_surrogate(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    """DESIGN of the engine to come: with G = J J^T alone, no basis is stored."""
    J, g_prim, g_aux = parts
    k, e = 4, eta(0.7, 1.3, -1.0)
    values, vectors = torch.linalg.eigh(J @ J.T)
    top = values.argsort(descending=True)[:k]
    C = vectors[:, top] / values[top].sqrt()
    p_prim, p_aux = C.T @ (J @ g_prim), C.T @ (J @ g_aux)
    agree = (p_prim * p_aux >= 0).double()
    omega = C @ (((e.eta_pos - e.eta_perp) * agree + (e.eta_neg - e.eta_perp) * (1 - agree)) * p_aux)
    V = leading_right_singular_vectors(J, k)
    torch.testing.assert_close(e.eta_perp * g_aux + omega @ J, surrogate_gradient(g_aux, g_prim, V, e))


def test_basis_in_float32_is_the_explicit_svds_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    J = torch.randn(8, 500, generator=generator) * torch.logspace(0, -2, 8)[:, None]
    V = leading_right_singular_vectors(J, 5).double()
    explicit = torch.linalg.svd(J.double(), full_matrices=False).Vh[:5]
    torch.testing.assert_close((V @ explicit.T).abs(), torch.eye(5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_direction_that_no_example_has_spans_nothing() -> None:
    J = torch.randn(1, D, generator=torch.Generator().manual_seed(1)).expand(4, -1)  # four times the same example
    V = leading_right_singular_vectors(J, 3)
    torch.testing.assert_close(V[0].abs(), (J[0] / J[0].norm()).abs())
    assert V[1:].abs().max() == 0


@pytest.mark.parametrize("k", [0, M + 1])
def test_a_rank_outside_the_examples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k must be in \[1, min\(m, D\)\] = \[1, {M}\], got {k}"):
        leading_right_singular_vectors(torch.randn(M, D), k)


def test_a_basis_is_kept_for_its_steps_and_then_taken_anew(parts: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = parts
    asked: list[int] = []

    def jacobian(m: int) -> Tensor:
        asked.append(m)
        return J[:m]

    surgery = Attittud(replace(eta(1, 1, -1), k=2, m=5, basis_every=3))
    for _ in range(7):
        surgery(g_aux, g_prim, jacobian)
    assert asked == [5, 5, 5]
