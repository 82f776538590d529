"""Products of tasks' gradients with a dev gradient: every engine against one backward per task, in float64."""

from typing import Any

import pytest
import torch
from helpers.gradients import (
    TASK_ORDER,
    TASKS,
    dense_gradients,
    direction,
    factored_gradients,
    products_by_forward,
)
from helpers.models import EXAMPLES, MODEL_ZOO, ModelCase
from torch import Tensor

from raysearch.gradients import parameter_products
from raysearch.gradients.capture import LayerCapture, TaskFactor
from raysearch.gradients.directional import check_directional_derivatives, jvp
from raysearch.gradients.task_gradients import GradientSummary, StreamingTaskGradients, SummaryRequest


@pytest.fixture(params=MODEL_ZOO)
def model_case(request: pytest.FixtureRequest) -> ModelCase:
    torch.manual_seed(0)
    return MODEL_ZOO[request.param]()


def assert_same_summary(actual: GradientSummary, expected: GradientSummary) -> None:
    for name in ("products", "gramian", "sums"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pass_cost", [0.0, 10.0, 1e9], ids=["rows", "cheaper", "positions"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_task_gradient_summary_matches_plain_autograd(
    model_case: ModelCase, pass_cost: float, micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_products, "PASS_COST", pass_cost)
    weights = torch.tensor([[0.5, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 0.25, 1.0]], dtype=torch.float64)
    v, reference = direction(model_case), dense_gradients(model_case)
    gradients = factored_gradients(model_case, micro_batches)
    complete = reference.summarise(weights, v, norms=True, gramian=True)
    assert_same_summary(gradients.summarise(weights, v, norms=True, gramian=True), complete)
    with_norms = reference.summarise(weights, v, norms=True)
    assert_same_summary(gradients.summarise(weights, v, norms=True), with_norms)
    torch.testing.assert_close(with_norms.gramian, complete.gramian.diagonal().diag())
    without_norms = gradients.summarise(weights, v)
    assert_same_summary(without_norms, reference.summarise(weights, v))
    torch.testing.assert_close(without_norms.products, complete.products, rtol=1e-10, atol=1e-12)
    assert not without_norms.gramian.any()


@pytest.mark.parametrize("norms", [False, True])
def test_streaming_summary_is_bit_equal_to_the_factored_one(model_case: ModelCase, norms: bool) -> None:
    parameters, v = list(model_case.model.parameters()), direction(model_case)
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.25, 1.0]], dtype=torch.float64)
    batch = torch.cat([torch.arange(EXAMPLES)[examples] for examples in TASKS.values()])
    capture = LayerCapture(model_case.model, parameters)
    gradients = StreamingTaskGradients(parameters, TASK_ORDER, TASKS, SummaryRequest(weights, v, norms))
    with capture.recording(len(batch)):
        loss = model_case.losses(batch).sum()
    streamed: list[int] = []

    def add_parameter(number: int, use: TaskFactor) -> None:
        streamed.append(number)
        gradients.add_parameter(number, use)

    remaining = capture.collect_factors(loss, on_factor=add_parameter)[0]
    gradients.add_remaining(remaining)
    assert sorted(streamed) == [n for n, uses in enumerate(remaining) if not uses]  # no streamed factor is kept
    actual = gradients.summarise(weights, v, norms=norms)
    expected = factored_gradients(model_case, 1).summarise(weights, v, norms=norms)
    assert torch.equal(actual.products, expected.products)
    assert torch.equal(actual.gramian, expected.gramian)
    assert torch.equal(actual.sums, expected.sums)
    assert_same_summary(actual, dense_gradients(model_case).summarise(weights, v, norms=norms))


def test_jvp_matches_inner_products_with_task_gradients(model_case: ModelCase) -> None:
    expected = dense_gradients(model_case).g @ direction(model_case)
    torch.testing.assert_close(products_by_forward(model_case, "jvp"), expected, rtol=1e-10, atol=1e-12)


class BackwardOnly(torch.autograd.Function):
    """An operation with a backward but no forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return gradient


def test_jvp_without_forward_mode_derivative_is_rejected() -> None:
    layer = torch.nn.Linear(2, 1)

    def losses() -> dict[int, Tensor]:
        return {0: BackwardOnly.apply(layer(torch.ones(1, 2))).sum()}

    with pytest.raises(ValueError, match="no forward-mode derivative, use engine: auto"):
        jvp(losses, layer, list(layer.parameters()), torch.ones(3))
    assert isinstance(layer.weight, torch.nn.Parameter)


def test_directional_check_rejects_products_with_a_wrong_sum() -> None:
    one = torch.tensor(1.0)
    check_directional_derivatives(one, one + 1e-4, one, 1e-3, "jvp")
    with pytest.raises(ValueError, match=r"engine 'jvp': .* add up to 1.000e\+00, .*; use engine: auto"):
        check_directional_derivatives(one, one + 1e-2, one, 1e-3, "jvp")


def test_difference_approximates_the_inner_products(model_case: ModelCase) -> None:
    exact = dense_gradients(model_case).g @ direction(model_case)
    approximate = products_by_forward(model_case, "difference")
    assert torch.corrcoef(torch.stack([approximate, exact]))[0, 1] > 0.999
    torch.testing.assert_close(approximate, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert_sdpa", "shared_layers", "tied_embeddings"])
def test_task_gradients_in_bfloat16_match_autograd_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    model_case = MODEL_ZOO[name]()
    model_case.model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, reference, gradients = direction(model_case), dense_gradients(model_case), factored_gradients(model_case, 1)
    identity = torch.eye(len(TASK_ORDER))
    actual, expected = (g.summarise(identity, v, norms=True) for g in (gradients, reference))
    scale = float(expected.gramian.diagonal().sqrt().max()) * float(v.norm())
    torch.testing.assert_close(actual.products / scale, expected.products / scale, rtol=0, atol=2e-3)
    torch.testing.assert_close(actual.gramian.diagonal(), expected.gramian.diagonal(), rtol=3e-2, atol=1e-6)
