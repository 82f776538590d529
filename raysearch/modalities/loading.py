"""Tasks, models and spaces as files declare them, each read by the modality that it is of.

Raises SpecError at the line of the key that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysearch.errors import did_you_mean
from raysearch.modalities import MODALITIES, all_modalities, load_modality
from raysearch.modalities.base import HuggingFaceModel, Modality, ModelConfig, TaskConfig
from raysearch.objectives.primitive import DEFAULT_MODALITY
from raysearch.objectives.space import Space, parse_space
from raysearch.schema import catalog
from raysearch.schema.node import Node
from raysearch.schema.yaml_source import load_yaml


def task_presets() -> dict[str, Mapping[str, Any]]:
    """Returns the declarations of all tasks that have a name."""
    return {name: preset for modality in all_modalities() for name, preset in modality.task_presets.items()}


def model_presets() -> dict[str, Mapping[str, Any]]:
    """Returns the declarations of all models that have a name."""
    return {name: preset for modality in all_modalities() for name, preset in modality.model_presets.items()}


def read_task(node: Node) -> TaskConfig:
    """Returns a task by its name, or declared in full."""
    if isinstance(node.value, str):
        presets = task_presets()
        if node.value not in presets:
            near = did_you_mean(node.value, presets)
            raise node.error(f"{node.value!r} is not a built-in task, and has no train: FILE or hub: NAME{near}")
        node = Node(dict(presets[node.value]), node.keys, node.places)
    modality = _modality(node)
    if "kind" in node:
        node = Node({key: value for key, value in node.value.items() if key != "kind"}, node.keys, node.places)
    return modality.task_config.read(node)


def read_model(node: Node) -> ModelConfig:
    """Returns a model by its name, or declared in full; whether it fits the task is checked later."""
    if isinstance(node.value, str):
        presets = model_presets()
        if node.value not in presets:
            near = did_you_mean(node.value, presets)
            raise node.error(f"unknown model {node.value!r}{near}; an encoder of your own: {{path: NAME}}")
        node = Node(dict(presets[node.value]), node.keys)
    for modality in all_modalities():
        for config in modality.model_configs:
            if any(key in node for key in config.own_keys):
                return config.read(node)
    return HuggingFaceModel.read(node)


def accepts_model(modality: Modality, model: ModelConfig) -> bool:
    """Returns whether a task of the modality can have this model, as far as is known without loading it."""
    if not isinstance(model, modality.model_configs):
        return False
    if not isinstance(model, HuggingFaceModel):
        return True
    known = [other.name for other in all_modalities() if model.model_type in other.hugging_face_types]
    return not known or modality.name in known


def read_space(node: Node, folder: Path = Path()) -> Space:
    """Returns the space that a mapping declares; a file of user primitives is relative to `folder`."""
    return parse_space(node, _modality(node).taxonomy, folder)


def differing_sources(task: TaskConfig, model: ModelConfig, other: ModelConfig) -> str:
    """Returns in what the examples that are stored for two models differ, such as `tokenizer`; empty if in nothing."""
    preparation = load_modality(task.modality).preparation
    digests = dict.fromkeys(preparation.files(task))
    ours, theirs = (preparation.source(task, each.to_plain(), digests) for each in (model, other))
    return " and ".join(name for name in ours if ours[name] != theirs.get(name))


def load_space(name_or_path: str | Path) -> Space:
    """Returns a space of the catalog by name, or a user's by path. Raises SpecError with file, line and remedy."""
    file = catalog.path("spaces", name_or_path)
    node, _ = load_yaml(file)
    return replace(read_space(node, file.parent), name=file.stem)


def _modality(node: Node) -> Modality:
    """Returns the modality that a task or a space is of, by its key `kind:`."""
    if "kind" not in node:
        return load_modality(DEFAULT_MODALITY)
    kind = node["kind"].value
    if kind not in MODALITIES:
        raise node.error(f"unknown choice {kind!r}{did_you_mean(str(kind), MODALITIES)}", "kind")
    return load_modality(kind)
