"""Weightings of the literature against their formulas in plain Python, or against TorchJD's modules."""

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torchjd import scalarization

from raysearch.methods import METHODS
from raysearch.methods.weighting.base import GradientQuery, GradientSimilarities, StepObservation, Weighting
from raysearch.methods.weighting.gradient_alignment import AuxiNash, bargain, hypergradient
from raysearch.objectives.objective import Objective

OBJECTIVES = tuple(
    Objective(data="end_task", transform=t, representation="bidirectional", output="denoise")
    for t in ("none", "replace", "mask")
)
ALL = [0, 1, 2]
LOSSES = [[2.0, 7.0, 3.0, 0.5], [1.5, 6.5, 3.5, 0.4], [1.0, 6.4, 2.0, 0.45], [0.9, 6.0, 2.2, 0.3], [0.8, 5.0, 2.1, 0.2]]


def make_weighting(name: str, **settings: Any) -> Weighting:
    weighting: Weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings(**settings))
    return weighting


def weights(weighting: Weighting, sampled: list[int] | None = None) -> list[float]:
    """The coefficients of the end task's gradient and of each objective's."""
    coefficients = weighting.coefficients(ALL if sampled is None else sampled)
    return [coefficients.end_task, *(coefficients.aux * coefficients.objectives).tolist()]


def shares(values: Any) -> list[float]:
    return [float(value) / math.fsum(values) for value in values]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradients(seed: int = 0) -> Tensor:
    """Four gradients (4, 6), two of which oppose each other."""
    g = torch.randn(4, 6, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return g + torch.outer(tensor([1.0, -1.0, 0.5, 0.0]), g[0])


# ---- from losses ----


def test_uncertainty_follows_gradient_of_its_objective() -> None:
    weighting = make_weighting("uncertainty", lr_uncertainty=0.1)
    s = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for losses in LOSSES:
        (gradient,) = torch.autograd.grad((torch.exp(-s) * tensor(losses) + s).sum(), s)
        weighting.learn(ALL, StepObservation(tensor(losses)))
        with torch.no_grad():
            s -= 0.1 * gradient
    assert weights(weighting) == pytest.approx(shares(torch.exp(-s).tolist()))


def test_uncertainty_equals_torchjd_at_twice_the_rate() -> None:
    weighting, reference = make_weighting("uncertainty", lr_uncertainty=0.05), scalarization.UW(4).double()
    for losses in LOSSES:
        reference.zero_grad()
        reference(tensor(losses)).backward()
        weighting.learn(ALL, StepObservation(tensor(losses)))
        with torch.no_grad():
            reference.log_var -= 0.1 * reference.log_var.grad
    assert weights(weighting) == pytest.approx(shares(torch.exp(-reference.log_var).tolist()))


def test_uncertainty_sampled_weights_converge_to_inverse_loss() -> None:
    weighting = make_weighting("uncertainty", lr_uncertainty=0.1)
    for _ in range(2000):
        weighting.learn([0, 2], StepObservation(tensor([2.0, 7.0, 0.5])))
    assert weights(weighting) == pytest.approx(shares([1 / 2, 1 / 7, 1, 1 / 0.5]))


def test_dwa_equals_torchjd_with_window_as_epoch() -> None:
    weighting, reference = make_weighting("dwa", dwa_window=2, dwa_temperature=1.5), scalarization.DWA(1.5)
    for number in range(9):
        losses = tensor(LOSSES[number % 5]) * (1 + number)
        values = losses.clone().requires_grad_()
        (expected,) = torch.autograd.grad(reference(values), values)
        assert weights(weighting) == pytest.approx(shares(expected.tolist()))
        weighting.learn(ALL, StepObservation(losses))
        if number % 2:
            reference.step()
    assert weights(weighting) != pytest.approx([0.25] * 4)


def test_dwa_weights_match_hand_values() -> None:
    weighting = make_weighting("dwa", dwa_window=1, dwa_temperature=2.0)
    weighting.learn(ALL, StepObservation(tensor([2.0, 4.0, 1.0, 1.0])))
    assert weights(weighting) == [0.25] * 4
    weighting.learn(ALL, StepObservation(tensor([1.0, 4.0, 2.0, 1.0])))
    assert weights(weighting) == pytest.approx(shares([math.exp(r / 2) for r in (0.5, 1.0, 2.0, 1.0)]))


def test_rlw_weights_are_softmax_of_new_gaussians_each_step() -> None:
    weighting = make_weighting("rlw", objectives_per_step=0)
    generator, reference_generator = Generator().manual_seed(3), Generator().manual_seed(3)
    weights_by_step = []
    for _ in range(3):
        sampled = weighting.sample(generator)
        expected = torch.randn(4, generator=reference_generator, dtype=torch.float64).exp()
        assert weights(weighting, sampled) == pytest.approx(shares(expected.tolist()))
        weights_by_step.append(tuple(weights(weighting)))
    assert len(set(weights_by_step)) == 3
    assert weights(weighting, [1]) == pytest.approx(shares([float(expected[0]), float(expected[2])]))


def test_famo_equals_torchjd_with_losses_around_each_update() -> None:
    weighting, reference = (
        make_weighting("famo", lr_famo=0.1, famo_decay=0.01),
        scalarization.FAMO(4, lr=0.1, weight_decay=0.01),
    )
    reference.double()
    for before, after in zip(LOSSES, LOSSES[1:] + LOSSES[:1], strict=True):
        values = tensor(before).requires_grad_()
        (expected,) = torch.autograd.grad(reference(values), values)
        weighting.learn(ALL, StepObservation(tensor(before)))
        assert weights(weighting) == pytest.approx(shares(expected.tolist()))
        assert sum(weights(weighting)) == pytest.approx(float(expected.sum()))
        weighting.observe_after_update(ALL, tensor(after))
        reference.update(tensor(after))
    assert weights(weighting) != pytest.approx(shares([1 / loss for loss in LOSSES[-1]]))


# ---- from gradients ----


def test_gradnorm_follows_gradient_of_its_objective() -> None:
    weighting = make_weighting("gradnorm", gradnorm_alpha=1.5, lr_gradnorm=0.01)
    w, first = torch.ones(4, dtype=torch.float64), tensor(LOSSES[0])
    for number, losses in enumerate(LOSSES):
        g = gradients(number)
        assert weighting.required_gradients(number + 1) == GradientQuery(gradients="norms")
        weighting.learn(ALL, StepObservation(tensor(losses), gramian=(g @ g.T).diagonal().diag()))
        w.requires_grad_()
        G = torch.stack([(weight * g_k).norm() for weight, g_k in zip(w, g, strict=True)])
        rates = tensor(losses) / first
        target = (G.mean() * (rates / rates.mean()) ** 1.5).detach()
        (gradient,) = torch.autograd.grad((G - target).abs().sum(), w)
        w = w.detach() - 0.01 * gradient
        w = 4 * w / w.sum()
    assert weights(weighting) == pytest.approx((w / 4).tolist())


def test_gradnorm_alpha_zero_equalises_gradient_norms() -> None:
    weighting = make_weighting("gradnorm", gradnorm_alpha=0.0, lr_gradnorm=1e-3)
    norms = [1.0, 2.0, 4.0, 0.5]
    for _ in range(4000):
        weighting.learn(ALL, StepObservation(tensor([1.0] * 4), gramian=torch.diag(tensor(norms) ** 2)))
    assert weights(weighting) == pytest.approx(shares([1 / norm for norm in norms]), rel=0.02)


def similarity_observation(*objectives: float, end_task: float = 1.0) -> StepObservation:
    return StepObservation(tensor([1.0] * 4), GradientSimilarities(tensor(objectives), end_task, 0.0))


def test_ol_aux_updates_every_n_steps_from_summed_similarities() -> None:
    weighting = make_weighting("ol_aux", ol_aux_steps=2, lr_ol_aux=0.5, lambda_e=0.4)
    assert weights(weighting) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    for number, values in enumerate([(0.5, -0.5, -2.0), (0.1, -0.1, -2.0), (1.0, 1.0, 1.0)]):
        assert weighting.required_gradients(number + 1) == GradientQuery(compare="end_task", normalise=True)
        weighting.learn(ALL, similarity_observation(*values))
    u = [1 + 0.5 * 0.6, 1 - 0.5 * 0.6, 0.0]  # the third would be -1
    assert weights(weighting) == pytest.approx(shares([0.4, *(0.6 * value / 3 for value in u)]))


def test_ol_aux_all_zero_weights_train_the_end_task_only() -> None:
    weighting = make_weighting("ol_aux", ol_aux_steps=1, lr_ol_aux=1.0)
    weighting.learn(ALL, similarity_observation(-2.0, -2.0, -2.0))
    assert weights(weighting) == [1, 0, 0, 0]
    assert weighting.coefficients(ALL).objectives.tolist() == pytest.approx([1 / 3] * 3)


def test_dga_is_exponentiated_gradient_with_moving_average() -> None:
    weighting = make_weighting("dga", lr_dga=0.7, dga_ema=0.25, dga_every=3, lambda_e=0.6)
    assert [weighting.required_gradients(step).compare for step in (1, 2, 3, 6)] == ["", "", "own_head", "own_head"]
    alpha, average = [1 / 3] * 3, [1 / 3] * 3
    for values in ((0.5, -0.5, 0.1), (0.4, 0.2, -0.3), (1.0, 0.0, 0.0)):
        weighting.learn(ALL, similarity_observation(*values))
        weighting.learn(ALL, StepObservation(tensor([1.0] * 4)))  # a step without similarities
        alpha = shares([a * math.exp(0.7 * value) for a, value in zip(alpha, values, strict=True)])
        average = [0.75 * old + 0.25 * new for old, new in zip(average, alpha, strict=True)]
    assert weights(weighting) == pytest.approx([0.6, *(0.4 * a for a in average)])


def test_dga_without_moving_average_equals_doge() -> None:
    weighting = make_weighting("dga", lr_dga=0.7, dga_ema=1.0, lambda_e=0.5)
    weighting.learn(ALL, similarity_observation(0.5, -0.5, 0.1))
    assert weights(weighting)[1:] == pytest.approx(
        [w / 2 for w in shares([math.exp(0.7 * v) for v in (0.5, -0.5, 0.1)])]
    )


@pytest.mark.parametrize("seed", range(5))
def test_bargain_splits_gain_by_preferences(seed: int) -> None:
    g = gradients(seed)
    p = tensor(shares([1.0, 2.0, 0.1, 3.0]))
    alpha = bargain(g @ g.T, p)
    assert (alpha > 0).all()
    assert torch.allclose(alpha * (g @ (alpha @ g)), p, rtol=0, atol=1e-7)
    assert (alpha @ g).norm().item() == pytest.approx(1)


def test_bargain_of_opposite_gradients_is_finite() -> None:
    g = tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert bargain(g @ g.T, tensor([0.5, 0.5])).isfinite().all()


def test_hypergradient_equals_finite_differences() -> None:
    g, direction = gradients(), tensor([0.3, -0.2, 0.5, 0.1])
    p = tensor(shares([1.0, 2.0, 0.5, 3.0]))
    computed = hypergradient(g @ g.T, p, direction)
    for k in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[k] = 1e-5
        up, down = bargain(g @ g.T, p + step), bargain(g @ g.T, p - step)
        assert float(computed[k]) == pytest.approx(float(-direction @ (up - down)) / 2e-5, rel=1e-4)


def test_auxinash_weights_use_gradients_of_current_step() -> None:
    weighting = make_weighting("auxinash", preference_every=2)
    assert weighting.weights_from_current_step
    assert [weighting.required_gradients(step).compare for step in (1, 2)] == ["", "own_head"]
    g = gradients() * tensor([[1.0], [30.0], [0.1], [1.0]])
    weighting.learn(ALL, StepObservation(tensor([1.0] * 4), gramian=g @ g.T))
    update = tensor(weights(weighting)) @ g
    gains = tensor(weights(weighting)) * (g @ update)
    assert shares(gains.tolist()) == pytest.approx([0.25] * 4, abs=1e-6)


def test_auxinash_prefers_helpful_tasks_and_drops_zero_gradients() -> None:
    weighting = make_weighting("auxinash", lr_preference=0.05)
    assert isinstance(weighting, AuxiNash)
    G = torch.diag(tensor([1.0, 4.0, 9.0, 0.0]))
    for _ in range(5):
        similarities = GradientSimilarities(tensor([2.0, -3.0, 0.0]), 0.0, 0.0)
        weighting.learn(ALL, StepObservation(tensor([1.0] * 4), similarities, G))
    assert weighting.p[1] > weighting.p[0] > weighting.p[2]
    assert float(weighting.p.sum()) == pytest.approx(1)
    assert weights(weighting)[3] == 0
