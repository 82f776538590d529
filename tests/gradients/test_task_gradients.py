"""Products of tasks' gradients with a dev gradient, by every engine, against a backward for each task in float64."""

from typing import Any

import pytest
import torch
from helpers.models import MODEL_ZOO, ROWS, ModelCase
from torch import Tensor

from raysearch.gradients import parameter_products
from raysearch.gradients.capture import LayerCapture, TaskFactor
from raysearch.gradients.directional import check_directional_derivatives, finite_differences, jvp
from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.task_gradients import (
    DenseTaskGradients,
    FactoredTaskGradients,
    GradientSummary,
    StreamingTaskGradients,
    SummaryRequest,
    group_by_parameter,
)

TASKS = {7: slice(0, 2), 3: slice(2, 4), 5: slice(4, 5), 1: slice(5, ROWS)}
TASK_ORDER = (1, 3, 5, 7)  # in another order than their rows


@pytest.fixture(params=MODEL_ZOO)
def model_case(request: pytest.FixtureRequest) -> ModelCase:
    torch.manual_seed(0)
    return MODEL_ZOO[request.param]()


def direction(model_case: ModelCase) -> Tensor:
    """Any, but 0 on padding lines, which a backward takes for constant."""
    generator = torch.Generator().manual_seed(2)
    parts = {id(p): torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model_case.model.parameters()}
    for module in model_case.model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            parts[id(module.weight)][module.padding_idx] = 0
    return torch.cat([part.flatten() for part in parts.values()])


def plain(model_case: ModelCase) -> DenseTaskGradients:
    """A forward and a backward for each task."""
    parameters, rows = list(model_case.model.parameters()), torch.arange(ROWS)
    return DenseTaskGradients(
        torch.stack([flat_gradient(model_case.losses(rows[TASKS[t]]).sum(), parameters) for t in TASK_ORDER])
    )


def factored_gradients(model_case: ModelCase, micro_batches: int) -> FactoredTaskGradients:
    """One forward for all, of every n-th row of each task at a time."""
    parameters = list(model_case.model.parameters())
    capture, found = LayerCapture(model_case.model, parameters), []
    for i in range(micro_batches):
        task_examples = {task: torch.arange(ROWS)[rows][i::micro_batches] for task, rows in TASKS.items()}
        task_examples = {task: rows for task, rows in task_examples.items() if len(rows)}
        rows, at = torch.cat(list(task_examples.values())), 0
        with capture.recording(len(rows)):
            loss = model_case.losses(rows).sum()
        where = {}
        for task, some in task_examples.items():
            where[task], at = slice(at, at + len(some)), at + len(some)
        found.append((capture.collect_factors(loss)[0], where))
    return FactoredTaskGradients(group_by_parameter(parameters, found), TASK_ORDER, parameters[0].detach())


def assert_same_summary(found: GradientSummary, expected: GradientSummary) -> None:
    for name in ("products", "gramian", "sums"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("price", [0.0, 10.0, 1e9], ids=["rows", "cheaper", "positions"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_task_gradient_summary_matches_plain_autograd(
    model_case: ModelCase, price: float, micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_products, "PASS_COST", price)
    weights = torch.tensor([[0.5, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 0.25, 1.0]], dtype=torch.float64)
    v, expected = direction(model_case), plain(model_case)
    found = factored_gradients(model_case, micro_batches)
    everything = expected.summarise(weights, v, norms=True, gramian=True)
    assert_same_summary(found.summarise(weights, v, norms=True, gramian=True), everything)
    assert_same_summary(found.summarise(weights, v, norms=True), expected.summarise(weights, v, norms=True))
    torch.testing.assert_close(expected.summarise(weights, v, norms=True).gramian, everything.gramian.diagonal().diag())
    assert_same_summary(found.summarise(weights, v), expected.summarise(weights, v))
    only = found.summarise(weights, v)
    torch.testing.assert_close(only.products, everything.products, rtol=1e-10, atol=1e-12)
    assert not only.gramian.any()


@pytest.mark.parametrize("norms", [False, True])
def test_streaming_summary_is_bit_equal_to_the_factored_one(model_case: ModelCase, norms: bool) -> None:
    parameters, v = list(model_case.model.parameters()), direction(model_case)
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.25, 1.0]], dtype=torch.float64)
    rows = torch.cat([torch.arange(ROWS)[task_examples] for task_examples in TASKS.values()])
    capture, ahead = (
        LayerCapture(model_case.model, parameters),
        StreamingTaskGradients(parameters, TASK_ORDER, TASKS, SummaryRequest(weights, v, norms)),
    )
    with capture.recording(len(rows)):
        loss = model_case.losses(rows).sum()
    taken: list[int] = []

    def take(number: int, found: TaskFactor) -> None:
        taken.append(number)
        ahead.add_parameter(number, found)

    kept = capture.collect_factors(loss, on_factor=take)[0]
    ahead.add_remaining(kept)
    assert sorted(taken) == [n for n, uses in enumerate(kept) if not uses]  # no factor is kept of what was taken
    found, expected = (
        ahead.summarise(weights, v, norms=norms),
        factored_gradients(model_case, 1).summarise(weights, v, norms=norms),
    )
    assert torch.equal(found.products, expected.products)
    assert torch.equal(found.gramian, expected.gramian)
    assert torch.equal(found.sums, expected.sums)
    assert_same_summary(found, plain(model_case).summarise(weights, v, norms=norms))


def products_by_forward(model_case: ModelCase, engine: str) -> Tensor:
    parameters, v = list(model_case.model.parameters()), direction(model_case)

    def losses() -> dict[int, Tensor]:
        each = model_case.losses(torch.arange(ROWS))
        return {task: each[rows].sum() for task, rows in TASKS.items()}

    kept = [p.detach().clone() for p in parameters]
    if engine == "jvp":
        along = jvp(losses, model_case.model, parameters, v)
    else:
        before = {task: loss.detach() for task, loss in losses().items()}
        along = finite_differences(losses, before, parameters, v)
    assert all(torch.equal(p, before) for p, before in zip(parameters, kept, strict=True))
    return torch.stack([along[task] for task in TASK_ORDER])


def test_jvp_matches_inner_products_with_task_gradients(model_case: ModelCase) -> None:
    expected = plain(model_case).g @ direction(model_case)
    torch.testing.assert_close(products_by_forward(model_case, "jvp"), expected, rtol=1e-10, atol=1e-12)


class BackwardOnly(torch.autograd.Function):
    """Has a backward, and no forward-mode derivative."""

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
    with pytest.raises(ValueError, match="no forward-mode derivative, use engine: auto"):
        jvp(
            lambda: {0: BackwardOnly.apply(layer(torch.ones(1, 2))).sum()},
            layer,
            list(layer.parameters()),
            torch.ones(3),
        )
    assert isinstance(layer.weight, torch.nn.Parameter)


def test_directional_check_rejects_products_with_a_wrong_sum() -> None:
    one = torch.tensor(1.0)
    check_directional_derivatives(one, one + 1e-4, one, 1e-3, "jvp")
    with pytest.raises(ValueError, match=r"engine 'jvp': .* add up to 1.000e\+00, .*; use engine: auto"):
        check_directional_derivatives(one, one + 1e-2, one, 1e-3, "jvp")


def test_difference_approximates_the_inner_products(model_case: ModelCase) -> None:
    expected = plain(model_case).g @ direction(model_case)
    both = torch.stack([products_by_forward(model_case, "difference"), expected])
    assert torch.corrcoef(both)[0, 1] > 0.999
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert_sdpa", "shared_layers", "tied_embeddings"])
def test_task_gradients_in_bfloat16_match_autograd_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    model_case = MODEL_ZOO[name]()
    model_case.model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, expected, found = direction(model_case), plain(model_case), factored_gradients(model_case, 1)
    ours, theirs = (gradients.summarise(torch.eye(len(TASK_ORDER)), v, norms=True) for gradients in (found, expected))
    scale = float(theirs.gramian.diagonal().sqrt().max()) * float(v.norm())
    torch.testing.assert_close(ours.products / scale, theirs.products / scale, rtol=0, atol=2e-3)
    torch.testing.assert_close(ours.gramian.diagonal(), theirs.gramian.diagonal(), rtol=3e-2, atol=1e-6)
