"""Tasks on tables of numbers, and their model, as a search declares them.

A row is a number for each feature and a label: a number too where the metric is r2, else a class. Further tables with
the same features and labels of their own are for objectives on extra_NAME data. The task `planted` has no files: its
tables are drawn as `planted:` declares.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

from raysearch.errors import did_you_mean
from raysearch.modalities.base import ModelConfig, TaskConfig, check_extra, check_split
from raysearch.schema.fields import Settings, config_key, setting
from raysearch.schema.node import Node, to_plain
from raysearch.training_settings import LAYER_SETTINGS

TableMetric = Literal["r2", "accuracy", "macro_f1", "micro_f1", "mean_auc"]
EXTRA = "extra_"

TABLE_TASKS: dict[str, dict[str, Any]] = {"planted": {"kind": "table", "name": "planted", "planted": {}}}
TABLE_MODELS: dict[str, dict[str, Any]] = {"mlp": {"mlp": [64, 16]}}


@dataclass(frozen=True, kw_only=True)
class ExtraTable:
    """A further labelled table, for objectives on `extra_NAME` data."""

    train: str = config_key("the file of the table")
    label: str = config_key("column of the label", default="label")
    kind: Literal["number", "class"] = config_key("what the label is", default="number")


@dataclass(frozen=True, kw_only=True)
class Planted(Settings):
    """A drawn task of which it is known which auxiliary tables share the end task's subspace.

    They are named from 1 on: first the helpful, then the harmful, then the unrelated ones.
    """

    draw: int = setting(0, "seed of the tables", low=0)
    dim: int = setting(32, "features", low=2)
    rank: int = setting(4, "directions of the features that a label depends on", low=1)
    teacher: str = setting(
        "tanh", "labels are sums of tanh of each direction; or of products of two", choices=("tanh", "product")
    )
    helpful: int = setting(4, "auxiliary tables whose labels depend on the end task's directions", low=0)
    harmful: int = setting(
        6, "auxiliary tables whose labels depend on other directions, orthogonal to the end task's", low=0
    )
    unrelated: int = setting(0, "auxiliary tables whose labels are noise", low=0)
    rows: int = setting(2000, "rows of an auxiliary table", low=2, unit="row")
    train: int = setting(60, "labelled rows of the end task", low=2, unit="row")
    meta_dev: int = setting(60, "rows of meta-dev", low=0, unit="row")
    select_dev: int = setting(2000, "rows of select-dev", low=2, unit="row")
    test: int = setting(4000, "rows of test", low=2, unit="row")
    noise: float = setting(0.2, "standard deviation of the labels' noise, in standard deviations of the labels", low=0)

    @property
    def tables(self) -> int:
        """The number of auxiliary tables."""
        return self.helpful + self.harmful + self.unrelated


@dataclass(frozen=True, kw_only=True)
class TableTask(TaskConfig):
    """An end task on a table."""

    modality: ClassVar[str] = "table"

    label: str = config_key("column of the label", default="label")
    features: tuple[str, ...] = config_key(
        "columns of the features; all columns without labels, if not given", default=()
    )
    extra: dict[str, ExtraTable] = config_key("further labelled tables, by name", default_factory=dict)
    planted: Planted | None = config_key("tables that are drawn, in place of files", default=None)
    metric: TableMetric = config_key("the score that is maximised", default="r2")

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the task that a mapping declares. Raises SpecError for keys that contradict each other."""
        task = node.fields_of(cls)
        if (task.planted is None) == (task.train is None):
            near = did_you_mean(task.name, TABLE_TASKS)
            raise node.error(f"{task.name!r} must have one of train: PATH and planted: {{...}}{near}")
        if task.planted is not None:
            _check_planted(task, node)
        check_split(task.split, node)
        check_extra(task.extra, node)
        return task

    def to_plain(self) -> dict[str, Any]:
        """Returns what `loading.read_task` reads: kind and metric, and every field that differs from its default."""
        parts = {field.name: to_plain(getattr(self, field.name)) for field in fields(self)}
        parts["planted"] = asdict(self.planted) if self.planted is not None else None
        blank = {field.name: to_plain(field.default) for field in fields(self) if field.name != "metric"}
        changed = {name: part for name, part in parts.items() if part != {} and part != blank.get(name)}
        return {"kind": self.modality, **changed}

    @property
    def numbers(self) -> bool:
        """Is the label a number?"""
        return self.metric == "r2"

    @property
    def embedded(self) -> bool:
        """Are its rows drawn, not read from files?"""
        return self.planted is not None

    def label_type(self, data: str) -> str:
        """Returns what the label of a data primitive's rows is: `number` or `class`."""
        name = data.removeprefix(EXTRA)
        if name != data and self.planted is None:
            return self.extra[name].kind
        return "number" if self.numbers else "class"

    def missing_key(self, data: str) -> str:
        """Returns what the task has to declare for objectives on `data`; empty if it declares it."""
        name = data.removeprefix(EXTRA)
        if name == data or name in self.extra:
            return ""
        if self.planted is not None:
            drawn = {str(number) for number in range(1, self.planted.tables + 1)}
            return "" if name in drawn else f"planted: {{helpful + harmful + unrelated: {name}}}"
        return f"extra: {{{name}: ...}}"


def _check_planted(task: TableTask, node: Node) -> None:
    """Checks that drawn tables have no files, and enough features for all directions."""
    planted = task.planted
    assert planted is not None
    for key in ("dev", "test", "label", "features", "extra", "split", "meta_dev"):
        if key in node:
            raise node.error("is not used: the tables are drawn as `planted:` declares", key)
    if not task.numbers:
        raise node.error("planted labels are numbers; use r2", "metric")
    if planted.teacher == "product" and planted.rank < 2:
        raise node.error("a product needs two directions: rank must be at least 2", "planted", "rank")
    directions = planted.rank * (1 + bool(planted.harmful))
    if directions > planted.dim:
        raise node.error(f"must be at least {directions}: the directions of two tasks", "planted", "dim")


@dataclass(frozen=True, kw_only=True)
class TableModel(ModelConfig):
    """A multilayer perceptron: the widths of its layers, of which the last is the representation that heads read."""

    own_keys: ClassVar[tuple[str, ...]] = ("mlp",)
    unused_settings: ClassVar[tuple[str, ...]] = LAYER_SETTINGS

    mlp: tuple[int, ...] = config_key("the widths of the layers; the last one is the representation")
    activation: Literal["relu", "tanh"] = config_key("the function after each layer", default="relu")

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the model that a mapping declares. Raises SpecError for widths below 1."""
        model = node.fields_of(cls)
        if not model.mlp or min(model.mlp) < 1:
            raise node.error(f"must be widths of at least 1, such as [64, 16], got {list(model.mlp)}", "mlp")
        return model

    def to_plain(self) -> dict[str, Any]:
        """Returns what `read` reads, and what a plan holds."""
        return {"mlp": list(self.mlp), "activation": self.activation}
