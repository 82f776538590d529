"""Sequence tasks and their encoder, as a search declares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from raysearch.modalities.base import ModelConfig, TaskConfig
from raysearch.schema.node import Node

SEQUENCE_MODELS: dict[str, dict[str, Any]] = {"small_gru": {"gru": 8}}


@dataclass(frozen=True, kw_only=True)
class SequenceTask(TaskConfig):
    """An end task on sequences: JSONL rows of `values`, numbers, and `label`, a class."""

    modality: ClassVar[str] = "sequence"

    metric: Literal["accuracy", "macro_f1"] = "accuracy"

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the task that a mapping declares. Raises SpecError for one without a file."""
        task = super().read(node)
        if task.train is None:
            raise node.error("the key 'train' is missing")
        return task

    def to_plain(self) -> dict[str, Any]:
        """Returns what `loading.read_task` reads."""
        return {"kind": self.modality, **super().to_plain()}


@dataclass(frozen=True, kw_only=True)
class SequenceModel(ModelConfig):
    """A recurrent network of that width."""

    own_keys: ClassVar[tuple[str, ...]] = ("gru",)

    gru: int

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the model that a mapping declares. Raises SpecError for a width below 1."""
        model = super().read(node)
        if model.gru < 1:
            raise node.error(f"must be at least 1, got {model.gru}", "gru")
        return model
