"""Which images go into which split: choosing the end task, holding images out, keeping a few images of each class.

Images are ordered by the sha256 of a salt and their content, class by class, so that the same images are split in the
same way on every machine. With several labels, half of the images kept for a label have it and half have not, as far
as there are any (ATTITTUD's CheXpert).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raysearch.data.splits import SPLITS, declared_fractions, order_by_hash, split_by_hash
from raysearch.errors import SpecError, did_you_mean
from raysearch.modalities.image.pictures import content_hash, decode_picture, resize_pixels
from raysearch.modalities.image.readers import Images, Label

if TYPE_CHECKING:
    from raysearch.modalities.image.config import ImageTask, Source

DIGITS = ("1", "8", "9")  # of the ten, those that a linear model separates worst from few images of each
DIGITS_PER_CLASS = {"test": 60, "dev": 80, "train": 5}
PAIRED_PER_CLASS = {"test": 50, "dev": 60, "train": 60}  # images of each of the ten digits that are overlaid
PAIRS = {"train": 600, "dev": 600, "test": 500}


def split_images(task: ImageTask, parts: Mapping[str, Images]) -> dict[str, Images]:
    """Returns the splits of a task from its parts: train and perhaps dev, test and auxiliary.

    Raises SpecError for a class that does not exist, and if too few images are left for a split.
    """
    end_task, rest = _choose_end_task(task, parts["train"])
    splits = {name: _choose_end_task(task, parts[name])[0] for name in ("dev", "test") if name in parts}
    fractions = {name: share for name, share in declared_fractions(task.split).items() if name not in splits}
    if task.overlay and "test" not in task.overlay:
        fractions.pop("test", None)
        splits.pop("test", None)
    if task.dev_per_class and "dev" in fractions:
        splits["dev"] = _few_per_class(end_task, task.dev_per_class, "dev", "task.dev_per_class")
        end_task = _without(end_task, splits["dev"])
        del fractions["dev"]
    held_out = _hold_out(end_task, fractions, "split")
    splits |= {name: held_out[name] for name in fractions if len(held_out[name])} | {"train": held_out[""]}
    if task.train_per_class:
        splits["train"] = _few_per_class(splits["train"], task.train_per_class, "train", "task.train_per_class")
    if task.overlay:
        splits = _overlay_splits(splits, task.overlay)
    elif task.auxiliary is not None:
        splits["auxiliary"] = _choose_auxiliary(task.auxiliary, parts.get("auxiliary", rest))
    if "dev" not in splits:
        raise SpecError("no dev images to select on; give dev, dev_per_class or a share in split", key="task.dev")
    return _split_dev(splits, task.meta_dev)


def split_digits(task: ImageTask) -> dict[str, Images]:
    """Returns the splits of the built-in tasks, made of scikit-learn's 8x8 digits (Alpaydin & Kaynak 1998).

    digits: three of the ten are the end task, the other seven the auxiliary images. multi_digits: pairs of digits
    overlaid. https://archive.ics.uci.edu/dataset/80
    """
    from sklearn.datasets import load_digits

    data_set = load_digits()
    pictures = list(np.round(data_set.images * (255 / 16)).astype(np.uint8))
    labels = [str(digit) for digit in data_set.target]
    images = Images("scikit-learn's digits", pictures, labels, [content_hash(picture) for picture in pictures])
    is_paired = task.name == "multi_digits"
    end_task = images if is_paired else _of_classes(images, DIGITS)
    splits: dict[str, Images] = {}
    for name, per_class in (PAIRED_PER_CLASS if is_paired else DIGITS_PER_CLASS).items():
        if name == "train" and task.train_per_class:
            per_class = task.train_per_class
        splits[name] = _few_per_class(end_task, per_class, "digits", "task.train_per_class")
        end_task = _without(end_task, splits[name])
    if is_paired:
        return _split_dev(_overlay_splits(splits, PAIRS), task.meta_dev)
    auxiliary = images.take([i for i, label in enumerate(images.labels) if label not in DIGITS])
    return _split_dev(splits | {"auxiliary": auxiliary}, task.meta_dev)


def _split_dev(splits: Mapping[str, Images], meta_dev: float) -> dict[str, Images]:
    """Returns the splits with dev replaced by meta_dev and select_dev. Raises SpecError if one of them is empty."""
    dev = _hold_out(splits["dev"], {"meta_dev": meta_dev}, "meta_dev")
    splits = {**splits, "meta_dev": dev["meta_dev"], "select_dev": dev[""]}
    needed = ["train", "select_dev"] + ["meta_dev"] * bool(meta_dev) + ["auxiliary"] * ("auxiliary" in splits)
    for name in needed:
        if not len(splits[name]):
            remedy = ", or meta_dev: 0" if name == "meta_dev" else ""
            problem = f"no images are left for {name}; give more images or other shares{remedy}"
            raise SpecError(problem, file=splits["train"].source)
    return {name: splits[name] for name in SPLITS if name in splits}


# ---- the end task out of a data set ----


def _choose_end_task(task: ImageTask, images: Images) -> tuple[Images, Images]:
    """Returns the images of the end task, and the rest."""
    if not task.classes and not task.where:
        return images, images.take([])
    if task.where:
        is_chosen = list(images.selected)
    else:
        classes = set(_known_classes(images, tuple(map(str, task.classes)), "task.classes"))
        is_chosen = [label in classes for label in images.labels]
    end_task = [i for i, chosen in enumerate(is_chosen) if chosen]
    rest = [i for i, chosen in enumerate(is_chosen) if not chosen]
    return images.take(end_task), images.take(rest)


def _choose_auxiliary(source: Source, images: Images) -> Images:
    if source.where:
        images = images.take([i for i, selected in enumerate(images.selected) if selected])
    if source.classes:
        classes = _known_classes(images, tuple(map(str, source.classes)), "task.auxiliary.classes")
        images = _of_classes(images, classes)
    if not source.train_per_class:
        return images
    return _few_per_class(images, source.train_per_class, "auxiliary", "task.auxiliary.train_per_class")


def _known_classes(images: Images, classes: Sequence[str], key: str) -> Sequence[str]:
    """Returns `classes`. Raises SpecError if no image has one of them."""
    known = {str(label) for label in images.labels}
    for name in classes:
        if name not in known:
            raise SpecError(f"no image has the class {name!r}{did_you_mean(name, known)}", file=images.source, key=key)
    return classes


def _of_classes(images: Images, classes: Sequence[str]) -> Images:
    return images.take([i for i, label in enumerate(images.labels) if label in classes])


# ---- holding out ----


def _without(images: Images, removed: Images) -> Images:
    keys = set(removed.keys)
    return images.take([i for i, key in enumerate(images.keys) if key not in keys])


def _keys_by_class(images: Images) -> dict[Label, list[str]]:
    """Returns the keys of each class; with several labels, all keys as one class."""
    keys: dict[Label, list[str]] = {}
    for label, key in zip(images.labels, images.keys, strict=True):
        keys.setdefault(label if isinstance(label, str) else (), []).append(key)
    return keys


def _hold_out(images: Images, fractions: Mapping[str, float], salt: str) -> dict[str, Images]:
    """Returns each fraction of every class, at least one image of it but not its last one, and the rest under ""."""
    split_of: dict[str, str] = {}
    for keys in _keys_by_class(images).values():
        for key, name in split_by_hash(keys, fractions, salt, remainder=1).items():
            if name:
                split_of.setdefault(key, name)
    return {
        name: images.take([i for i, key in enumerate(images.keys) if split_of.get(key, "") == name])
        for name in (*fractions, "")
    }


def _few_per_class(images: Images, per_class: int, salt: str, key: str) -> Images:
    """Returns `per_class` images of every class, in the order of the source. Raises SpecError if a class has fewer."""
    if images.labels and not isinstance(images.labels[0], str):
        return _few_per_label(images, per_class, salt)
    chosen: set[str] = set()
    for label, keys in _keys_by_class(images).items():
        order = order_by_hash(keys, salt)
        if len(order) < per_class:
            raise SpecError(f"needs {per_class} images of each class, but {label} has {len(order)}", key=key)
        chosen |= set(order[:per_class])
    return images.take([i for i, content in enumerate(images.keys) if content in chosen])


def _few_per_label(images: Images, per_label: int, salt: str) -> Images:
    """Returns `per_label` images for each of several labels, half of which have it; no image is used twice."""
    row_of = {key: i for i, key in enumerate(images.keys)}
    order = [row_of[key] for key in order_by_hash(images.keys, salt)]
    chosen: set[int] = set()
    for number in range(len(images.labels[0])):
        for value, size in ((1, (per_label + 1) // 2), (0, per_label // 2)):
            candidates = [i for i in order if i not in chosen and int(images.labels[i][number]) == value]
            chosen |= set(candidates[:size])
    return images.take(sorted(chosen))


# ---- two digits in one image ----


def _overlay_splits(splits: Mapping[str, Images], sizes: Mapping[str, int]) -> dict[str, Images]:
    """Returns MultiMNIST: two digits overlaid, where the class of the top left one is the label of the end task.

    Sabour et al. 2017 (https://arxiv.org/abs/1710.09829): 28 x 28 digits on a 36 x 36 ground. The images of a split
    are made of its own digits only. The auxiliary images are those of train, labelled by the bottom right digit.
    """
    overlaid: dict[str, Images] = {}
    for name, size in sizes.items():
        if name not in splits:
            raise SpecError(
                "there are no digits to make images of; give the file or a share", key=f"task.overlay.{name}"
            )
        overlaid[name], bottom_right = _overlay_pairs(splits[name], size)
        if name == "train":
            overlaid["auxiliary"] = bottom_right
    return overlaid


def _overlay_pairs(images: Images, size: int) -> tuple[Images, Images]:
    """Returns `size` images of two digits with the labels of the top left one, and with those of the other."""
    pixels = {key: _grey_pixels(images, i) for i, key in enumerate(images.keys)}
    labels = dict(zip(images.keys, images.labels, strict=True))
    pairs: list[tuple[str, str]] = []
    for turn in count():
        if len(pairs) >= size:
            break
        top_left, bottom_right = (order_by_hash(pixels, f"{corner} {turn}") for corner in ("top left", "bottom right"))
        pairs += zip(top_left, bottom_right, strict=True)
    pairs = pairs[:size]
    pictures = [_overlay(pixels[first], pixels[second]) for first, second in pairs]
    keys = [content_hash(picture) for picture in pictures]
    first_labels, second_labels = ([labels[pair[side]] for pair in pairs] for side in (0, 1))
    return Images(images.source, pictures, first_labels, keys), Images(images.source, pictures, second_labels, keys)


def _grey_pixels(images: Images, i: int) -> NDArray[np.uint8]:
    pixels = decode_picture(images.pictures[i], images.place(i))
    return resize_pixels(pixels, pixels.shape[0], 1).reshape(pixels.shape[:2])


def _overlay(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the brighter of the two at every pixel; the second is shifted by two sevenths of the side both ways."""
    side = first.shape[0]
    shift = side * 2 // 7
    ground = np.zeros((side + shift, side + shift), dtype=np.uint8)
    ground[:side, :side] = first
    ground[shift:, shift:] = np.maximum(ground[shift:, shift:], second)
    return ground
