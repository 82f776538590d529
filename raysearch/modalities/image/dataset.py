"""Image tasks, prepared: from a user's images to the splits that every trial reads.

A split is one Arrow file: `pixels`, uint8 (C, H, W) of every image, and `label`, a class or 0 and 1 for each of several
labels. data.json has the names of the labels, the auxiliary images' own, and mean and standard deviation of each
channel, by which a batch is normalised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.prepared import (
    PreparedData,
    Split,
    count_leaks,
    is_up_to_date,
    leak_notes,
    load_prepared_data,
    resolve_path,
    sort_labels,
    write_atomically,
)
from raysearch.errors import SpecError, did_you_mean
from raysearch.modalities.image import splits
from raysearch.modalities.image.readers import SUFFIXES, Images, Label, decode_picture, read_images, resize_pixels

if TYPE_CHECKING:
    from raysearch.modalities.image.config import ImageTask, Source

DATA_VERSION = "1"
LOOKED_AT = 64  # images of each split that say whether there is colour


@dataclass(frozen=True)
class ImageSplit:
    """Images mapped from disk, uint8."""

    pixels: NDArray[np.uint8]  # (n, C, H, W)
    labels: NDArray[np.int32] | None  # (n,) classes, or (n, L) of 0 and 1

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """All alike (n,)."""
        return np.zeros(len(self), dtype=np.int64)

    def row(self, i: int) -> NDArray[np.uint8]:
        """Pixels (C, H, W) of image `i`."""
        pixels: NDArray[np.uint8] = self.pixels[i]
        return pixels


def prepare_images(task: ImageTask, model: Mapping[str, Any], folder: Path, data_root: Path | None) -> PreparedData:
    """See `tasks.prepare`."""
    auxiliary = task.auxiliary.train if task.auxiliary is not None else None
    given = {"train": task.train, "dev": task.dev, "test": task.test}
    given["auxiliary"] = auxiliary if auxiliary != "rest" else None
    keys = {part: f"task.{part}" for part in given} | {"auxiliary": "task.auxiliary.train"}
    paths = {
        part: resolve_path(name, keys[part], task.base, data_root, folders=True) if name else None
        for part, name in given.items()
    }
    source = _source(task, model, paths)
    if is_up_to_date(folder, source):
        return load_prepared_data(folder)
    splits = _splits(task, paths)
    return write_atomically(folder, lambda draft: _write(draft, task, model, splits, source))


def opened_images(batch: pa.RecordBatch) -> Split:
    """A split of the one batch of its file, not copied."""
    column, (_, channels, height, width) = batch.column("pixels"), _shape(batch)
    values = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    pixels = values.reshape(len(column), channels, height, width)
    said = batch.column("label")
    if pa.types.is_fixed_size_list(said.type):
        return ImageSplit(pixels, said.flatten().to_numpy().reshape(len(said), said.type.list_size))
    return ImageSplit(pixels, said.to_numpy())


def _shape(batch: pa.RecordBatch) -> tuple[int, int, int, int]:
    channels, height, width = json.loads(batch.schema.metadata[b"shape"])
    return batch.num_rows, channels, height, width


# ---- reading ----


def _source(task: ImageTask, model: Mapping[str, Any], paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What the prepared data is a function of, as far as it can be told without reading the images."""
    declared = {name: part for name, part in task.to_plain().items() if name != "base"}
    about: dict[str, Any] = {part: _digest(path) if path else None for part, path in paths.items()}
    about |= {
        "task": declared,
        "normalised": _loaded(model),
        "channels": _wanted_channels(model),
        "version": DATA_VERSION,
    }
    if task.embedded:
        from importlib.metadata import version

        about["embedded"] = {"scikit-learn": version("scikit-learn")}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _digest(path: Path) -> str:
    """The sha256 of a file; of a folder's names and sizes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()


def _splits(task: ImageTask, paths: Mapping[str, Path | None]) -> dict[str, Images]:
    if task.embedded:
        return splits.split_digits(task)
    sources: dict[str, Source] = dict.fromkeys(("train", "dev", "test"), task.end_task())
    if task.auxiliary is not None:
        sources["auxiliary"] = task.auxiliary
    return splits.split_images(task, {p: read_images(path, sources[p]) for p, path in paths.items() if path})


# ---- labels ----


def _end_task_labels(task: ImageTask, splits: Mapping[str, Images]) -> list[str]:
    """Names of the end task's labels: as chosen, or those of train in order. SpecError for one that train lacks."""
    if task.labels:
        return list(task.labels)
    train = splits["train"]
    names = list(map(str, task.classes)) or sort_labels(map(str, train.labels))
    if len(names) < 2:
        raise SpecError(f"only one label, {names[0]!r}; a task has at least two", file=train.source)
    known = set(names)
    for name in ("meta_dev", "select_dev", "test"):
        for label in splits[name].labels if name in splits else ():
            if label not in known:
                problem = f"{label!r} is no label of the training images{did_you_mean(str(label), names)}"
                raise SpecError(problem, file=splits[name].source, key=name)
    return names


def _auxiliary_labels(task: ImageTask, splits: Mapping[str, Images]) -> list[str]:
    if "auxiliary" not in splits:
        return []
    if task.auxiliary is not None and task.auxiliary.labels:
        return list(task.auxiliary.labels)
    return sort_labels(map(str, splits["auxiliary"].labels))


# ---- writing ----


def _write(
    folder: Path,
    task: ImageTask,
    model: Mapping[str, Any],
    splits: Mapping[str, Images],
    source: Mapping[str, Any],
) -> None:
    labels, auxiliary = _end_task_labels(task, splits), _auxiliary_labels(task, splits)
    shape = _common_shape(task, model, splits)
    about: dict[str, Any] = {"task": task.name, "kind": "image", "metric": task.metric, "labels": labels}
    about |= {"auxiliary_labels": auxiliary, "several": bool(task.labels), "shape": list(shape)}
    about["auxiliary_several"] = bool(task.auxiliary is not None and task.auxiliary.labels)
    about["sizes"] = {name: len(images) for name, images in splits.items()}
    about["splits"] = {}
    for name, images in splits.items():
        pixels = np.memmap(folder / "scratch", np.uint8, "w+", shape=(max(len(images), 1), *shape))
        _fill(pixels, images, shape, scaled=bool(task.size))
        if name == "train":
            about |= _moments(pixels, model)
        numbers = _numbers(images.labels, auxiliary if name == "auxiliary" else labels)
        about["splits"][name] = _write_split(folder / f"{name}.arrow", pixels[: len(images)], numbers)
        del pixels
        (folder / "scratch").unlink()
    about["fingerprint"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    about["meta_dev_from"] = "dev"
    about["duplicates"] = {name: len(images) - len(set(images.keys)) for name, images in splits.items()}
    about["leaks"] = count_leaks({name: images.keys for name, images in splits.items()})
    about["notes"] = _notes(splits, labels, about)
    about["source"] = source
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _common_shape(task: ImageTask, model: Mapping[str, Any], splits: Mapping[str, Images]) -> tuple[int, int, int]:
    """(C, H, W) of all images as they will be stored."""
    train = splits["train"]
    first = decode_picture(train.pictures[0], train.source)
    side = task.size or first.shape[0]
    if not task.size and first.shape[0] != first.shape[1]:
        problem = f"images are {first.shape[0]} x {first.shape[1]}; give task.size: they are made square"
        raise SpecError(problem, file=train.source)
    channels = task.channels or _wanted_channels(model)
    if not channels:
        some = (decode_picture(p, images.source) for images in splits.values() for p in images.pictures[:LOOKED_AT])
        channels = 3 if any(pixels.ndim == 3 for pixels in some) else 1
    return channels, side, side


def _fill(pixels: NDArray[np.uint8], images: Images, shape: tuple[int, int, int], *, scaled: bool) -> None:
    """Decode all images into `pixels`; refuses one of another size unless all are `scaled`."""
    for i, picture in enumerate(images.pictures):
        found = decode_picture(picture, images.source)
        if not scaled and found.shape[:2] != shape[1:]:
            there, here = (" x ".join(map(str, size)) for size in (shape[1:], found.shape[:2]))
            where = str(picture) if isinstance(picture, Path) else images.source
            raise SpecError(f"this image is {here}, the first one {there}; give task.size: all are scaled", file=where)
        pixels[i] = resize_pixels(found, shape[1], shape[0])


def _moments(pixels: NDArray[np.uint8], model: Mapping[str, Any]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, in [0, 1]: the loaded model's own, or train's."""
    if (own := _loaded_moments(model)) is not None:
        return own
    total = np.zeros(pixels.shape[1])
    squares = np.zeros(pixels.shape[1])
    for rows in np.array_split(pixels, max(1, len(pixels) // 1024)):
        part = rows.astype(np.float64) / 255
        total += part.sum(axis=(0, 2, 3))
        squares += (part**2).sum(axis=(0, 2, 3))
    number = pixels.size / pixels.shape[1]
    mean = total / number
    deviation = np.sqrt(np.maximum(squares / number - mean**2, 0))
    return {"mean": mean.round(6).tolist(), "std": np.where(deviation > 1e-6, deviation, 1.0).round(6).tolist()}


def _loaded(model: Mapping[str, Any]) -> str | None:
    """The name of a pre-trained model, which wants images as it has seen them: three channels, its own mean."""
    name = model.get("path") or (model.get("timm") if model.get("pretrained") else None)
    return None if name is None else str(name)


def _wanted_channels(model: Mapping[str, Any]) -> int:
    """3 for a pre-trained model, and for one of transformers, whose pipelines read all images in colour; else 0."""
    return 3 if _loaded(model) or model.get("config") else 0


def _loaded_moments(model: Mapping[str, Any]) -> dict[str, list[float]] | None:
    if not model.get("path"):
        return None
    from transformers import ImageProcessingMixin

    try:
        said, _ = ImageProcessingMixin.get_image_processor_dict(str(model["path"]))
    except OSError:  # a model without a preprocessor_config.json
        return None
    if "image_mean" not in said or "image_std" not in said:
        return None
    return {"mean": list(said["image_mean"]), "std": list(said["image_std"])}


def _numbers(labels: Any, names: list[str]) -> NDArray[np.int32]:
    if labels and not isinstance(labels[0], str):
        return np.array(labels, dtype=np.int32)
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[label] for label in labels], dtype=np.int32)


def _write_split(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int32]) -> dict[str, Any]:
    size = int(np.prod(pixels.shape[1:]))
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(pixels), [None, pa.py_buffer(pixels)])
    flat = pa.array(labels.reshape(-1))
    said = flat if labels.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, labels.shape[1])
    schema = pa.schema(
        [("pixels", values.type), ("label", said.type)], metadata={"shape": json.dumps(pixels.shape[1:])}
    )
    batch = pa.RecordBatch.from_arrays([values, said], schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(labels.tobytes())
    return {"rows": len(pixels), "sha256": digest.hexdigest()}


# ---- what is odd ----


def _notes(splits: Mapping[str, Images], labels: list[str], about: Mapping[str, Any]) -> list[str]:
    notes = leak_notes(about["leaks"], about["sizes"], "images also stand")
    train = splits["train"]
    if conflicts := len({*zip(train.keys, train.labels, strict=True)}) - len(set(train.keys)):
        notes.append(f"{conflicts} train images carry more than one label")
    for name in ("select_dev", "test"):
        if name in splits and (absent := _absent(splits[name].labels, labels)):
            whose = "no" if isinstance(train.labels[0], str) else "no or every"
            notes.append(f"{whose} {name} image has the label {', '.join(absent)}")
    return notes


def _absent(found: Any, labels: list[str]) -> list[str]:
    """Labels that no image has; of several at once also those that every image has, which have no AUC."""
    there: list[Label] = list(found)
    if there and not isinstance(there[0], str):
        return [name for i, name in enumerate(labels) if len({label[i] for label in there}) < 2]
    return sorted(set(labels) - {str(label) for label in there})
