from dataclasses import replace
from pathlib import Path

import torch
from helpers.plans import tiny_plan
from torch import Generator

from raysearch.modalities.image.batches import GRID, ImageBatchBuilder
from raysearch.modalities.image.config import ImageTask
from raysearch.modalities.image.dataset import ImageSplit
from raysearch.modalities.image.primitives import COLOUR, colour, cut_out
from raysearch.modalities.loading import load_space
from raysearch.modalities.opening import prepare
from raysearch.objectives.objective import Objective
from raysearch.training.trainer import train

MODEL = {"image": "small_cnn", "widths": [4, 8], "norm": "batch"}
SPLIT = ImageSplit(
    pixels=torch.randint(0, 256, (20, 3, 16, 16), generator=Generator().manual_seed(0), dtype=torch.uint8).numpy(),
    labels=(torch.arange(20) % 4).int().numpy(),
)
BATCHES = ImageBatchBuilder(lambda _: SPLIT, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), probability=0.25)


def test_cut_out_square_has_the_mean_colour() -> None:
    view = cut_out(torch.rand(30, 3, 16, 16, generator=Generator().manual_seed(0)) + 1, 0.0, Generator().manual_seed(1))
    assert (view.pixels[view.changed[:, None].expand_as(view.pixels)] == 0).all()
    areas = view.changed.sum((1, 2))
    assert areas.max() <= 8 * 8
    assert areas.min() >= 3 * 3


def test_colour_of_grey_image_is_one_shade_within_bounds() -> None:
    view = colour(torch.zeros(50, 3, 8, 8), 0.0, Generator().manual_seed(0))
    assert torch.allclose(view.pixels, view.pixels[:, :1, :1, :1].expand_as(view.pixels))
    assert view.pixels.abs().max() <= COLOUR


def test_image_views_of_an_image_follow_one_another() -> None:
    objective = Objective(data="end_task", transform="crop_flip", representation="full", output="agree")
    batch = BATCHES.objective_batch(objective, 5, Generator().manual_seed(0))
    assert (len(batch), batch.group, batch.targets.rows_total) == (10, 2, 5)
    assert torch.equal(batch.targets.labels[0::2], batch.targets.labels[1::2])
    assert not torch.equal(batch.inputs[0][0::2], batch.inputs[0][1::2])


def test_image_features_are_mean_brightness_of_cells() -> None:
    features = BATCHES.features(SPLIT, torch.tensor([3]).numpy()).toarray()
    assert features.shape == (1, 3 * GRID * GRID)
    cell = SPLIT.pixels[3][0, :2, :2].astype(float).mean()
    assert abs(features[0, 0] - cell) <= 0.5


def test_image_ssl_objectives_train(tmp_path: Path) -> None:
    prepare(ImageTask(name="digits"), MODEL, tmp_path / "data")
    settings = {"aux_batch_size": 70, "guess_purity": 0.1, "guess_pool": 50, "guess_guard": "off", "steps": 2}
    plan = replace(
        tiny_plan(tmp_path / "data", "static", "attittud", **settings),
        objectives=load_space("image_ssl").objectives,
        model=MODEL,
    )
    reports = list(train(plan, folder=tmp_path / "trial"))
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    assert any(row["kind"] == "teacher" and row["stage"] == "used" for row in rows)
