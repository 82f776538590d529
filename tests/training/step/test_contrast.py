from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.plans import MODEL, prepare_tiny_task, tiny_plan
from helpers.ranks import train_on_ranks
from torch import Generator, Tensor

from raysearch.distributed import ProcessGroup
from raysearch.gradients.flat import flat_gradient
from raysearch.rng import stream
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.context import TrainingContext
from raysearch.training.parameters import parameters_of
from raysearch.training.step.contrast import ContrastStep, draw_pairs
from raysearch.training.trainer import Trial, train


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def contrast_context(data: Path, **settings: object) -> TrainingContext:
    plan = tiny_plan(data, "end_task_only", schedule="contrast_then_probe", **settings)
    return TrainingContext.from_plan(plan, ProcessGroup())


def test_pairs_are_half_of_one_label_and_never_of_one_row() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 2, 0, 3])
    first, second = draw_pairs(labels, 4001, Generator().manual_seed(0))
    same = labels[first] == labels[second]
    assert same[:2000].all()
    assert not same[2000:].any()
    assert (first != second).all()


def test_pairs_are_drawn_uniformly() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 2])
    first, second = draw_pairs(labels, 60_000, Generator().manual_seed(0))
    pairs = Counter(zip(first.tolist(), second.tolist(), strict=True))
    of_0, of_1 = 30_000 / 5 / 2, 30_000 / 5  # five rows have a partner: two choices for label 0, one for label 1
    assert pairs[0, 2] == pytest.approx(of_0, rel=0.1)
    assert pairs[4, 2] == pytest.approx(of_0, rel=0.1)
    assert pairs[3, 1] == pytest.approx(of_1, rel=0.1)
    assert pairs[5, 0] == pytest.approx(30_000 / 6 / 5, rel=0.1)
    assert pairs[0, 3] == pytest.approx(30_000 / 6 / 3, rel=0.1)


def test_rows_without_partners_are_paired_with_themselves() -> None:
    first, second = draw_pairs(torch.tensor([0, 1, 2]), 20, Generator().manual_seed(0))
    assert torch.equal(first[:10], second[:10])
    with pytest.raises(ValueError, match="two labels"):
        draw_pairs(torch.tensor([1, 1]), 4, Generator())


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradient_is_that_of_the_squared_cosine_error(data: Path, micro_batches: int) -> None:
    context = contrast_context(data, dropout=0.0, contrast_pairs=7, micro_batches=micro_batches)
    ContrastStep(context)(5)
    actual = torch.cat([p.grad.flatten() for p in context.parameters if p.grad is not None])
    split, network = context.splits("train"), context.network
    labels = torch.tensor(split.labels)
    pairs = draw_pairs(labels, 7, stream(0, "contrast", 5))
    total: Tensor = torch.zeros(())
    for i, j in pairs.T.tolist():
        vectors = []
        for row in (i, j):
            batch = context.batches.end_task_batch(split, torch.tensor([row]))
            hidden = network.hidden(*batch.inputs)
            pooler = network.end_task.model.bert.pooler  # what bert's classifier reads
            vectors.append(pooler(hidden)[0])
        u, v = vectors
        cosine = (u @ v) / (u.norm() * v.norm())
        total = total + (cosine - float(labels[i] == labels[j])) ** 2 / 7
    torch.testing.assert_close(actual, flat_gradient(total, context.parameters), atol=1e-6, rtol=1e-3)


LENGTH, RATE = 60, 5e-3


def test_contrast_separates_the_labels(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(
        data,
        "end_task_only",
        schedule="contrast_then_probe",
        contrast_steps=LENGTH,
        contrast_lr=RATE,
        dropout=0.0,
        clip=0.0,
    )
    trial = Trial(plan, TrialFolder(tmp_path), ProcessGroup())

    def margin() -> float:
        X = torch.tensor(trial.network.head_inputs(trial.context.batches, trial.context.splits("select_dev")))
        X, y = torch.nn.functional.normalize(X), torch.tensor(trial.context.splits("select_dev").labels)
        same = y[:, None] == y
        return float((X @ X.T)[same].mean() - (X @ X.T)[~same].mean())

    before = margin()
    (report,) = trial.run()
    assert margin() > before + 0.3
    assert (report.step, report.evaluation["phase"], report.last) == (LENGTH + 1, "probe", True)
    assert report.evaluation["train_loss"] < 1.1  # of the probe alone


def test_contrast_that_is_cut_resumes_bit_equal(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", schedule="contrast_then_probe", checkpoint_every=2)
    whole = Trial(plan, TrialFolder(tmp_path / "whole"), ProcessGroup())
    list(whole.run())
    cut = Trial(plan, TrialFolder(tmp_path / "cut"), ProcessGroup())
    phase = cut.phases[0]
    cut.runner.begin(phase)
    for _ in range(2):
        cut.runner.advance(phase)
    cut._save(None)
    resumed = Trial(plan, TrialFolder(tmp_path / "cut"), ProcessGroup())
    assert resumed.runner.position.phase_step == 2
    list(resumed.run())
    for name, value in parameters_of(whole.network).items():
        assert torch.equal(parameters_of(resumed.network)[name], value), name


def test_numbers_cannot_be_contrasted(data: Path) -> None:
    context = contrast_context(data)
    context.splits("train").__dict__["labels"] = context.splits("train").labels.astype("float32")
    with pytest.raises(ValueError, match="contrasts classes"):
        ContrastStep(context)(1)


@pytest.mark.slow
def test_contrast_on_two_ranks_is_that_of_one(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", schedule="contrast_then_probe", dropout=0.0, contrast_lr=1e-3)
    (one,) = train_on_ranks(1, [plan], tmp_path)
    (two,) = train_on_ranks(2, [replace(plan, workers=2)], tmp_path)
    for name in [name for name in one[1] if name.startswith("body.")]:
        torch.testing.assert_close(two[1][name], one[1][name], atol=1e-4, rtol=1e-3)


def test_contrast_has_no_reports_of_its_own(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", schedule="contrast_then_probe")
    assert [report.step for report in train(plan, folder=tmp_path)] == [5]


def test_vectors_of_pairs_do_not_depend_on_padding(data: Path) -> None:
    gradients = []
    for micro_batches in (1, 4):
        settings = {"dropout": 0.0, "contrast_pairs": 8, "micro_batches": micro_batches}
        plan = tiny_plan(data, "end_task_only", schedule="contrast_then_probe", **settings)
        context = TrainingContext.from_plan(replace(plan, model=MODEL | {"pooling": "mean"}), ProcessGroup())
        ContrastStep(context)(1)
        gradients.append(torch.cat([p.grad.flatten() for p in context.body if p.grad is not None]))
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-3)
    assert gradients[0].norm() > 1e-6
