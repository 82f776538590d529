import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus
from torchjd import aggregation as jd

from raysearch.config.loading import load_search
from raysearch.errors import SpecError
from raysearch.methods import METHODS, methods_of
from raysearch.methods.surgery.base import GramianSurgery
from raysearch.methods.surgery.settings import ConflictSettings, GCSSettings
from raysearch.training import checkpoint

SURGERIES = [name for name, each in methods_of("surgery").items() if issubclass(each.settings, ConflictSettings)]
STATEFUL = [name for name in SURGERIES if METHODS[name].remembers_gradients]
RANDOMIZED = ["pcgrad", "gradvac"]
AGGREGATORS: dict[str, Callable[[int], Any]] = {  # of m rows, with the settings that ours have by default
    "pcgrad": lambda _: jd.PCGrad(),
    "mgda": lambda _: jd.MGDA(),
    "cagrad": lambda _: jd.CAGrad(c=0.5),
    "aligned_mtl": lambda _: jd.AlignedMTL(),
    "imtl_g": lambda _: jd.IMTLG(),
    "upgrad": lambda _: jd.UPGrad(),
    "dualproj": lambda _: jd.DualProj(),
    "config": lambda _: jd.ConFIG(),
    "fairgrad": lambda _: jd.FairGrad(alpha=1.0),
    "nash_mtl": lambda m: jd.NashMTL(m, max_norm=0.0),
    "gradvac": lambda _: jd.GradVac(),
    "pcd": lambda _: jd.PCD(),
}
SCALES = {"cagrad": lambda m: m / 1.5} | dict.fromkeys(
    ("mgda", "aligned_mtl", "imtl_g", "upgrad", "dualproj"), lambda m: m
)
NOT_HOMOGENEOUS = ("fairgrad", "nash_mtl")  # compared on rows of mean square length 1, which is what ours show them
# Solvers stop at a tolerance of their own, and GradVac adds 1e-8 to norms of about 1 where ours adds next to nothing.
TOLERANCES = {"cagrad": 1e-6, "fairgrad": 1e-6, "nash_mtl": 1e-6, "gradvac": 1e-6}


def make_surgery(name: str, **settings: Any) -> GramianSurgery:
    if name == "nash_mtl":
        pytest.importorskip("ecos", reason="ecos has no wheel for Python 3.13 and later")
    return METHODS[name].load()(METHODS[name].settings(**settings))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def rows(m: int, D: int, *, seed: int = 0, opposed: float = 0.0, rank: int = 0) -> Tensor:
    """Random gradients (m, D); the larger `opposed`, the more they oppose each other; of that rank, if not None."""
    generator = seeded(seed)
    J = torch.randn(m, D, generator=generator, dtype=torch.float64)
    if rank:
        J = torch.randn(m, rank, generator=generator, dtype=torch.float64) @ J[:rank]
    signs = torch.tensor([(-1.0) ** i for i in range(m)], dtype=torch.float64)
    return J + opposed * signs.outer(torch.randn(D, generator=generator, dtype=torch.float64))


def update(surgery: GramianSurgery, J: Tensor, seed: int = 0) -> Tensor:
    return surgery.factors(J @ J.T, seeded(seed)) @ J


def reference(name: str, aggregator: Any, J: Tensor, seed: int = 0) -> Tensor:
    """What TorchJD makes of the explicit rows, times our scale."""
    size = J.square().sum(1).mean().sqrt() if name in NOT_HOMOGENEOUS else torch.ones(())
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return SCALES.get(name, lambda _: 1.0)(len(J)) * size * aggregator(J / size)


def gcs(J: Tensor, gate: str) -> Tensor:
    """The update of GCS, gradient by gradient."""
    total = J[0].clone()
    for g in J[1:]:
        cosine = float(J[0] @ g / (J[0].norm() * g.norm()))
        total += g * (max(0.0, cosine) if gate == "weighted" else float(cosine >= 0))
    return total


# ---- against the references ----


def test_every_surgery_has_a_reference() -> None:
    assert {*AGGREGATORS, "gcs"} == set(SURGERIES)


@pytest.mark.parametrize(
    "J",
    [
        rows(2, 2),
        rows(2, 3000, opposed=1.0),
        rows(3, 50),
        rows(4, 400, opposed=2.0),
        rows(7, 60, opposed=1.0),
        rows(5, 40) * torch.tensor([[1.0], [30.0], [0.1], [1.0], [3.0]], dtype=torch.float64),
    ],
    ids=lambda J: "x".join(map(str, J.shape)),
)
@pytest.mark.parametrize("name", AGGREGATORS)
def test_surgery_update_equals_torchjd_aggregator(name: str, J: Tensor) -> None:
    actual = update(make_surgery(name), J)
    expected = reference(name, AGGREGATORS[name](len(J)), J)
    assert torch.allclose(actual, expected, rtol=0, atol=TOLERANCES.get(name, 1e-8) * float(J.norm()))


@pytest.mark.parametrize("name", ["config", "aligned_mtl", "imtl_g", "pcgrad", "upgrad", "mgda", "pcd"])
def test_surgery_of_dependent_gradients_equals_torchjd(name: str) -> None:
    J = rows(5, 30, rank=3)
    expected = reference(name, AGGREGATORS[name](5), J)
    assert torch.allclose(update(make_surgery(name), J), expected, rtol=0, atol=1e-7 * float(J.norm()))


@pytest.mark.parametrize("gate", ["weighted", "unweighted"])
@pytest.mark.parametrize(("m", "D"), [(2, 2), (3, 50), (6, 1000)])
def test_gcs_update_equals_explicit_cosine_gates(gate: str, m: int, D: int) -> None:
    J = rows(m, D, seed=3, opposed=0.5)
    assert torch.allclose(update(make_surgery("gcs", gcs_gate=gate), J), gcs(J, gate), rtol=0, atol=1e-10)


def test_gcs_coefficients_match_hand_values() -> None:
    J = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 1.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    weighted = make_surgery("gcs").factors(J @ J.T, seeded())
    assert weighted.tolist() == pytest.approx([1, 0.6, 0, 0, 1])
    unweighted = make_surgery("gcs", gcs_gate="unweighted").factors(J @ J.T, seeded())
    assert unweighted.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_pcgrad_of_two_gradients_removes_conflicting_parts(seed: int) -> None:
    J = rows(2, 20, seed=seed, opposed=seed % 2)
    a, b = J
    product = torch.clamp(a @ b, max=0.0)
    expected = (a - product / (b @ b) * b) + (b - product / (a @ a) * a)
    assert torch.allclose(update(make_surgery("pcgrad"), J), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "setting", "value", "build", "scale"),
    [
        ("cagrad", "cagrad_c", 0.2, lambda: jd.CAGrad(c=0.2), 4 / 1.2),
        ("aligned_mtl", "aligned_mtl_scale", "rmse", lambda: jd.AlignedMTL(scale_mode="rmse"), 4),
        ("fairgrad", "fairgrad_alpha", 3.0, lambda: jd.FairGrad(alpha=3.0), 1),
        ("nash_mtl", "nash_update_every", 2, lambda: jd.NashMTL(4, max_norm=0.0, update_weights_every=2), 1),
        ("gradvac", "gradvac_beta", 0.1, lambda: jd.GradVac(beta=0.1), 1),
        ("pcd", "pcd_tau", 0.5, lambda: jd.PCD(tau=0.5), 1),
        ("pcd", "pcd_beta", 0.5, lambda: jd.PCD(beta=0.5), 1),
    ],
)
def test_surgery_setting_reaches_the_aggregator(
    name: str, setting: str, value: Any, build: Callable[[], Any], scale: float
) -> None:
    surgery, usual, aggregator = make_surgery(name, **{setting: value}), make_surgery(name), build()
    for seed in range(4):
        J = rows(4, 40, seed=seed, opposed=1.0)
        J = J / J.square().sum(1).mean().sqrt() * torch.tensor([[1.0], [1.0 + seed], [1.0], [1.0]], dtype=torch.float64)
        actual, default = update(surgery, J, seed), update(usual, J, seed)
        expected = reference(name, aggregator, J, seed) / SCALES.get(name, lambda _: 1.0)(4) * scale
    assert torch.allclose(actual, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(actual, default, rtol=0, atol=1e-4)


def losses(theta: Tensor) -> list[Tensor]:
    """Two quadratics that want different things, and a logistic regression."""
    A, b = rows(6, 8, seed=1), rows(6, 8, seed=2)
    return [
        (A @ theta - 1).square().mean(),
        2 * (b @ theta + 1).square().mean(),
        softplus(-(A[:, :8] * b) @ theta).mean(),
    ]


def trajectory(step: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Where 20 steps of gradient descent go, (20, 8); `step` makes an update of the gradients (3, 8)."""
    theta, path = torch.zeros(8, dtype=torch.float64, requires_grad=True), []
    for number in range(20):
        J = torch.stack([torch.autograd.grad(loss, theta)[0] for loss in losses(theta)])
        with torch.no_grad():
            theta -= 0.01 * step(J, number)
        path.append(theta.detach().clone())
    return torch.stack(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SURGERIES)
def test_surgery_training_follows_the_reference_trajectory(name: str) -> None:
    surgery = make_surgery(name)
    if name == "gcs":
        expected = trajectory(lambda J, _: gcs(J, "weighted"))
    else:
        aggregator = AGGREGATORS[name](3)
        expected = trajectory(lambda J, number: reference(name, aggregator, J, number))
    path = trajectory(lambda J, number: update(surgery, J, number))
    assert torch.allclose(path, expected, rtol=0, atol=TOLERANCES.get(name, 1e-8))
    assert not torch.allclose(path, trajectory(lambda J, _: J.sum(0)), rtol=0, atol=1e-3)  # the gradients do conflict


# ---- laws ----


@pytest.mark.parametrize("m", [2, 3, 6])
@pytest.mark.parametrize("name", SURGERIES)
def test_orthonormal_gradients_are_summed_except_by_gcs_and_pcd(name: str, m: int) -> None:
    factors = make_surgery(name).factors(torch.eye(m, dtype=torch.float64), seeded())
    if name == "gcs":
        assert factors.tolist() == [1] + [0] * (m - 1)
    elif name == "pcd":  # r_0 and a share tau of every other, as long as r_0
        assert factors.norm().item() == pytest.approx(1)
        assert (factors[1:] / factors[0]).tolist() == pytest.approx([0.02] * (m - 1))
    else:
        assert factors.tolist() == pytest.approx([1] * m, abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(SURGERIES) - {"pcd"}))  # its moving average has an epsilon, as Adam's
def test_surgery_coefficients_are_scale_invariant(name: str) -> None:
    J = rows(4, 30, opposed=1.0)
    factors = make_surgery(name).factors(J @ J.T, seeded())
    small = make_surgery(name).factors(1e-14 * J @ J.T, seeded())
    assert torch.allclose(small, factors, rtol=0, atol=TOLERANCES.get(name, 1e-8))


@pytest.mark.parametrize("name", SURGERIES)
def test_zero_gradient_does_not_change_other_coefficients(name: str) -> None:
    J = rows(3, 30, opposed=1.0)
    without = make_surgery(name).factors(J @ J.T, seeded(1))
    J = torch.cat([J, J[:1] * 0])
    factors = make_surgery(name).factors(J @ J.T, seeded(1))
    assert factors[3] == 1
    if name not in RANDOMIZED:  # others are met in another order
        assert torch.allclose(factors[:3], without, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SURGERIES)
def test_single_or_all_zero_gradients_get_coefficient_one(name: str) -> None:
    assert make_surgery(name).factors(torch.full((1, 1), 4.0, dtype=torch.float64), seeded()).tolist() == [1]
    assert make_surgery(name).factors(torch.zeros(3, 3, dtype=torch.float64), seeded()).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", SURGERIES)
def test_non_finite_gramian_raises(name: str) -> None:
    G = torch.eye(3, dtype=torch.float64)
    G[1, 1] = float("nan")
    with pytest.raises(ArithmeticError, match="Gramian of the step's gradients is not finite"):
        make_surgery(name).factors(G, seeded())


@pytest.mark.parametrize("name", SURGERIES)
def test_surgery_uses_only_the_passed_generator(name: str) -> None:
    J = rows(6, 10, opposed=1.0)
    before = torch.get_rng_state()
    factors = [make_surgery(name).factors(J @ J.T, seeded(seed)).tolist() for seed in (0, 0, *range(8))]
    assert torch.equal(torch.get_rng_state(), before)
    assert factors[0] == factors[1]
    assert (factors.count(factors[0]) < len(factors)) == (name in RANDOMIZED)


@pytest.mark.parametrize("name", RANDOMIZED)
def test_randomized_surgery_draws_new_order_each_step(name: str) -> None:
    J, generator = rows(6, 10, opposed=1.0), seeded()
    drawn = [tuple(make_surgery(name).factors(J @ J.T, generator).tolist()) for _ in range(8)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("seed", range(3))
def test_surgery_updates_satisfy_properties_from_papers(seed: int) -> None:
    J = rows(4, 40, seed=seed, opposed=1.0)
    lengths, steepest = J.norm(dim=1), {name: update(make_surgery(name), J) for name in SURGERIES}
    cosines = {name: J @ g / lengths / g.norm() for name, g in steepest.items()}
    for name in ("imtl_g", "config"):  # no gradient is favoured
        assert torch.allclose(cosines[name], cosines[name].mean(), rtol=0, atol=1e-9)
    for name in ("upgrad", "dualproj", "pcd"):  # none is opposed, up to a regularisation by 1e-4
        assert cosines[name].min() > -1e-3
    for name in ("nash_mtl", "fairgrad"):  # G alpha = 1 / alpha, at mean square length 1
        G = J @ J.T / lengths.square().mean()
        alpha = make_surgery(name).factors(G, seeded())
        assert torch.allclose(G @ alpha * alpha, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-4)
    # of the shortest vector in the convex hull, every gradient has at least the length squared; Frank-Wolfe comes near
    shortest = steepest["mgda"] / 4
    assert (J @ shortest).min() > 0.95 * shortest.square().sum()
    smallest = torch.linalg.eigvalsh(J @ J.T)[0]  # all principal components are brought to the least one's length
    assert steepest["aligned_mtl"].square().sum().item() == pytest.approx(4 * smallest.item())
    assert steepest["pcd"].norm().item() == pytest.approx(lengths[0].item())


# ---- memory ----


@pytest.mark.parametrize("name", SURGERIES)
def test_surgery_resumes_from_saved_state(name: str, tmp_path: Path) -> None:
    settings = {"nash_update_every": 2} if name == "nash_mtl" else {}
    first, unused = make_surgery(name, **settings), make_surgery(name, **settings)
    unused.load(make_surgery(name, **settings).state())  # of a trial that has not begun
    for seed in range(3):
        update(first, rows(4, 20, seed=seed, opposed=1.0), seed)
    checkpoint.save(tmp_path / "state.safetensors", {"surgery": first.state()})
    second = make_surgery(name, **settings)
    second.load(checkpoint.load(tmp_path / "state.safetensors")["surgery"])
    for seed in range(3, 7):
        J = rows(4, 20, seed=seed, opposed=1.0)
        assert torch.equal(update(second, J, seed), update(first, J, seed))


@pytest.mark.parametrize("name", SURGERIES)
def test_surgery_memory_flag_matches_its_state(name: str) -> None:
    surgery = make_surgery(name)
    update(surgery, rows(3, 20))
    assert bool(surgery.state()) == METHODS[name].remembers_gradients


@pytest.mark.parametrize("name", STATEFUL)
def test_surgery_state_for_other_gradient_count_raises(name: str) -> None:
    surgery = make_surgery(name)
    update(surgery, rows(3, 20))
    with pytest.raises(ValueError, match="remembers 3 gradients, and this step has 4"):
        update(surgery, rows(4, 20))


def test_saved_surgery_state_is_a_copy() -> None:
    surgery = make_surgery("gradvac")
    update(surgery, rows(3, 20))
    state = surgery.state()
    saved_phi = state["buffers"]["_phi_t"].clone()
    update(surgery, rows(3, 20, seed=1))
    assert torch.equal(state["buffers"]["_phi_t"], saved_phi)


# ---- packages ----


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("cagrad", "cvxpy"),
        ("nash_mtl", "ecos"),
        ("upgrad", "quadprog"),
        ("dualproj", "qpsolvers"),
        ("fairgrad", "scipy"),
    ],
)
def test_surgery_without_package_says_what_to_install(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original_find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else original_find_spec(name))
    message = f"surgery {name!r} needs the package {package}; pip install 'raysearch\\[torchjd\\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        METHODS[name].load()
    assert METHODS["pcgrad"].why_missing() is None


@pytest.mark.parametrize(
    ("yaml_line", "where"),
    [
        ("method: {surgery: cagrad}", "2: method.surgery"),
        ("baselines: {averse: {method: {surgery: cagrad}, trials: 1}}", "2: baselines.averse.method.surgery"),
        ("dimensions: {surgery: {choice: [none, cagrad]}}", "2: dimensions.surgery.choice.*"),
    ],
)
def test_search_with_missing_surgery_package_is_rejected(
    yaml_line: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "search.yaml"
    lines = [
        "task: docstrings",
        yaml_line,
        "model: tiny",
        "space: smoke",
        "settings: {steps: 4}",
        "budget: {trials: 1}",
    ]
    file.write_text("\n".join(lines) + "\n")
    load_search(file)
    original_find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cvxpy" else original_find_spec(name))
    with pytest.raises(SpecError, match=f"search.yaml:{where}: surgery 'cagrad' needs the package cvxpy; pip install"):
        load_search(file)


def test_gcs_unknown_gate_is_rejected() -> None:
    with pytest.raises(ValueError, match="gcs_gate: unknown choice 'weigthed'; did you mean 'weighted'"):
        GCSSettings(gcs_gate="weigthed")
