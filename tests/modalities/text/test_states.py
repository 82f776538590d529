"""Cached states of frozen layers, and gradients of what is trained above them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.encoders import ENCODERS, LAYERS, encoder_context, encoder_plan, prepare_encoder
from torch import Tensor

from raysearch.data import arrays
from raysearch.data.folds import LABELLED
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.base import END_TASK
from raysearch.plan import TrialPlan
from raysearch.training.context import TrainingContext
from raysearch.training.step.update import Update
from raysearch.training.trainer import train

JOINT = Phase(name="joint", steps=10, lr=1e-3, head_lr=1e-3)
TRAINED = [{"trained_layers": 1}, {"trained_layers": 2, "lora_rank": 2}, {"lora_rank": 2}]


@pytest.fixture
def model(tiny_task: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    return {**prepare_encoder(tiny_task, tmp_path / "encoders"), "pooling": "mean"}


def uncached(plan: TrialPlan) -> TrialPlan:
    return replace(plan, settings=plan.settings | {"cache_states": "off"})


def gradients(context: TrainingContext) -> Tensor:
    update = Update(context)
    update(JOINT, 1)
    return torch.cat([p.grad.flatten() for p in context.parameters])


def cached_files(plan: TrialPlan) -> list[Path]:
    return sorted((Path(plan.task["data"]) / "states").glob("*"))


@pytest.mark.parametrize("model_type", ENCODERS)
def test_collated_states_give_the_hidden_states_without_them(
    tiny_task: dict[str, str], tmp_path: Path, model_type: str
) -> None:
    model = {**prepare_encoder(tiny_task, tmp_path / "encoders", model_type), "pooling": "mean"}
    plan = encoder_plan(tiny_task, tmp_path, model, trained_layers=1)
    hidden = []
    for each in (plan, uncached(plan)):
        context = encoder_context(each)
        generator, rows = torch.Generator().manual_seed(3), torch.tensor([0, 5, 2])
        end_task = context.batches.end_task_batch(context.splits("train"), rows)
        objective = context.batches.objective_batch(plan.objectives[2], 4, generator)
        assert (len(end_task.inputs) == 5) == (each is plan)
        context.network.eval()
        with torch.no_grad():
            together = context.network.hidden(*context.batches.collate([objective, end_task]))
            alone = context.network.hidden(*end_task.inputs)
        visible = context.batches.collate([objective, end_task])[1]
        real = torch.cat(
            [
                torch.nn.functional.pad(b.targets.real, (0, visible.shape[1] - b.targets.real.shape[1]))
                for b in (objective, end_task)
            ]
        )
        hidden.append((together[real], alone[end_task.targets.real]))
    for with_cache, without in zip(*hidden, strict=True):
        torch.testing.assert_close(with_cache, without, atol=5e-3, rtol=1e-2)
    assert len(cached_files(plan)) == 1


@pytest.mark.parametrize(
    ("methods", "settings"),
    [
        (("static", "none"), {}),
        (("static", "attittud"), {"k": 3, "m": 6}),
        (("dga", "none"), {"dga_every": 1}),
        (("static", "pcgrad"), {"micro_batches": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "trained", [{"trained_layers": 1}, {"trained_layers": 2, "lora_rank": 2}, {"lora_rank": 2}], ids=str
)
def test_products_of_trained_part_equal_backward_in_float64(
    tiny_task: dict[str, str],
    tmp_path: Path,
    model: dict[str, Any],
    methods: tuple[str, ...],
    settings: dict[str, Any],
    trained: dict[str, int],
) -> None:
    if "lora_rank" in trained:
        pytest.importorskip("peft")
    plan = encoder_plan(tiny_task, tmp_path, model, *methods, dropout=0.0, **trained, **settings)
    computed = []
    for engine in ("auto", "backward"):
        context = encoder_context(replace(plan, settings=plan.settings | {"engine": engine}), torch.float64)
        for name, parameter in context.network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
        torch.set_default_dtype(torch.float64)
        try:
            computed.append(gradients(context))
        finally:
            torch.set_default_dtype(torch.float32)
    assert computed[0].abs().max() > 1e-3
    torch.testing.assert_close(computed[0], computed[1], rtol=1e-8, atol=1e-10)
    if "lora_rank" in trained:
        names = [n for n, p in context.network.body.named_parameters() if p.requires_grad]
        assert names
        assert all("lora_" in name for name in names)


@pytest.mark.parametrize("engine", ["products", "jvp", "difference"])
def test_every_engine_sees_the_same_products_beside_a_cache(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any], engine: str
) -> None:
    settings = {"similarity": "dot", "dropout": 0.0, "trained_layers": 1}
    plan = encoder_plan(tiny_task, tmp_path, model, "meta_tartan", **settings)
    products = []
    for each in (engine, "backward"):
        update = Update(encoder_context(replace(plan, settings=plan.settings | {"engine": each})))
        update(JOINT, 1)
        assert update.last_similarities is not None
        products.append(update.last_similarities[1].objectives)
    tolerance = {"rtol": 0.1, "atol": 5e-3} if engine == "difference" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(*products, **tolerance)


def test_gradients_with_cached_states_equal_those_without(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any]
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, model, "meta_tartan", dropout=0.0, trained_layers=2)
    with_cache, without = (gradients(encoder_context(each)) for each in (plan, uncached(plan)))
    assert (with_cache - without).norm() < 5e-3 * without.norm()


def test_objectives_on_transformed_text_run_through_all_layers(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any]
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, model, dropout=0.0, trained_layers=1)
    context = encoder_context(plan)
    update = Update(context)
    step, _ = update._describe(JOINT, 1, torch.Generator().manual_seed(0))
    batches = update.batches.draw(step, torch.Generator().manual_seed(0))
    assert {task: len(batch.inputs) > 3 for task, batch in batches} == {task: task == END_TASK for task, _ in batches}


def test_frozen_layers_have_no_gradient_and_no_dropout(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any]
) -> None:
    context = encoder_context(encoder_plan(tiny_task, tmp_path, model, "end_task_only", trained_layers=1, dropout=0.5))
    network = context.network
    network.eval()
    network.train()
    layers = network.body.encoder.layer
    assert [any(p.requires_grad for p in layer.parameters()) for layer in layers] == [False] * (LAYERS - 1) + [True]
    assert not any(p.requires_grad for p in network.body.embeddings.parameters())
    batch = context.batches.end_task_batch(context.splits("train"), torch.arange(4))
    first, second = (network.frozen_states(*batch.inputs[:2]) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(network.hidden(*batch.inputs), network.hidden(*batch.inputs))


def test_damaged_and_partial_files_are_computed_again(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any]
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, model, "end_task_only", trained_layers=1)

    def states() -> Tensor:
        context = encoder_context(plan)
        arrays.checked.clear()
        return context.batches.end_task_batch(context.splits("train"), torch.arange(6)).inputs[3]

    expected = states()
    (file,) = cached_files(plan)
    whole = file.read_bytes()
    assert torch.equal(states(), expected)
    for damaged in (whole[: len(whole) // 2], whole[:-100] + b"\x01" * 100, b"", whole[:3000] + b"\x7f" + whole[3001:]):
        file.write_bytes(damaged)
        assert torch.equal(states(), expected)
        assert file.read_bytes() == whole
    assert cached_files(plan) == [file]


def test_other_layers_or_lengths_have_other_files(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any]
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, model, "end_task_only", trained_layers=1)
    for count, changed in enumerate(({}, {"trained_layers": 2}, {"max_length": 12}, {"dropout": 0.4, "lr": 1.0}), 1):
        context = encoder_context(replace(plan, settings=plan.settings | changed))
        context.batches.end_task_batch(context.splits("train"), torch.arange(2))
        assert len(cached_files(plan)) == min(count, 3)


@pytest.mark.parametrize("pooling", ["first", "mean", "max", "head"])
def test_head_inputs_of_a_frozen_encoder_come_from_the_cache(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any], pooling: str
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, model | {"pooling": pooling}, "end_task_only", trained_layers=0)
    inputs = []
    for each in (plan, uncached(plan)):
        context = encoder_context(each)
        inputs.append(context.network.head_inputs(context.batches, context.splits("train")))
    np.testing.assert_allclose(*inputs, atol=1e-5 if pooling != "head" else 5e-3)
    values = np.load(cached_files(plan)[0], mmap_mode="r")
    assert (values.dtype == np.float32) == (pooling != "head")


def test_folds_read_the_files_of_the_prepared_splits(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any]
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, model, "end_task_only", trained_layers=1)
    context = encoder_context(plan)
    prepared = [context.splits(name) for name in LABELLED]
    for split in prepared:
        context.batches.end_task_batch(split, torch.arange(2))
    files = cached_files(plan)
    for fold in range(3):
        folded = encoder_context(replace(plan, folds=3, fold=fold))
        for name in ("train", "select_dev"):
            split, rows = folded.splits(name), torch.arange(5)
            assert len(split) not in {len(each) for each in prepared}
            with torch.no_grad():
                cached = folded.batches.end_task_batch(split, rows).inputs
                computed = folded.network.frozen_states(*cached[:2])
            real = folded.batches.end_task_batch(split, rows).targets.real
            torch.testing.assert_close(cached[3][real].float(), computed[real], atol=5e-3, rtol=1e-2)
    assert cached_files(plan) == files


@pytest.mark.parametrize(("trained", "precision"), [(0, "float32"), (1, "float32"), (1, "bfloat16")])
def test_training_with_cached_states_ends_where_it_does_without(
    tiny_task: dict[str, str], tmp_path: Path, model: dict[str, Any], trained: int, precision: str
) -> None:
    settings = {"trained_layers": trained, "precision": precision, "dropout": 0.0, "steps": 20, "eval_every": 20}
    plan = encoder_plan(tiny_task, tmp_path, model, "end_task_only", **settings)
    losses = [
        [report.evaluation["loss"] for report in train(each, folder=tmp_path / name)]
        for name, each in (("with", plan), ("without", uncached(plan)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert len(cached_files(plan)) == 2
