from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.ranks import train_on_ranks
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.modalities.losses import example_losses
from raysearch.training.checkpoint import load
from raysearch.training.context import TrainingContext
from raysearch.training.end_task_loss import EndTaskLoss, balanced_weights
from raysearch.training.step.basis_jacobian import BasisJacobian
from raysearch.training.step.update import Update
from raysearch.training.trainer import Trial, TrialFolder, train
from raysearch.training_settings import TrainingSettings

CPU = torch.device("cpu")
BOTH = {"label_smoothing": 0.2, "class_weights": "balanced"}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loss_of(labels: list[int] | np.ndarray, **settings: object) -> EndTaskLoss:
    return EndTaskLoss(TrainingSettings(**settings), np.asarray(labels), CPU)  # type: ignore[arg-type]


def test_default_loss_is_the_plain_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(loss_of(labels.numpy())(logits, labels), example_losses(logits, labels))


def test_smoothed_and_weighted_losses_by_hand() -> None:
    z, y = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]]), torch.tensor([0, 2])
    log_shares = z - z.exp().sum(dim=1, keepdim=True).log()
    smoothed = [-0.8 * log_shares[i, y[i]] - 0.2 / 3 * log_shares[i].sum() for i in (0, 1)]
    c = [6 / (3 * 3), 6 / (3 * 1)]  # of 0 and 2 among 0 0 0 1 1 2
    expected = torch.stack([c[0] * smoothed[0], c[1] * smoothed[1]])
    torch.testing.assert_close(loss_of([0, 0, 0, 1, 1, 2], **BOTH)(z, y), expected)


def test_balanced_weights_have_mean_1_over_the_examples() -> None:
    labels = np.array([0, 0, 0, 0, 3, 1])
    weights = balanced_weights(labels)
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert weights[2] == 0
    sums = [float(weights[labels][labels == label].sum()) for label in (0, 1, 3)]
    assert sums == pytest.approx([2.0, 2.0, 2.0])


def test_several_labels_are_weighted_label_by_label() -> None:
    labels = np.array([[0, 1], [0, 1], [0, 1], [1, 1]])
    loss = loss_of(labels, **BOTH)
    z = torch.tensor([[0.3, -0.2]])
    targets = torch.tensor([[0.9, 0.9]])
    of_labels = -(targets * torch.sigmoid(z).log() + (1 - targets) * torch.sigmoid(-z).log())
    expected = (of_labels * torch.tensor([[4 / (2 * 1), 4 / (1 * 4)]])).mean(dim=1)
    torch.testing.assert_close(loss(z, torch.tensor([[1, 1]])), expected)


def test_numbers_have_no_classes_to_smooth_or_weigh() -> None:
    numbers = np.array([0.5, 1.5], dtype=np.float32)
    for settings in ({"label_smoothing": 0.1}, {"class_weights": "balanced"}):
        with pytest.raises(ValueError, match="this task predicts numbers"):
            loss_of(numbers, **settings)
    assert float(loss_of(numbers)(torch.tensor([[1.0]]), torch.tensor([0.5]))[0]) == 0.25


def gradient(data: Path, engine: str, **more: object) -> Tensor:
    plan = tiny_plan(data, "static", "attittud", engine=engine, dropout=0.0, **BOTH | more)
    context = TrainingContext.from_plan(plan, ProcessGroup())
    context.network.double()
    (phase,) = Trial(plan, TrialFolder(data / "unused"), ProcessGroup()).phases
    Update(context)(phase, 1)
    return torch.cat([p.grad.flatten() for p in context.parameters if p.grad is not None])


@pytest.mark.usefixtures("in_float64")
def test_layer_products_are_those_of_backward_passes(data: Path) -> None:
    products, backward = gradient(data, "products"), gradient(data, "backward")
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, backward, atol=1e-10, rtol=1e-7)
    torch.testing.assert_close(gradient(data, "products", micro_batches=3), backward, atol=1e-10, rtol=1e-7)
    assert (gradient(data, "products", label_smoothing=0.0) - products).norm() > 1e-4


def test_basis_examples_have_the_loss_that_trains(data: Path) -> None:
    context = TrainingContext.from_plan(tiny_plan(data, "static", "attittud", dropout=0.0, **BOTH), ProcessGroup())
    update = Update(context)
    assert isinstance(update.basis, BasisJacobian)
    rows = torch.arange(4)
    batch = context.batches.end_task_batch(context.splits("train"), rows)
    logits = context.network.end_task(context.network.hidden(*batch.inputs))
    expected = loss_of(np.asarray(context.splits("train").labels), **BOTH)(logits, batch.targets.labels)
    torch.testing.assert_close(update.basis.losses(rows), expected)


def test_evaluations_have_plain_losses(data: Path, tmp_path: Path) -> None:
    common = {"steps": 2, "lr": 1e-12, "head_lr": 1e-12, "dropout": 0.0}
    (plain,) = train(tiny_plan(data, "end_task_only", **common), folder=tmp_path / "plain")
    (smoothed,) = train(tiny_plan(data, "end_task_only", **common, label_smoothing=0.5), folder=tmp_path / "smoothed")
    assert smoothed.evaluation["loss"] == pytest.approx(plain.evaluation["loss"], abs=1e-6)
    assert smoothed.evaluation["train_loss"] != plain.evaluation["train_loss"]


@pytest.mark.slow
def test_weighted_losses_on_two_ranks_are_those_of_one(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "static", "attittud", dropout=0.0, steps=4, **BOTH)
    (one,) = train_on_ranks(1, [plan], tmp_path)
    (two,) = train_on_ranks(2, [replace(plan, workers=2)], tmp_path)
    assert max(float((two[1][name] - value).abs().mean()) for name, value in one[1].items()) < 1e-5


def test_settings_at_their_defaults_change_nothing(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", steps=2)
    late = ("layer_decay", "reinit_layers", "weight_average", "adam_beta2", "label_smoothing", "class_weights")
    older = replace(plan, settings={name: value for name, value in plan.settings.items() if name not in late})
    assert older.key == plan.key
    for name, each in (("older", older), ("newer", plan)):
        list(train(each, folder=tmp_path / name))
    states = [load(tmp_path / name / "state.safetensors") for name in ("older", "newer")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1]["parameters"][name], value) for name, value in states[0]["parameters"].items())


@pytest.mark.parametrize("engine", ["jvp", "difference"])
def test_forward_engines_train_with_every_setting(data: Path, tmp_path: Path, engine: str) -> None:
    settings = BOTH | {"layer_decay": 0.8, "weight_average": 0.9, "reinit_layers": 1, "similarity": "dot"}
    plan = tiny_plan(data, "meta_tartan", steps=2, engine=engine, **settings)  # the engine checks its own products
    (report,) = train(plan, folder=tmp_path)
    assert report.last
