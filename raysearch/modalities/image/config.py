"""Image tasks and image models as a search declares them.

A source is where labelled images come from: a folder of class folders, a Parquet, CSV or JSONL file, MNIST's idx
files or an .npz archive. An image task has one source for the end task, and perhaps a second one for
auxiliary labels, or the classes that the end task leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from raysearch.errors import did_you_mean
from raysearch.modalities.base import ModelConfig, TaskConfig, check_split, is_missing
from raysearch.schema.fields import config_key, setting
from raysearch.schema.node import Keys, Node, to_plain
from raysearch.training_settings import LAYER_SETTINGS

ImageMetric = Literal["accuracy", "macro_f1", "micro_f1", "mean_auc"]
REST = "rest"  # `auxiliary: rest`: what the end task leaves of its own source

IMAGE_TASKS: dict[str, dict[str, Any]] = {
    name: {"kind": "image", "name": name, "metric": "accuracy"} for name in ("digits", "multi_digits")
}
_RESNET18 = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64}
IMAGE_MODELS: dict[str, dict[str, Any]] = {
    "small_cnn": {"image": "small_cnn", "norm": "group"},
    "lenet": {"image": "lenet"},
    "wrn_10_1": {"image": "wide_resnet", "depth": 10, "widen": 1},
    "wrn_16_2": {"image": "wide_resnet", "depth": 16, "widen": 2},
    "wrn_22_4": {"image": "wide_resnet", "depth": 22, "widen": 4},
    "wrn_28_10": {"image": "wide_resnet", "depth": 28, "widen": 10},
    "resnet18": {"config": {"model_type": "resnet", **_RESNET18}},
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of labelled images, and how its file is read."""

    train: str | None = config_key("the file of the training images", default=None)
    image: str = config_key("column, or array, of the image: its bytes, pixels or file name", default="image")
    label: str = config_key("column, or array, of the label", default="label")
    labels: tuple[str, ...] = config_key("columns of 1, 0, -1 and blank: several labels at once", default=())
    uncertain: Literal["positive", "negative"] = config_key("what -1 in `labels` counts as", default="positive")
    class_names: tuple[str, ...] = config_key("the names of labels that are numbers, from 0", default=())
    shape: tuple[int, ...] = config_key("height, width and perhaps channels of images that are raw bytes", default=())
    classes: tuple[str | int, ...] = config_key("the classes that are used; all, if not given", default=())
    where: dict[str, str | int] = config_key("column: value, of the rows that are used", default_factory=dict)
    train_per_class: int = setting(0, "images kept of each class for training; 0 all", low=0, unit="image")

    def to_plain(self) -> dict[str, Any]:
        """Returns what `read` reads: the metric, and every field that differs from its default."""
        blank = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        blank |= {"metric": None}
        parts = {field.name: to_plain(getattr(self, field.name)) for field in fields(self)}
        return {name: part for name, part in parts.items() if part not in ([], {}) and part != blank.get(name)}


@dataclass(frozen=True, kw_only=True)
class ImageTask(TaskConfig, Source):
    """An end task on images. Without files it is an embedded one."""

    modality: ClassVar[str] = "image"

    metric: ImageMetric = config_key("the score that is maximised", default="accuracy")
    auxiliary: Source | None = config_key(
        "images with labels of their own; rest: what the end task leaves of its source", default=None, shorthand=(REST,)
    )
    overlay: dict[str, int] = config_key("images of two digits to make, for train, dev and test", default_factory=dict)
    size: int = setting(0, "side that images are scaled to; 0 leaves them", low=0, unit="pixel")
    channels: int = setting(0, "1 grey, 3 colour; 0 as the images are, and 3 for models of transformers", low=0, high=3)
    dev_per_class: int = setting(0, "images of each class for dev, held out of train; 0 a share", low=0, unit="image")

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the task that a mapping declares. Raises SpecError for keys that contradict each other."""
        auxiliary = {"auxiliary": _auxiliary(node["auxiliary"])} if "auxiliary" in node else {}
        task = node.fields_of(cls, auxiliary)
        if task.embedded and task.name not in IMAGE_TASKS:
            near = did_you_mean(task.name, IMAGE_TASKS)
            raise node.error(f"{task.name!r} is not a built-in image task and has no `train: PATH`{near}")
        if task.embedded:
            _nothing_but(node, ("name", "metric", "meta_dev", "size", "channels", "train_per_class", "base"))
        for check in (_labels, _choice, _held_out, _overlay):
            check(task, node)
        if task.channels == 2:
            raise node.error("must be 1 (grey), 3 (colour) or 0, got 2", "channels")
        return task

    @property
    def embedded(self) -> bool:
        """Are its images part of installed packages?"""
        return self.train is None

    def to_plain(self) -> dict[str, Any]:
        """Returns what `loading.read_task` reads."""
        return {"kind": self.modality} | Source.to_plain(self)

    @property
    def has_auxiliary(self) -> bool:
        """Are there images, or labels, in addition to the end task's?"""
        return self.embedded or self.auxiliary is not None or bool(self.overlay)

    def end_task(self) -> Source:
        """Returns the source of the end task."""
        return Source(**{field.name: getattr(self, field.name) for field in fields(Source)})


def _auxiliary(node: Node) -> Source:
    """Returns the source of the auxiliary images: `rest`, or a data set."""
    if node.value == REST:
        return Source(train=REST)
    if not isinstance(node.value, dict):
        raise node.error(f"must be rest, or {{train: PATH, ...}}, got {node.value!r}")
    source = node.fields_of(Source)
    if source.train is None:
        raise node.error("the key 'train' is missing: a path, or rest")
    if source.train == REST:
        _nothing_but(node, ("train", "train_per_class", "classes"))
    _one_kind_of_label(source, node)
    return source


def _nothing_but(node: Node, known: Iterable[str]) -> None:
    """Raises SpecError for keys that are not used by a source without files."""
    for key in node.value:
        if key not in (names := list(known)):
            raise node.error(f"is not used: the built-in images have their own; known keys: {', '.join(names)}", key)


def _one_kind_of_label(source: Source, node: Node) -> None:
    if source.labels and "label" in node:
        raise node.error("label names one column of classes, labels several of 0 and 1: leave one out", "labels")
    if not source.labels and "uncertain" in node:
        raise node.error("declares what -1 in `labels` counts as, and there is no `labels:`", "uncertain")
    if source.labels and source.classes:
        raise node.error("chooses among classes; with several labels, list the columns in `labels:`", "classes")


def _labels(task: ImageTask, node: Node) -> None:
    _one_kind_of_label(task, node)
    if task.labels and task.metric == "accuracy":
        raise node.error("accuracy is for one label; with several use mean_auc, macro_f1 or micro_f1", "metric")
    if len(task.labels) == 1:
        raise node.error("must name at least two columns; for one use label", "labels")


def _choice(task: ImageTask, node: Node) -> None:
    """Checks that a rest is what a choice of classes or rows leaves."""
    if len(set(task.classes)) < len(task.classes):
        raise node.error("a class is named twice", "classes")
    if len(task.classes) == 1:
        raise node.error("an end task has at least two classes", "classes")
    if task.classes and task.where:
        raise node.error("classes and where both choose the end task's rows; leave one out", "where")
    rest = task.auxiliary is not None and task.auxiliary.train == REST
    if rest and not (task.classes or task.where):
        raise node.error("needs `classes:` or `where:`, because it is what these leave of the data set", "auxiliary")
    if rest and task.labels:
        raise node.error("with several labels there is no rest; declare a data set: {train: PATH}", "auxiliary")


def _held_out(task: ImageTask, node: Node) -> None:
    check_split(task.split, node)
    if task.dev_per_class and task.dev:
        raise node.error("is held out of train, and `dev:` names a file; leave one out", "dev_per_class")
    if task.dev_per_class and task.split and "dev" in task.split:
        raise node.error("is also set by dev_per_class; leave one out", "split", "dev")


def _overlay(task: ImageTask, node: Node) -> None:
    if not task.overlay:
        return
    for part, count in task.overlay.items():
        if part not in ("train", "dev", "test"):
            raise node["overlay"].error(f"unknown key {part!r}{did_you_mean(part, ('train', 'dev', 'test'))}", part)
        if count < 1:
            raise node["overlay"].error(f"must be at least 1, got {count}", part)
    for part in ("train", "dev"):
        if part not in task.overlay:
            raise node["overlay"].error(f"the key {part!r} is missing: how many images of two digits")
    for key in ("auxiliary", "labels", "train_per_class", "dev_per_class"):
        if key in node:
            raise node.error("cannot be combined with overlay, which makes images with two labels each", key)


@dataclass(frozen=True, kw_only=True)
class ImageModel(ModelConfig):
    """A convolutional network of raysearch or timm."""

    own_keys: ClassVar[tuple[str, ...]] = ("image", "timm")
    unused_settings: ClassVar[tuple[str, ...]] = LAYER_SETTINGS

    image: Literal["small_cnn", "lenet", "wide_resnet"] | None = config_key(
        "a network of raysearch's own", default=None
    )
    widths: tuple[int, ...] = config_key(
        "small_cnn: channels of each layer; lenet: channels of its two layers, and features", default=()
    )
    depth: int = config_key("wide_resnet: convolutions, 6 n + 4", default=0)
    widen: int = config_key("wide_resnet: factor on the channels", default=0)
    norm: Literal["batch", "group"] = config_key(
        "batch normalisation, or group normalisation, with which no image depends on the others of its batch",
        default="batch",
    )
    timm: str | None = config_key("the name of a timm model", default=None)
    pretrained: bool = config_key("timm: load weights from the hub", default=False)

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the model that a mapping declares, defaults filled in. Raises SpecError for keys of other models."""
        model = node.fields_of(cls)
        if (model.image is None) == (model.timm is None):
            raise node.error("must have one of image and timm")
        whose = model.image or "timm"
        for key in node.value:
            if key not in _KEYS[whose]:
                raise node.error(f"is no key of {whose}; it has {', '.join(_KEYS[whose])}", key)
        if whose in _WIDTHS:
            model = replace(model, widths=model.widths or _WIDTHS[whose])
            if min(model.widths) < 1:
                raise node.error(f"must be at least 1, got {min(model.widths)}", "widths")
            if whose == "lenet" and len(model.widths) != 3:
                raise node.error("must be three: channels of two convolutions, and features", "widths")
        if whose == "wide_resnet":
            model = replace(model, depth=model.depth or 16, widen=model.widen or 1)
            if model.depth < 10 or (model.depth - 4) % 6:
                raise node.error(f"must be 6 n + 4, such as 10, 16, 22 or 28, got {model.depth}", "depth")
            if model.widen < 1:
                raise node.error(f"must be at least 1, got {model.widen}", "widen")
        return model

    def to_plain(self) -> dict[str, Any]:
        """Returns what `read` reads, and what a plan holds."""
        parts = {key: to_plain(getattr(self, key)) for key in _KEYS[self.image or "timm"]}
        return {key: part for key, part in parts.items() if part}

    @property
    def is_pretrained(self) -> bool:
        """Are the parameters of its body loaded, not drawn?"""
        return self.pretrained

    def missing_packages(self) -> Iterable[tuple[str, Keys]]:
        """Returns a problem if the model needs timm and it is not installed."""
        if self.timm and is_missing("timm"):
            yield "needs the package timm; pip install 'raysearch[timm]'", ("timm",)


_WIDTHS: dict[str, tuple[int, ...]] = {"small_cnn": (32, 64, 128), "lenet": (10, 20, 50)}
_KEYS = {
    "small_cnn": ("image", "widths", "norm"),
    "lenet": ("image", "widths"),
    "wide_resnet": ("image", "depth", "widen", "norm"),
    "timm": ("timm", "pretrained"),
}
