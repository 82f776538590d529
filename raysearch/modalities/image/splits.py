"""Which images go where: the end task chosen out of a data set, splits held out, few images of each class kept.

What is dealt is put in order of the sha256 of a salt and the image's content, class by class, so that the same images
are dealt alike on every machine. Of several labels at once, half of the rows taken for a label have it and half have
not, as far as there are any (ATTITTUD's CheXpert).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raysearch.data.prepared import FRACTIONS, SPLITS, order_by_hash
from raysearch.errors import SpecError, did_you_mean
from raysearch.modalities.image.readers import Images, Label, content_hash, decode_picture, resize_pixels

if TYPE_CHECKING:
    from raysearch.modalities.image.config import ImageTask, Source

DIGITS = ("1", "8", "9")  # of the ten, those that a linear model tells apart worst when it has few images of each
DIGITS_EACH = {"test": 60, "dev": 80, "train": 5}  # images of each
PAIRED_EACH = {"test": 50, "dev": 60, "train": 60}  # images of each of the ten that are laid over each other
PAIRS = {"train": 600, "dev": 600, "test": 500}


def split_images(task: ImageTask, parts: Mapping[str, Images]) -> dict[str, Images]:
    """The splits of a task, of the images that it came in: train, perhaps dev, test and auxiliary."""
    end_task, rest = _chosen(task, parts["train"])
    splits = {name: _chosen(task, parts[name])[0] for name in ("dev", "test") if name in parts}
    shares = {p: float((task.split or {}).get(p, FRACTIONS[p])) for p in ("dev", "test") if p not in splits}
    if task.overlay and "test" not in task.overlay:
        shares.pop("test", None)
        splits.pop("test", None)
    if task.dev_per_class and "dev" in shares:
        splits["dev"] = _few(end_task, task.dev_per_class, "dev", "task.dev_per_class")
        end_task = _without(end_task, splits["dev"])
        del shares["dev"]
    held = _held_out(end_task, shares, "split")
    splits |= {name: held[name] for name in shares if len(held[name])} | {"train": held[""]}
    if task.train_per_class:
        splits["train"] = _few(splits["train"], task.train_per_class, "train", "task.train_per_class")
    if task.overlay:
        splits = _overlaid(splits, task.overlay)
    elif task.auxiliary is not None:
        splits["auxiliary"] = _auxiliary(task.auxiliary, parts.get("auxiliary", rest))
    if "dev" not in splits:
        raise SpecError("no dev images to select on; give dev, dev_per_class or a share in split", key="task.dev")
    return _with_meta_dev(splits, task.meta_dev)


def split_digits(task: ImageTask) -> dict[str, Images]:
    """The splits of the embedded tasks, of scikit-learn's 8x8 digits (Alpaydin & Kaynak 1998).

    digits: three of them are the end task, the other seven the auxiliary images. multi_digits: pairs of them laid over
    each other. https://archive.ics.uci.edu/dataset/80
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
    pictures = list(pixels)
    whole = Images(
        "scikit-learn's digits", pictures, [str(n) for n in found.target], [content_hash(p) for p in pictures]
    )
    paired = task.name == "multi_digits"
    end_task = whole if paired else _of_classes(whole, DIGITS)
    splits: dict[str, Images] = {}
    for name, each in (PAIRED_EACH if paired else DIGITS_EACH).items():
        each = task.train_per_class or each if name == "train" else each
        splits[name] = _few(end_task, each, "digits", "task.train_per_class")
        end_task = _without(end_task, splits[name])
    if paired:
        return _with_meta_dev(_overlaid(splits, PAIRS), task.meta_dev)
    rest = [i for i, label in enumerate(whole.labels) if label not in DIGITS]
    return _with_meta_dev(splits | {"auxiliary": whole.take(rest)}, task.meta_dev)


def _with_meta_dev(splits: dict[str, Images], share: float) -> dict[str, Images]:
    dev = _held_out(splits.pop("dev"), {"meta_dev": share}, "meta_dev")
    splits |= {"meta_dev": dev["meta_dev"], "select_dev": dev[""]}
    needed = [
        "train",
        "select_dev",
        *(["meta_dev"] if share else []),
        *(["auxiliary"] if "auxiliary" in splits else []),
    ]
    for name in needed:
        if not len(splits[name]):
            remedy = ", or meta_dev: 0" if name == "meta_dev" else ""
            problem = f"no images are left for {name}; give more images or other shares{remedy}"
            raise SpecError(problem, file=splits["train"].source)
    return {name: splits[name] for name in SPLITS if name in splits}


# ---- the end task out of a data set ----


def _chosen(task: ImageTask, images: Images) -> tuple[Images, Images]:
    """The end task's images, and the rest."""
    if not task.classes and not task.where:
        return images, images.take([])
    if task.where:
        mine = [i for i, chosen in enumerate(images.chosen) if chosen]
    else:
        wanted = set(_known(images, tuple(map(str, task.classes)), "task.classes"))
        mine = [i for i, label in enumerate(images.labels) if label in wanted]
    others = sorted({*range(len(images))} - set(mine))
    return images.take(mine), images.take(others)


def _auxiliary(source: Source, images: Images) -> Images:
    if source.where:
        images = images.take([i for i, chosen in enumerate(images.chosen) if chosen])
    if source.classes:
        images = _of_classes(images, _known(images, tuple(map(str, source.classes)), "task.auxiliary.classes"))
    each = source.train_per_class
    return _few(images, each, "auxiliary", "task.auxiliary.train_per_class") if each else images


def _known(images: Images, classes: Sequence[str], key: str) -> Sequence[str]:
    there = {str(label) for label in images.labels}
    for name in classes:
        if name not in there:
            raise SpecError(f"no image has the class {name!r}{did_you_mean(name, there)}", file=images.source, key=key)
    return classes


def _of_classes(images: Images, classes: Sequence[str]) -> Images:
    return images.take([i for i, label in enumerate(images.labels) if label in classes])


# ---- dealing out ----


def _without(images: Images, taken: Images) -> Images:
    keys = set(taken.keys)
    return images.take([i for i, key in enumerate(images.keys) if key not in keys])


def _classes(images: Images) -> dict[Label, list[str]]:
    """The keys of each class; of several labels at once, all under one."""
    keys: dict[Label, list[str]] = {}
    for label, key in zip(images.labels, images.keys, strict=True):
        keys.setdefault(label if isinstance(label, str) else (), []).append(key)
    return keys


def _held_out(images: Images, shares: Mapping[str, float], salt: str) -> dict[str, Images]:
    """Each part's share of every class, at least one image of it but not the last, and the rest under ""."""
    if sum(shares.values()) >= 1:
        raise SpecError("the shares leave nothing to train on", key="task.split")
    part: dict[str, str] = {}
    for keys in _classes(images).values():
        order, start = order_by_hash(keys, salt), 0
        for name, share in shares.items():
            most = max(0, len(order) - start - 1)
            some = min(max(1, round(share * len(order))), most) if share > 0 else 0
            for key in order[start : start + some]:
                part.setdefault(key, name)
            start += some
    names = (*shares, "")
    return {n: images.take([i for i, key in enumerate(images.keys) if part.get(key, "") == n]) for n in names}


def _few(images: Images, each: int, salt: str, key: str) -> Images:
    """`each` images of every class, in the order of the source; refuses a class that has fewer."""
    if images.labels and not isinstance(images.labels[0], str):
        return _balanced(images, each, salt)
    chosen: set[str] = set()
    for label, keys in _classes(images).items():
        order = order_by_hash(keys, salt)
        if len(order) < each:
            raise SpecError(f"asks for {each} images of each class, and {label} has {len(order)}", key=key)
        chosen |= set(order[:each])
    return images.take([i for i, content in enumerate(images.keys) if content in chosen])


def _balanced(images: Images, each: int, salt: str) -> Images:
    """`each` rows for every label, half of which have it, as far as there are any; no row is taken twice."""
    rows = {key: i for i, key in enumerate(images.keys)}
    order = [rows[key] for key in order_by_hash(images.keys, salt)]
    taken: set[int] = set()
    for number in range(len(images.labels[0])):
        for value, wanted in ((1, (each + 1) // 2), (0, each // 2)):
            fresh = [i for i in order if i not in taken and int(images.labels[i][number]) == value]
            taken |= set(fresh[:wanted])
    return images.take(sorted(taken))


# ---- two digits in one image ----


def _overlaid(splits: Mapping[str, Images], counts: Mapping[str, int]) -> dict[str, Images]:
    """MultiMNIST: two digits laid over each other, the top left one's class the end task's label.

    Sabour et al. 2017 (https://arxiv.org/abs/1710.09829): 28 x 28 digits on a 36 x 36 ground. No image of a split
    has part in another split's. The training images with the bottom right class for label are the auxiliary ones.
    """
    made: dict[str, Images] = {}
    for name, number in counts.items():
        if name not in splits:
            raise SpecError(
                "there are no digits to make images of; give the file or a share", key=f"task.overlay.{name}"
            )
        made[name], below = _pairs(splits[name], number)
        if name == "train":
            made["auxiliary"] = below
    return made


def _pairs(images: Images, number: int) -> tuple[Images, Images]:
    pixels = {key: _grey(images, i) for i, key in enumerate(images.keys)}
    labels = dict(zip(images.keys, images.labels, strict=True))
    pairs: list[tuple[str, str]] = []
    for turn in count():
        if len(pairs) >= number:
            break
        pairs += zip(
            order_by_hash(pixels, f"top left {turn}"), order_by_hash(pixels, f"bottom right {turn}"), strict=True
        )
    pictures = [_laid_over(pixels[first], pixels[second]) for first, second in pairs[:number]]
    keys = [content_hash(picture) for picture in pictures]
    above, below = ([labels[pair[side]] for pair in pairs[:number]] for side in (0, 1))
    return Images(images.source, pictures, above, keys), Images(images.source, pictures, below, keys)


def _grey(images: Images, i: int) -> NDArray[np.uint8]:
    pixels = decode_picture(images.pictures[i], images.source)
    return resize_pixels(pixels, pixels.shape[0], 1).reshape(pixels.shape[:2])


def _laid_over(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The brighter of the two at every pixel, the second shifted by two sevenths of the side both ways."""
    side = first.shape[0]
    shift = side * 2 // 7
    ground = np.zeros((side + shift, side + shift), dtype=np.uint8)
    ground[:side, :side] = first
    ground[shift:, shift:] = np.maximum(ground[shift:, shift:], second)
    return ground
