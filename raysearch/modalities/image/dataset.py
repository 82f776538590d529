"""Image tasks, prepared: from a user's images to the splits that every trial reads.

A split is one Arrow file: `pixels`, uint8 (C, H, W) of every image, and `label`, a class or 0 and 1 for each of several
labels. data.json holds the names of the labels, those of the auxiliary images, and the mean and standard deviation of
each channel, by which a batch is normalised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.normalisation import round_mean_and_std
from raysearch.data.prepared import write_split
from raysearch.data.row_readers import hidden_note, is_hidden
from raysearch.data.splits import leak_notes, sort_labels
from raysearch.errors import SpecError, did_you_mean, shorten, shorten_list
from raysearch.modalities.image.pictures import PictureFacts, decode_picture, resize_pixels
from raysearch.modalities.image.readers import SUFFIXES, Images, Label, read_images
from raysearch.modalities.image.splits import split_digits, split_images

if TYPE_CHECKING:
    from raysearch.modalities.image.config import ImageTask, Source

DATA_VERSION = "1"
COLOUR_SAMPLE = 64  # images of each split that decide whether there is colour


@dataclass(frozen=True)
class ImageSplit:
    """Images mapped from disk, uint8."""

    pixels: NDArray[np.uint8]  # (n, C, H, W)
    labels: NDArray[np.int32] | None  # (n,) classes, or (n, L) of 0 and 1

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Zeros (n,): all images are of one size."""
        return np.zeros(len(self), dtype=np.int64)

    def row(self, i: int) -> NDArray[np.uint8]:
        """Returns the pixels (C, H, W) of image `i`."""
        pixels: NDArray[np.uint8] = self.pixels[i]
        return pixels


class ImagePreparation:
    """How images are read, split and stored; a `data.pipeline.Preparation`."""

    folder_suffixes: Collection[str] = SUFFIXES

    def __init__(self) -> None:
        self.facts = PictureFacts()

    def files(self, task: ImageTask) -> dict[str, str | None]:
        """Returns the declared path of each part; `auxiliary: rest` has none."""
        auxiliary = task.auxiliary.train if task.auxiliary is not None else None
        return {
            "train": task.train,
            "dev": task.dev,
            "test": task.test,
            "auxiliary": auxiliary if auxiliary != "rest" else None,
        }

    def source(self, task: ImageTask, model: Mapping[str, Any], digests: Mapping[str, str | None]) -> dict[str, Any]:
        """Returns all that the prepared images depend on and that is known before they are read."""
        source: dict[str, Any] = {
            **digests,
            "task": {name: value for name, value in task.to_plain().items() if name != "base"},
            "normalised": _pretrained_name(model),
            "channels": _required_channels(model),
            "version": DATA_VERSION,
        }
        if task.embedded:
            from importlib.metadata import version

            source["embedded"] = {"scikit-learn": version("scikit-learn")}
        return source

    def read_splits(self, task: ImageTask, paths: Mapping[str, Path | None]) -> dict[str, Images]:
        """Reads the images and splits them. Raises SpecError for data that cannot be used."""
        if task.embedded:
            return split_digits(task)
        sources: dict[str, Source] = dict.fromkeys(("train", "dev", "test"), task.end_task())
        if task.auxiliary is not None:
            sources["auxiliary"] = task.auxiliary
        parts = {
            part: read_images(path, sources[part], may_be_hidden=part in ("dev", "test"))
            for part, path in paths.items()
            if path
        }
        return split_images(task, _without_hidden(parts))

    def write_splits(
        self, folder: Path, task: ImageTask, model: Mapping[str, Any], splits: Mapping[str, Images]
    ) -> dict[str, Any]:
        """Decodes the images, writes the splits and returns their metadata."""
        labels, auxiliary_labels = end_task_labels(task, splits), _auxiliary_labels(task, splits)
        shape = _common_shape(task, model, splits)
        metadata: dict[str, Any] = {"task": task.name, "kind": "image", "metric": task.metric, "labels": labels}
        metadata |= {"auxiliary_labels": auxiliary_labels, "several": bool(task.labels), "shape": list(shape)}
        metadata["auxiliary_several"] = bool(task.auxiliary is not None and task.auxiliary.labels)
        metadata["sizes"] = {name: len(images) for name, images in splits.items()}
        metadata["splits"] = {}
        for name, images in splits.items():
            scratch = folder / "scratch"
            pixels = np.memmap(scratch, np.uint8, "w+", shape=(max(len(images), 1), *shape))
            _decode_into(pixels, images, shape, self.facts, is_scaled=bool(task.size))
            if name == "train":
                metadata |= _pretrained_mean_and_std(model) or _mean_and_std(pixels)
            classes = _encode_labels(images.labels, auxiliary_labels if name == "auxiliary" else labels)
            metadata["splits"][name] = _write_split(folder / f"{name}.arrow", pixels[: len(images)], classes)
            del pixels
            scratch.unlink()
        return metadata

    def notes(self, splits: Mapping[str, Images], metadata: Mapping[str, Any]) -> list[str]:
        """Returns a sentence each for leaks, images with two labels, and labels without held-out images."""
        notes = list(dict.fromkeys(note for images in splits.values() for note in images.notes))
        notes += self.facts.notes()
        notes += leak_notes(metadata["leaks"], metadata["sizes"], "images also stand")
        train = splits["train"]
        if conflicts := len({*zip(train.keys, train.labels, strict=True)}) - len(set(train.keys)):
            notes.append(f"{conflicts} train images carry more than one label")
        for name in ("select_dev", "test"):
            if name in splits and (absent := _absent_labels(splits[name].labels, metadata["labels"])):
                quantity = "no" if isinstance(train.labels[0], str) else "no or every"
                notes.append(f"{quantity} {name} image has the label {shorten_list(absent)}")
        return notes

    def decode(self, batch: pa.RecordBatch) -> ImageSplit:
        """Returns the split that an Arrow file's batch holds, without a copy."""
        column, labels = batch.column("pixels"), batch.column("label")
        shape = json.loads(batch.schema.metadata[b"shape"])
        pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(len(column), *shape)
        if pa.types.is_fixed_size_list(labels.type):
            return ImageSplit(pixels, labels.flatten().to_numpy().reshape(len(labels), labels.type.list_size))
        return ImageSplit(pixels, labels.to_numpy())


# ---- labels ----


def _without_hidden(parts: Mapping[str, Images]) -> dict[str, Images]:
    """Returns the parts without a dev or test whose labels are not published, and a note in their place."""
    train = parts["train"]
    hidden = [part for part in ("dev", "test") if part in parts and is_hidden(parts[part].labels, set(train.labels))]
    notes = [hidden_note(Path(parts[part].source).name, part) for part in hidden]
    rest = {part: images for part, images in parts.items() if part not in hidden}
    return rest | {"train": replace(train, notes=(*train.notes, *notes))}


def end_task_labels(task: ImageTask, splits: Mapping[str, Images]) -> list[str]:
    """Returns the names of the end task's labels: as declared, or those of train in order.

    Raises SpecError for a held-out label that train does not have.
    """
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
                problem = (
                    f"{shorten(str(label))!r} is not a label of the training images{did_you_mean(str(label), names)}"
                )
                raise SpecError(problem, file=splits[name].source, key=name)
    return names


def _auxiliary_labels(task: ImageTask, splits: Mapping[str, Images]) -> list[str]:
    if "auxiliary" not in splits:
        return []
    if task.auxiliary is not None and task.auxiliary.labels:
        return list(task.auxiliary.labels)
    return sort_labels(map(str, splits["auxiliary"].labels))


def _absent_labels(labels: Sequence[Label], names: list[str]) -> list[str]:
    """Returns the labels that no image has; of several labels also those that every image has: they have no AUC."""
    if labels and not isinstance(labels[0], str):
        return [name for i, name in enumerate(names) if len({label[i] for label in labels}) < 2]
    return sorted(set(names) - {str(label) for label in labels})


def _encode_labels(labels: Sequence[Label], names: Sequence[str]) -> NDArray[np.int32]:
    """Returns classes (n,), or 0 and 1 for each of several labels (n, L)."""
    if labels and not isinstance(labels[0], str):
        return np.array(labels, dtype=np.int32)
    class_of: dict[Label, int] = {name: i for i, name in enumerate(names)}
    return np.array([class_of[label] for label in labels], dtype=np.int32)


# ---- pixels ----


def _common_shape(task: ImageTask, model: Mapping[str, Any], splits: Mapping[str, Images]) -> tuple[int, int, int]:
    """Returns (C, H, W), the shape that all images are stored in."""
    train = splits["train"]
    first = decode_picture(train.pictures[0], train.place(0))
    side = task.size or first.shape[0]
    if not task.size and first.shape[0] != first.shape[1]:
        problem = f"images are {first.shape[0]} x {first.shape[1]}; give task.size, to which they are scaled"
        raise SpecError(problem, file=train.source)
    channels = task.channels or _required_channels(model)
    if not channels:
        sample = (
            decode_picture(picture, images.place(i))
            for images in splits.values()
            for i, picture in enumerate(images.pictures[:COLOUR_SAMPLE])
        )
        channels = 3 if any(pixels.ndim == 3 for pixels in sample) else 1
    return channels, side, side


def _decode_into(
    pixels: NDArray[np.uint8], images: Images, shape: tuple[int, int, int], facts: PictureFacts, *, is_scaled: bool
) -> None:
    """Decodes all images into `pixels`. Raises SpecError for one of another size, unless all `is_scaled`."""
    for i, picture in enumerate(images.pictures):
        decoded = decode_picture(picture, images.place(i), facts)
        if not is_scaled and decoded.shape[:2] != shape[1:]:
            first_size, size = (" x ".join(map(str, sides)) for sides in (shape[1:], decoded.shape[:2]))
            problem = f"this image is {size}, the first one {first_size}; give task.size, to which all are scaled"
            raise SpecError(problem, file=images.place(i))
        pixels[i] = resize_pixels(decoded, shape[1], shape[0])


def _mean_and_std(pixels: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Returns the mean and the standard deviation of each channel, of pixels in [0, 1]."""
    lowest, highest = pixels.min(axis=(0, 2, 3)), pixels.max(axis=(0, 2, 3))
    total = np.zeros(pixels.shape[1])
    squares = np.zeros(pixels.shape[1])
    for chunk in np.array_split(pixels, max(1, len(pixels) // 1024)):
        values = chunk.astype(np.float64) / 255
        total += values.sum(axis=(0, 2, 3))
        squares += (values**2).sum(axis=(0, 2, 3))
    size = pixels.size / pixels.shape[1]
    mean = total / size
    std = np.sqrt(np.maximum(squares / size - mean**2, 0))
    return round_mean_and_std(mean, std, lowest == highest)


def _pretrained_name(model: Mapping[str, Any]) -> str | None:
    """Returns the name of a pre-trained model, which is given images like those it has learned from, or None."""
    name = model.get("path") or (model.get("timm") if model.get("pretrained") else None)
    return None if name is None else str(name)


def _required_channels(model: Mapping[str, Any]) -> int:
    """Returns 3 for a pre-trained model and for one of transformers, whose pipelines read in colour; else 0."""
    return 3 if _pretrained_name(model) or model.get("config") else 0


def _pretrained_mean_and_std(model: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """Returns the mean and the standard deviation that a loaded model normalises by, or None if it names none."""
    if not model.get("path"):
        return None
    from transformers import ImageProcessingMixin

    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(str(model["path"]))
    except OSError:  # a model without a preprocessor_config.json
        return None
    if "image_mean" not in processor or "image_std" not in processor:
        return None
    return {"mean": list(processor["image_mean"]), "std": list(processor["image_std"])}


def _write_split(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int32]) -> dict[str, Any]:
    size = int(np.prod(pixels.shape[1:]))
    pixel_column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(pixels), [None, pa.py_buffer(pixels)])
    label_column = pa.array(labels.reshape(-1))
    if labels.ndim > 1:
        label_column = pa.FixedSizeListArray.from_arrays(label_column, labels.shape[1])
    schema = pa.schema(
        [("pixels", pixel_column.type), ("label", label_column.type)], metadata={"shape": json.dumps(pixels.shape[1:])}
    )
    write_split(path, pa.RecordBatch.from_arrays([pixel_column, label_column], schema=schema))
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(labels.tobytes())
    return {"rows": len(pixels), "sha256": digest.hexdigest()}
