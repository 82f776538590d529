"""The dev gradient as the authors' code of META-TARTAN and AANG has it: fresh rows and dropout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from torch import Tensor, nn

from raysearch.distributed import ProcessGroup
from raysearch.methods.weighting.settings import MetaTartanSettings
from raysearch.rng import number_of, stream
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.step.dev_head import split_dev_rows
from raysearch.training.trainer import Trial

SETTINGS: dict[str, Any] = {
    "dev_head_examples": 7,
    "meta_batch_size": 5,
    "dev_head_steps": 3,
    "dev_head_tolerance": 0.0,
}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def trial_of(data: Path, folder: Path, **settings: Any) -> Trial:
    plan = tiny_plan(data, "meta_tartan", **SETTINGS | settings)
    return Trial(plan, TrialFolder(folder), ProcessGroup())


def dev_gradient(trial: Trial, step: int) -> Tensor:
    v = trial.update.dev_gradients.compute("dev_head", step)
    assert v is not None
    return v


@pytest.mark.parametrize("split", ["meta_dev", "train"])
def test_fresh_dev_head_rows_differ_at_each_step(split: str) -> None:
    fixed = MetaTartanSettings(**SETTINGS, dev_head_split=split)
    fresh = MetaTartanSettings(**SETTINGS, dev_head_split=split, dev_head_rows="fresh")

    def fitting_rows(settings: MetaTartanSettings, step: int) -> list[int]:
        fitting, meta = split_dev_rows(40, 60, settings, stream(0, "meta", step))
        assert len(fitting) == len(set(fitting.tolist())) == 7
        assert split == "train" or not {*fitting.tolist()} & {*meta.tolist()}
        return fitting.tolist()

    assert fitting_rows(fixed, 1) == fitting_rows(fixed, 2)
    assert fitting_rows(fresh, 1) != fitting_rows(fresh, 2)
    assert fitting_rows(fresh, 1) == fitting_rows(fresh, 1)
    drawn = [row for step in range(100) for row in fitting_rows(fresh, step)]
    assert set(drawn) == set(range(40 if split == "meta_dev" else 60))


def by_hand(trial: Trial, step: int) -> Tensor:
    """The dev gradient with dropout in body and head, and fresh rows."""
    context, settings, seed = trial.context, trial.plan.method_settings("weighting"), trial.plan.seed
    chance, splits = stream(seed, "meta", step), context.splits
    fitting, meta = split_dev_rows(len(splits("meta_dev")), len(splits("train")), settings, chance)
    meta = meta[torch.randperm(len(meta), generator=chance)[:5]] if len(meta) > 5 else meta
    torch.manual_seed(number_of(seed, "dev dropout", step))
    trial.network.train()

    def encode(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch = context.batches.end_task_batch(splits("meta_dev"), rows)
        return trial.network.hidden(*batch.inputs)[:, 0], batch.targets.labels

    with torch.no_grad():
        features, labels = encode(fitting)
    width, share = features.shape[1], 0.3
    head = nn.Sequential(
        nn.Dropout(share), nn.Linear(width, width), nn.Tanh(), nn.Dropout(share), nn.Linear(width, context.classes)
    )
    for layer in (head[1], head[4]):
        for parameter in (layer.weight, layer.bias):
            bound = width**-0.5
            parameter.data = torch.rand(parameter.shape, generator=chance) * 2 * bound - bound
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.dev_head_lr, weight_decay=0.1, betas=(0.9, 0.98))
    for _ in range(settings.dev_head_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), labels).backward()
        optimizer.step()
    hidden, targets = encode(meta)
    loss = nn.functional.cross_entropy(head(hidden), targets)
    g = torch.autograd.grad(loss, context.body, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in g])


def test_dev_gradient_with_dropout_equals_it_by_hand(data: Path, tmp_path: Path) -> None:
    settings = {"dev_dropout": True, "dev_head_rows": "fresh", "dropout": 0.2, "head_dropout": 0.3}
    trial = trial_of(data, tmp_path, **settings)
    for step in (1, 2):
        torch.testing.assert_close(dev_gradient(trial, step), by_hand(trial, step), rtol=1e-4, atol=1e-7)
    assert trial.network.training


def test_dev_dropout_leaves_the_masks_of_the_step_as_they_are(data: Path, tmp_path: Path) -> None:
    trial = trial_of(data, tmp_path, dev_dropout=True, dropout=0.3)
    first = dev_gradient(trial, 2)
    after = torch.get_rng_state()
    trial.context.seed_dropout(2)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(dev_gradient(trial, 2), first)
    assert not torch.equal(dev_gradient(trial_of(data, tmp_path / "off", dropout=0.3), 2), first)
