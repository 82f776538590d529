import math

import pytest
import torch
from torch import Generator, nn

from raysearch.modalities.batch import Targets
from raysearch.modalities.image.batches import ImageBatchBuilder
from raysearch.modalities.image.dataset import ImageSplit
from raysearch.modalities.image.primitives import HIDDEN, NOISE, patches, reconstruct
from raysearch.modalities.image.taxonomy import TAXONOMY
from raysearch.modalities.loading import load_space
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES
from raysearch.training.metrics import score

TRANSFORMS, REPRESENTATIONS = TAXONOMY.functions("transform"), TAXONOMY.functions("representation")
SPLIT = ImageSplit(
    pixels=torch.randint(0, 256, (20, 3, 16, 16), generator=Generator().manual_seed(0), dtype=torch.uint8).numpy(),
    labels=(torch.arange(20) % 4).int().numpy(),
)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
BATCHES = ImageBatchBuilder(lambda _: SPLIT, MEAN, STD, probability=0.25)


def images(b: int = 64, side: int = 16) -> torch.Tensor:
    return torch.randn(b, 3, side, side, generator=Generator().manual_seed(1))


def objective(name: str) -> Objective:
    return Objective(**dict(zip(STAGES, name.split("/"), strict=True)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_image_transform_is_pure_and_seeded(name: str) -> None:
    pixels = images()
    before = pixels.clone()
    first, again, other = (TRANSFORMS[name](pixels, 0.25, Generator().manual_seed(seed)) for seed in (2, 2, 3))
    assert torch.equal(pixels, before)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.pixels, other.pixels) == (name == "none")
    assert torch.equal(first.pixels, first.original) == (not first.changed.any())
    unchanged = ~first.changed[:, None].expand_as(pixels)
    assert torch.equal(first.pixels[unchanged], first.original[unchanged])


def test_crop_flip_is_a_window_of_the_padded_or_mirrored_image() -> None:
    pixels = images(8)
    view = TRANSFORMS["crop_flip"](pixels, 0.25, Generator().manual_seed(0))
    wide = nn.functional.pad(pixels, (2, 2, 2, 2))
    for moved, whole in zip(view.pixels, wide, strict=True):
        windows = [whole[:, r : r + 16, c : c + 16] for r in range(5) for c in range(5)]
        assert any(torch.equal(moved, w) or torch.equal(moved, w.flip(2)) for w in windows)


def test_patch_mask_replaces_whole_patches_by_the_mean() -> None:
    view = TRANSFORMS["patch_mask"](images(400), 0.25, Generator().manual_seed(0))
    assert (view.pixels[view.changed[:, None].expand_as(view.pixels)] == 0).all()
    whole = view.changed.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).float().mean(3)
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    assert whole.mean().item() == pytest.approx(0.25, abs=0.01)


def test_noise_has_the_declared_standard_deviation() -> None:
    view = TRANSFORMS["noise"](images(200), 0.25, Generator().manual_seed(0))
    assert (view.pixels - view.original).std().item() == pytest.approx(NOISE, rel=0.02)


def test_rotate_is_undone_by_its_recorded_turns() -> None:
    pixels = images()
    view = TRANSFORMS["rotate"](pixels, 0.25, Generator().manual_seed(0))
    assert set(view.turns.tolist()) == {0, 1, 2, 3}
    for turned, turns, image in zip(view.pixels, view.turns, pixels, strict=True):
        assert torch.equal(turned.rot90(-int(turns), (1, 2)), image)


def test_masked_patches_hides_half_and_full_hides_nothing() -> None:
    hidden = REPRESENTATIONS["masked_patches"](images(400), Generator().manual_seed(0))
    assert hidden.float().mean().item() == pytest.approx(HIDDEN, abs=0.01)
    assert not REPRESENTATIONS["full"](images(), Generator()).any()


@pytest.mark.parametrize("side", [8, 9, 28, 36])
def test_patches_cover_images_of_any_size(side: int) -> None:
    assert patches(images(2, side), 1.0, Generator()).all()


# ---- batches ----


def test_end_task_image_batch_is_normalised_without_augmentation() -> None:
    rows = torch.tensor([3, 5])
    group = BATCHES.end_task_batch(SPLIT, rows)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    back = (group.inputs[0] * std + mean) * 255
    torch.testing.assert_close(back, torch.from_numpy(SPLIT.pixels[rows]).float(), atol=1e-3, rtol=0)
    assert group.targets.labels.tolist() == [3, 1]


def test_rotation_labels_are_turns_and_other_labels_are_stored() -> None:
    turned = BATCHES.objective_batch(objective("auxiliary/rotate/full/rotation"), 40, Generator().manual_seed(0))
    labelled = BATCHES.objective_batch(
        objective("auxiliary/rotate/full/auxiliary_label"), 40, Generator().manual_seed(0)
    )
    assert torch.equal(turned.inputs[0], labelled.inputs[0])
    assert not torch.equal(turned.targets.labels, labelled.targets.labels)
    for shown, turns, original in zip(turned.inputs[0], turned.targets.labels, labelled.inputs[0], strict=True):
        assert torch.equal(shown, original)
        assert 0 <= int(turns) < 4


def test_reconstruct_targets_select_the_hidden_pixels() -> None:
    masked = BATCHES.objective_batch(
        objective("end_task/none/masked_patches/reconstruct"), 10, Generator().manual_seed(0)
    )
    hidden = masked.targets.selected
    assert hidden.any()
    assert not hidden.all()
    assert (masked.inputs[0][hidden[:, None].expand_as(masked.inputs[0])] == 0).all()
    assert masked.targets.selected_total == int(hidden.sum())
    whole = BATCHES.objective_batch(objective("end_task/none/full/reconstruct"), 10, Generator().manual_seed(0))
    assert whole.targets.selected.all()


@pytest.mark.parametrize("space", ["image", "image_td", "auxiliary_label"])
def test_image_batch_slices_of_all_ranks_form_the_batch(space: str) -> None:
    for one in load_space(space).objectives:
        group = BATCHES.objective_batch(one, 7, Generator().manual_seed(0))
        parts = [group.slice(rank, 2) for rank in range(2)]
        assert sum(len(part) for part in parts) == 7
        assert torch.equal(parts[1].inputs[0], group.inputs[0][1::2])
        assert torch.equal(parts[0].targets.labels, group.targets.labels[::2])
        assert torch.equal(parts[0].targets.selected, group.targets.selected[::2])


def test_reconstruct_loss_counts_only_selected_pixels() -> None:
    original = torch.zeros(2, 3, 4, 4)
    selected = torch.zeros(2, 4, 4, dtype=torch.bool)
    selected[0, 0, 0] = selected[1, :2] = True
    prediction = torch.ones(2, 3, 4, 4)
    prediction[0, :, 0, 0] = 2.0
    prediction[:, :, 3] = 100.0  # not selected
    targets = Targets(original, selected, torch.empty(0), int(selected.sum()), rows_total=4)
    loss = reconstruct(torch.zeros(2, 1, 5), targets, lambda _: prediction)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx((4.0 + 1.0) / 4)


# ---- scores ----


def test_macro_f1_counts_an_absent_class_as_zero() -> None:
    labels, logits = torch.tensor([0, 0, 1]), torch.eye(3)[[0, 0, 1]]
    assert score("macro_f1", labels, logits) == pytest.approx(2 / 3)
    assert score("accuracy", labels, logits) == 1.0
    assert score("micro_f1", labels, logits) == 1.0


def test_mean_auc_skips_constant_labels() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]])
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 5.0, 1.0], [3.0, 2.0, 2.0], [0.0, 1.0, 3.0]])
    assert score("mean_auc", labels, logits) == pytest.approx((1.0 + 0.0) / 2)
    assert score("mean_auc", labels[:, 1:2].repeat(1, 2), logits[:, :2]) == 0.5
    assert math.isfinite(score("macro_f1", labels, logits))


def test_mean_auc_of_single_label_averages_over_classes() -> None:
    labels, logits = torch.tensor([0, 1, 0, 1]), torch.tensor([[2.0, 0], [0, 1], [1, 0], [0, 3.0]])
    assert score("mean_auc", labels, logits) == 1.0
