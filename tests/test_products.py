"""Products of tasks' gradients with a dev gradient, by every engine, against a backward for each task in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import ROWS, ZOO, Animal

from raysearch.gradients import parameter_products
from raysearch.gradients.capture import Capture, Found
from raysearch.gradients.directional import check_along, difference, jvp
from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.task_gradients import Ahead, Look, Plain, Segmented, pieces_of

TASKS = {7: slice(0, 2), 3: slice(2, 4), 5: slice(4, 5), 1: slice(5, ROWS)}
LINES = (1, 3, 5, 7)  # in another order than their rows


@pytest.fixture(params=ZOO)
def animal(request: pytest.FixtureRequest) -> Animal:
    torch.manual_seed(0)
    return ZOO[request.param]()


def direction(animal: Animal) -> Tensor:
    """Any, but 0 on padding lines, which a backward takes for constant."""
    generator = torch.Generator().manual_seed(2)
    parts = {id(p): torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in animal.model.parameters()}
    for module in animal.model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            parts[id(module.weight)][module.padding_idx] = 0
    return torch.cat([part.flatten() for part in parts.values()])


def plain(animal: Animal) -> Plain:
    """A forward and a backward for each task."""
    parameters, rows = list(animal.model.parameters()), torch.arange(ROWS)
    return Plain(torch.stack([flat_gradient(animal.losses(rows[TASKS[t]]).sum(), parameters) for t in LINES]))


def segmented(animal: Animal, micro_batches: int) -> Segmented:
    """One forward for all, of every n-th row of each task at a time."""
    parameters = list(animal.model.parameters())
    capture, found = Capture(animal.model, parameters), []
    for i in range(micro_batches):
        own = {task: torch.arange(ROWS)[rows][i::micro_batches] for task, rows in TASKS.items()}
        own = {task: rows for task, rows in own.items() if len(rows)}
        rows, at = torch.cat(list(own.values())), 0
        with capture.watching(len(rows)):
            loss = animal.losses(rows).sum()
        where = {}
        for task, some in own.items():
            where[task], at = slice(at, at + len(some)), at + len(some)
        found.append((capture.pieces(loss)[0], where))
    return Segmented(pieces_of(parameters, found), LINES, parameters[0].detach())


def agree(found: Look, expected: Look) -> None:
    for name in ("along", "gramian", "sums"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("price", [0.0, 10.0, 1e9], ids=["lines", "cheaper", "positions"])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_products_norms_and_sums_are_those_of_a_backward_for_each_task(
    animal: Animal, price: float, micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameter_products, "PASS", price)
    weights = torch.tensor([[0.5, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 0.25, 1.0]], dtype=torch.float64)
    v, expected = direction(animal), plain(animal)
    found = segmented(animal, micro_batches)
    everything = expected.look(weights, v, norms=True, gramian=True)
    agree(found.look(weights, v, norms=True, gramian=True), everything)
    agree(found.look(weights, v, norms=True), expected.look(weights, v, norms=True))
    torch.testing.assert_close(expected.look(weights, v, norms=True).gramian, everything.gramian.diagonal().diag())
    agree(found.look(weights, v), expected.look(weights, v))
    only = found.look(weights, v)
    torch.testing.assert_close(only.along, everything.along, rtol=1e-10, atol=1e-12)
    assert not only.gramian.any()


@pytest.mark.parametrize("norms", [False, True])
def test_a_look_taken_as_the_backward_passes_by_is_the_same_to_the_bit(animal: Animal, norms: bool) -> None:
    parameters, v = list(animal.model.parameters()), direction(animal)
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.25, 1.0]], dtype=torch.float64)
    rows = torch.cat([torch.arange(ROWS)[own] for own in TASKS.values()])
    capture, ahead = Capture(animal.model, parameters), Ahead(parameters, LINES, TASKS, (weights, v, norms))
    with capture.watching(len(rows)):
        loss = animal.losses(rows).sum()
    taken: list[int] = []

    def take(number: int, found: Found) -> None:
        taken.append(number)
        ahead.take(number, found)

    kept = capture.pieces(loss, at_once=take)[0]
    ahead.finish(kept)
    assert sorted(taken) == [n for n, uses in enumerate(kept) if not uses]  # no factor is kept of what was taken
    found, expected = ahead.look(weights, v, norms=norms), segmented(animal, 1).look(weights, v, norms=norms)
    assert torch.equal(found.along, expected.along)
    assert torch.equal(found.gramian, expected.gramian)
    assert torch.equal(found.sums, expected.sums)
    agree(found, plain(animal).look(weights, v, norms=norms))


def by_forwards(animal: Animal, engine: str) -> Tensor:
    parameters, v = list(animal.model.parameters()), direction(animal)

    def losses() -> dict[int, Tensor]:
        each = animal.losses(torch.arange(ROWS))
        return {task: each[rows].sum() for task, rows in TASKS.items()}

    kept = [p.detach().clone() for p in parameters]
    if engine == "jvp":
        along = jvp(losses, animal.model, parameters, v)
    else:
        before = {task: loss.detach() for task, loss in losses().items()}
        along = difference(losses, before, parameters, v)
    assert all(torch.equal(p, before) for p, before in zip(parameters, kept, strict=True))
    return torch.stack([along[task] for task in LINES])


def test_jvp_is_the_product_with_each_gradient(animal: Animal) -> None:
    expected = plain(animal).g @ direction(animal)
    torch.testing.assert_close(by_forwards(animal, "jvp"), expected, rtol=1e-10, atol=1e-12)


class OneWay(torch.autograd.Function):
    """Has a backward, and no forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return gradient


def test_jvp_refuses_a_model_that_has_no_forward_mode_derivative() -> None:
    layer = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match="no forward-mode derivative, use engine: auto"):
        jvp(lambda: {0: OneWay.apply(layer(torch.ones(1, 2))).sum()}, layer, list(layer.parameters()), torch.ones(3))
    assert isinstance(layer.weight, torch.nn.Parameter)


def test_what_is_not_the_product_of_the_sum_is_refused() -> None:
    one = torch.tensor(1.0)
    check_along(one, one + 1e-4, one, 1e-3, "jvp")
    with pytest.raises(ValueError, match=r"engine 'jvp': .* add up to 1.000e\+00, .*; use engine: auto"):
        check_along(one, one + 1e-2, one, 1e-3, "jvp")


def test_difference_goes_with_the_products(animal: Animal) -> None:
    expected = plain(animal).g @ direction(animal)
    both = torch.stack([by_forwards(animal, "difference"), expected])
    assert torch.corrcoef(both)[0, 1] > 0.999
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert_sdpa", "shared_layers", "tied_embeddings"])
def test_under_bfloat16_products_are_those_of_a_backward_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    animal = ZOO[name]()
    animal.model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v, expected, found = direction(animal), plain(animal), segmented(animal, 1)
    ours, theirs = (gradients.look(torch.eye(len(LINES)), v, norms=True) for gradients in (found, expected))
    scale = float(theirs.gramian.diagonal().sqrt().max()) * float(v.norm())
    torch.testing.assert_close(ours.along / scale, theirs.along / scale, rtol=0, atol=2e-3)
    torch.testing.assert_close(ours.gramian.diagonal(), theirs.gramian.diagonal(), rtol=3e-2, atol=1e-6)
