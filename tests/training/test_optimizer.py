from pathlib import Path

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.resume import assert_resume_is_bit_equal

from raysearch.distributed import ProcessGroup
from raysearch.methods.schedule.phases import Phase
from raysearch.training.context import TrainingContext
from raysearch.training.optimizer import make_optimizer, optimizer_step

PHASE = Phase(name="joint", steps=10, lr=1e-3, head_lr=4e-3, has_constant_lr=True)


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def rates(data: Path, **settings: object) -> dict[str, float]:
    """Returns the rate of each parameter after a step."""
    context = TrainingContext.from_plan(tiny_plan(data, **settings), ProcessGroup())
    optimizer = make_optimizer(context.network, context.training)
    optimizer_step(optimizer, context.network, context.training, PHASE, 1)
    of_parameter = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: of_parameter[id(p)] for name, p in context.network.named_parameters()}
    assert len(of_parameter) == len(named)
    return named


def test_rates_decay_from_the_top_layer_to_the_embeddings(data: Path) -> None:
    for name, rate in rates(data, layer_decay=0.5).items():
        power = 2 if ".embeddings." in name else 1 if ".layer.0." in name else 0
        expected = 1e-3 * 0.5**power if name.startswith("body.") else 4e-3
        assert rate == pytest.approx(expected), name


def test_without_decay_there_are_three_groups(data: Path) -> None:
    assert set(rates(data).values()) == {1e-3, 4e-3}
    context = TrainingContext.from_plan(tiny_plan(data), ProcessGroup())
    assert len(make_optimizer(context.network, context.training).param_groups) == 3


def test_weight_decay_is_that_of_matrices_in_every_layer(data: Path) -> None:
    context = TrainingContext.from_plan(tiny_plan(data, layer_decay=0.9, weight_decay=0.03), ProcessGroup())
    *of_body, of_heads = make_optimizer(context.network, context.training).param_groups
    for group in of_body:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.03) for p in group["params"])
    assert of_heads["weight_decay"] == 0.1


def test_adams_second_decay_is_a_setting(data: Path) -> None:
    for settings, expected in (({}, 0.98), ({"adam_beta2": 0.999}, 0.999)):
        context = TrainingContext.from_plan(tiny_plan(data, **settings), ProcessGroup())
        assert make_optimizer(context.network, context.training).defaults["betas"] == (0.9, expected)


def test_frozen_parameters_are_in_no_group(data: Path) -> None:
    context = TrainingContext.from_plan(tiny_plan(data, layer_decay=0.5), ProcessGroup())
    frozen = dict(context.network.named_parameters())["body.embeddings.word_embeddings.weight"]
    frozen.requires_grad_(False)
    groups = make_optimizer(context.network, context.training).param_groups
    assert all(p is not frozen for group in groups for p in group["params"])


@pytest.mark.parametrize(("weighting", "surgery"), [("end_task_only", "none"), ("aang", "attittud")])
def test_decayed_rates_resume_bit_equal(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    plan = tiny_plan(data, weighting, surgery, layer_decay=0.7, reinit_layers=1, micro_batches=2)
    assert_resume_is_bit_equal(plan, tmp_path)


def test_adam_corrects_the_bias_of_its_means(data: Path) -> None:
    context = TrainingContext.from_plan(tiny_plan(data, weight_decay=0.0, clip=0.0), ProcessGroup())
    optimizer = make_optimizer(context.network, context.training)
    before = [p.detach().clone() for p in context.body]
    for p in context.network.parameters():
        p.grad = torch.ones_like(p)
    optimizer_step(optimizer, context.network, context.training, PHASE, 1)
    for p, old in zip(context.body, before, strict=True):  # without correction: 1e-3 * 0.1 / sqrt(0.02)
        torch.testing.assert_close(old - p.detach(), torch.full_like(p, 1e-3), atol=1e-6, rtol=1e-3)


def test_clip_apart_clips_body_and_heads_each_to_the_norm(data: Path) -> None:
    clipped = {}
    for is_apart in (False, True):
        context = TrainingContext.from_plan(tiny_plan(data, clip=1.0, clip_apart=is_apart), ProcessGroup())
        sides = context.network.body_parameters(), context.network.head_parameters()
        for size, side in zip((3.0, 0.5), sides, strict=True):
            count = sum(p.numel() for p in side)
            for parameter in side:
                parameter.grad = torch.full_like(parameter, size / count**0.5)
        optimizer_step(make_optimizer(context.network, context.training), context.network, context.training, PHASE, 1)
        clipped[is_apart] = [float(torch.cat([p.grad.flatten() for p in side]).norm()) for side in sides]
    whole = (3.0**2 + 0.5**2) ** 0.5
    assert clipped[False] == pytest.approx([3.0 / whole, 0.5 / whole], rel=1e-4)
    assert clipped[True] == pytest.approx([1.0, 0.5], rel=1e-4)


def test_head_dropout_is_that_of_the_heads_alone(data: Path) -> None:
    network = TrainingContext.from_plan(tiny_plan(data, dropout=0.1, head_dropout=0.3), ProcessGroup()).network
    sides = {"body": network.body, "end_task": network.end_task, "heads": network.heads}
    shares = {
        name: {layer.p for layer in side.modules() if isinstance(layer, torch.nn.Dropout)}
        for name, side in sides.items()
    }
    assert shares == {"body": {0.1}, "end_task": {0.3}, "heads": {0.3}}
