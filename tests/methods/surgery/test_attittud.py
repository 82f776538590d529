import math
from dataclasses import fields, replace

import pytest
import torch
from helpers.models import EXAMPLES, MODEL_ZOO
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.gradients import subspace
from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.jacobian import ExplicitJacobian, Jacobian, explicit_jacobian, factored_jacobian
from raysearch.methods.surgery.attittud import Attittud, check_rank, surrogate_gradient
from raysearch.methods.surgery.settings import AttittudSettings as Eta

M, D = 6, 40


@pytest.fixture
def jacobian_and_gradients() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(M, D, generator=generator, dtype=torch.float64)
    return J, J.mean(0), torch.randn(D, generator=generator, dtype=torch.float64)


def eta(perp: float, pos: float, neg: float) -> Eta:
    return Eta(eta_perp=perp, eta_pos=pos, eta_neg=neg)


def leading_right_singular_vectors(J: Tensor, k: int) -> Tensor:
    """V (k, D) of J (m, D), materialised, as the surgery does with a basis that it keeps."""
    check_rank(k, *J.shape)
    known = ExplicitJacobian(J)
    G, _ = known.inner_products([])
    return known.combine(subspace.exact(G, k, known.noise).T)


def test_attittud_unit_eta_returns_auxiliary_gradient(jacobian_and_gradients: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = jacobian_and_gradients
    V = leading_right_singular_vectors(J, 3)
    torch.testing.assert_close(surrogate_gradient(g_aux, g_prim, V, eta(1, 1, 1)), g_aux, rtol=0, atol=1e-14)


def test_attittud_zero_eta_returns_zero(jacobian_and_gradients: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = jacobian_and_gradients
    V = leading_right_singular_vectors(J, 3)
    assert surrogate_gradient(g_aux, g_prim, V, eta(0, 0, 0)).abs().max() == 0


def test_attittud_on_mean_gradient_basis_equals_pcgrad(jacobian_and_gradients: tuple[Tensor, Tensor, Tensor]) -> None:
    _, g_prim, g_aux = jacobian_and_gradients
    V = (g_prim / g_prim.norm())[None]
    for g in (g_aux, -g_aux):  # one of them opposes the end task
        expected = g - min(float(g @ g_prim), 0.0) / (g_prim @ g_prim) * g_prim
        torch.testing.assert_close(surrogate_gradient(g, g_prim, V, eta(1, 1, 0)), expected)


def test_basis_is_orthonormal_and_spans_leading_eigenvectors(
    jacobian_and_gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    J, _, _ = jacobian_and_gradients
    V = leading_right_singular_vectors(J, 4)
    torch.testing.assert_close(V @ V.T, torch.eye(4, dtype=torch.float64))
    values, vectors = torch.linalg.eigh(J.T @ J)
    leading = vectors[:, values.argsort(descending=True)[:4]]
    torch.testing.assert_close(V.T @ V, leading @ leading.T)


def test_attittud_components_are_orthogonal_with_paper_signs(
    jacobian_and_gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    J, g_prim, g_aux = jacobian_and_gradients
    V = leading_right_singular_vectors(J, 4)
    perp, pos, neg = (surrogate_gradient(g_aux, g_prim, V, e) for e in (eta(1, 0, 0), eta(0, 1, 0), eta(0, 0, 1)))
    assert math.isclose(g_aux @ g_aux, perp @ perp + pos @ pos + neg @ neg, rel_tol=1e-12)
    assert pos @ g_prim >= 0
    assert neg @ g_prim <= 0
    torch.testing.assert_close(V @ perp, torch.zeros(4, dtype=torch.float64))


def test_surrogate_from_gramian_equals_explicit_basis(jacobian_and_gradients: tuple[Tensor, Tensor, Tensor]) -> None:
    """DESIGN of the engine to come: with G = J J^T alone, no basis is stored."""
    J, g_prim, g_aux = jacobian_and_gradients
    k, e = 4, eta(0.7, 1.3, -1.0)
    values, vectors = torch.linalg.eigh(J @ J.T)
    top = values.argsort(descending=True)[:k]
    C = vectors[:, top] / values[top].sqrt()
    p_prim, p_aux = C.T @ (J @ g_prim), C.T @ (J @ g_aux)
    agree = (p_prim * p_aux >= 0).double()
    omega = C @ (((e.eta_pos - e.eta_perp) * agree + (e.eta_neg - e.eta_perp) * (1 - agree)) * p_aux)
    V = leading_right_singular_vectors(J, k)
    torch.testing.assert_close(e.eta_perp * g_aux + omega @ J, surrogate_gradient(g_aux, g_prim, V, e))


def test_basis_in_float32_equals_explicit_svd_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    J = torch.randn(8, 500, generator=generator) * torch.logspace(0, -2, 8)[:, None]
    V = leading_right_singular_vectors(J, 5).double()
    explicit = torch.linalg.svd(J.double(), full_matrices=False).Vh[:5]
    torch.testing.assert_close((V @ explicit.T).abs(), torch.eye(5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_basis_of_rank_deficient_jacobian_is_padded_with_zeros() -> None:
    J = torch.randn(1, D, generator=torch.Generator().manual_seed(1)).expand(4, -1)  # four times the same example
    V = leading_right_singular_vectors(J, 3)
    torch.testing.assert_close(V[0].abs(), (J[0] / J[0].norm()).abs())
    assert V[1:].abs().max() == 0


@pytest.mark.parametrize("k", [0, M + 1])
def test_basis_rank_out_of_range_raises(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k must be in \[1, min\(m, D\)\] = \[1, {M}\], got {k}"):
        leading_right_singular_vectors(torch.randn(M, D), k)


def seeded_generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def apply_surgery(g_aux: Tensor, g_prim: Tensor, J: Jacobian, settings: Eta) -> Tensor:
    """One step of the surgery on one block."""
    return Attittud(settings).surrogates([g_aux], [g_prim], lambda: [J], seeded_generator())[0]


BASES = next(f for f in fields(Eta) if f.name == "basis").metadata["choices"]
SPANNING_BASES = ("exact", "randomized_svd", "range_finder")
PAPERS = [(1, 1, -1), (1, 1, 0), (1, 0, -1), (1, 0, 0)]  # the four settings of section 5
MORE = [(0.7, 1.3, -1.0), (0, 1, 0), (1, 1, 1), (0, 0, 0)]


@pytest.mark.parametrize("values", [*PAPERS, *MORE], ids=str)
@pytest.mark.parametrize("name", ["bert_sdpa", "mlp", "convolutions", "tied_embeddings"])
def test_factored_attittud_equals_explicit_svd_in_float64(name: str, values: tuple[float, float, float]) -> None:
    torch.manual_seed(0)
    model_case, rows = MODEL_ZOO[name](), torch.arange(EXAMPLES)
    parameters = list(model_case.model.parameters())
    J = explicit_jacobian(model_case.losses, rows, parameters, coupled=False).J
    g_aux, g_prim = (torch.randn(J.shape[1], dtype=torch.float64) for _ in range(2))
    V = torch.linalg.svd(J, full_matrices=False).Vh[:3]
    expected = surrogate_gradient(g_aux, g_prim, V, eta(*values))
    ghost = factored_jacobian(model_case.losses, rows, LayerCapture(model_case.model, parameters), ProcessGroup())
    for every in (1, 2):  # never materialised, and materialised once
        actual = apply_surgery(g_aux, g_prim, ghost, replace(eta(*values), k=3, basis_every=every))
        assert (actual - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("basis", BASES)
def test_attittud_special_cases_hold_for_every_basis(
    jacobian_and_gradients: tuple[Tensor, Tensor, Tensor], basis: str, every: int
) -> None:
    """PAPERS: fine-tuning, multitask and vanilla pre-training are exact points of ATTITTUD, whatever the basis."""
    J, g_prim, g_aux = jacobian_and_gradients
    more = {"basis": basis, "k": 1 if basis == "unit_average" else 3, "m": M, "basis_every": every}
    torch.testing.assert_close(apply_surgery(g_aux, g_prim, ExplicitJacobian(J), replace(eta(1, 1, 1), **more)), g_aux)
    assert apply_surgery(g_aux, g_prim, ExplicitJacobian(J), replace(eta(0, 0, 0), **more)).abs().max() < 1e-12
    perp, pos, neg = (
        apply_surgery(g_aux, g_prim, ExplicitJacobian(J), replace(eta(*e), **more))
        for e in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    torch.testing.assert_close(perp + pos + neg, g_aux)
    assert math.isclose(g_aux @ g_aux, perp @ perp + pos @ pos + neg @ neg, rel_tol=1e-9)
    assert pos @ g_prim >= -1e-12
    assert neg @ g_prim <= 1e-12


@pytest.mark.parametrize("basis", SPANNING_BASES)
def test_full_rank_basis_spans_all_example_gradients(
    jacobian_and_gradients: tuple[Tensor, Tensor, Tensor], basis: str
) -> None:
    J, g_prim, g_aux = jacobian_and_gradients
    perp = apply_surgery(g_aux, g_prim, ExplicitJacobian(J), replace(eta(1, 0, 0), basis=basis, k=M, m=M))
    projected = g_aux - torch.linalg.lstsq(J.T, g_aux[:, None]).solution.T.squeeze() @ J
    torch.testing.assert_close(perp, projected)


def test_randomized_svd_of_low_rank_gradients_is_exact() -> None:
    J = torch.randn(12, 3, generator=seeded_generator(), dtype=torch.float64) @ torch.randn(3, D, dtype=torch.float64)
    G, noise = J @ J.T, ExplicitJacobian(J).noise
    V = subspace.randomized_svd(G, 3, noise, oversample=2, power_iterations=1, generator=seeded_generator()).T @ J
    expected = torch.linalg.svd(J, full_matrices=False).Vh[:3]
    torch.testing.assert_close((V @ expected.T).abs(), torch.eye(3, dtype=torch.float64), atol=1e-8, rtol=0)


def test_randomized_svd_improves_with_power_iterations() -> None:
    J = (
        torch.randn(20, D, generator=seeded_generator(), dtype=torch.float64)
        * torch.linspace(1, 0.5, 20)[:, None].double()
    )
    leading = torch.linalg.svd(J, full_matrices=False).Vh[:4]

    def captured_energy(q: int) -> float:
        C = subspace.randomized_svd(J @ J.T, 4, 0.0, oversample=2, power_iterations=q, generator=seeded_generator())
        return float((leading @ (C.T @ J).T).square().sum())

    assert captured_energy(0) < captured_energy(2) < captured_energy(20) <= 4 + 1e-9
    assert captured_energy(50) > 3.99


def test_range_finder_is_gram_schmidt_on_random_combinations(
    jacobian_and_gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    J, _, _ = jacobian_and_gradients
    V = subspace.range_finder(J @ J.T, 3, 0.0, seeded_generator()).T @ J
    sketch = torch.randn(M, 3, generator=seeded_generator(), dtype=torch.float64).T @ J
    rows: list[Tensor] = []
    for row in sketch:
        for before in rows:
            row = row - (before @ row) * before
        rows.append(row / row.norm())
    torch.testing.assert_close(V, torch.stack(rows))


def test_canonical_basis_treats_each_parameter_separately() -> None:
    g_aux, g_prim = torch.tensor([1.0, 2.0, -3.0, 4.0]), torch.tensor([1.0, -1.0, -1.0, 0.0])
    settings = replace(eta(5, 1, -1), basis="canonical")  # nothing is outside the span: eta_perp has no effect
    assert apply_surgery(g_aux, g_prim, ExplicitJacobian(torch.eye(4)), settings).tolist() == [1, -2, -3, 4]


def test_surrogate_never_increases_end_task_loss_to_first_order() -> None:
    """Theorem 1, as far as it holds: with eta_pos >= 0 >= eta_neg, g~ agrees with the end task inside the subspace."""
    generator = seeded_generator()
    for _ in range(50):
        J = torch.randn(M, D, generator=generator, dtype=torch.float64)
        g_prim, g_aux = J.mean(0), torch.randn(D, generator=generator, dtype=torch.float64)
        V = leading_right_singular_vectors(J, 4)
        for values in ((1, 1, -1), (1, 1, 0), (0.3, 2, -0.5)):
            assert surrogate_gradient(g_aux, g_prim, V, eta(*values)) @ (V.T @ (V @ g_prim)) >= -1e-12


def test_attittud_projects_each_block_in_a_separate_subspace(
    jacobian_and_gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    J, g_prim, g_aux = jacobian_and_gradients
    settings = replace(eta(1, 0, -1), k=2, m=M)
    halves = [(g[:15], g[15:]) for g in (g_aux, g_prim)]
    actual = Attittud(settings).surrogates(
        list(halves[0]),
        list(halves[1]),
        lambda: [ExplicitJacobian(J[:, :15]), ExplicitJacobian(J[:, 15:])],
        seeded_generator(),
    )
    for part, columns in zip(actual, (slice(0, 15), slice(15, None)), strict=True):
        V = leading_right_singular_vectors(J[:, columns], 2)
        torch.testing.assert_close(part, surrogate_gradient(g_aux[columns], g_prim[columns], V, settings))


def test_basis_is_recomputed_every_basis_every_steps(jacobian_and_gradients: tuple[Tensor, Tensor, Tensor]) -> None:
    J, g_prim, g_aux = jacobian_and_gradients
    jacobian_count = 0

    def jacobians() -> list[Jacobian]:
        nonlocal jacobian_count
        jacobian_count += 1
        return [ExplicitJacobian(J)]

    surgery = Attittud(replace(eta(1, 1, -1), k=2, m=M, basis_every=3))
    for _ in range(7):
        surgery.surrogates([g_aux], [g_prim], jacobians, seeded_generator())
    assert jacobian_count == 3
