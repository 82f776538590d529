"""Text, images or tables: the task says which, and space, model and settings have to fit it.

Raises SpecError at the line of the key that is wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raysearch.config.parameters import DEFAULTS
from raysearch.modalities.image.config import IMAGE_MODELS, ImageModel
from raysearch.modalities.table.config import TABLE_MODELS, TableModel, TableTask
from raysearch.modalities.text.config import MODELS
from raysearch.schema.node import Keys, Node

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

# Model types that are known to be of one kind; another is asked when it is built.
TEXT_TYPES = {"bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "albert", "deberta-v2", "camembert"}
IMAGE_TYPES = {"resnet", "vit", "convnext", "convnextv2", "swin", "deit", "beit", "regnet", "mobilenet_v2", "dinov2"}
NO_USE = {  # settings that say nothing of a kind
    "image": ("max_length", "lm_head", "lm_rank"),
    "table": ("max_length", "lm_head", "lm_rank"),
    "text": (),
}


def check_kinds(search: Search, node: Node) -> None:
    """Refuse a space, a model or a setting (unless it is as it would be anyway) of another kind than the task's."""
    kind = search.task.kind
    for name, space in search.spaces.items():
        if space.modality != kind:
            problem = f"{name} has objectives on {_called(space.modality)}, and the task is of {_called(kind)}"
            raise node.error(problem, *_place(search, name))
        if "auxiliary" in space.stages["data"] and not search.task.has_auxiliary:
            problem = f"has objectives on auxiliary images, and the task has no `auxiliary:` ({name})"
            raise node.error(problem, *_place(search, name))
    known = _model_kind(search)
    if known != kind and (known is not None or kind == "table"):
        texts = MODELS.keys() - IMAGE_MODELS.keys() - TABLE_MODELS.keys()
        fitting = _names({"text": texts, "image": IMAGE_MODELS, "table": TABLE_MODELS}[kind])
        own = "{mlp: [64, 16]}" if kind == "table" else "{path: NAME}"
        raise node.error(f"is no model for {_called(kind)}; such as {fitting}, or {own}", "model")
    _numbers_alone(search, node)
    for name in NO_USE[kind]:
        for under in ("settings", "dimensions"):
            if getattr(search, under).get(name, DEFAULTS[name]) != DEFAULTS[name]:
                raise node.error(f"says nothing of {_called(kind)}: it is used for text alone", under, name)


def _numbers_alone(search: Search, node: Node) -> None:
    """Refuse to ask whether a class is above its mean."""
    if not isinstance(search.task, TableTask):
        return
    for name, space in search.spaces.items():
        asked = {objective.data for objective in space.objectives if objective.output == "above_mean"}
        for data in sorted(asked):
            if not search.task.lacks(data) and search.task.kind_of(data) == "class":
                problem = f"asks in {name} whether the labels of {data} are above their mean, and they are classes"
                raise node.error(problem, *_place(search, name))


def check_timm(search: Search, node: Node) -> None:
    """Refuse a timm model where timm is not installed."""
    if isinstance(search.model, ImageModel) and search.model.timm and importlib.util.find_spec("timm") is None:
        raise node.error("needs the package timm; pip install 'raysearch[timm]'", "model", "timm")


def _model_kind(search: Search) -> str | None:
    """The kind of the model, where it can be told without loading it."""
    model = search.model
    if isinstance(model, ImageModel):
        return "image"
    if isinstance(model, TableModel):
        return "table"
    if model.package:
        return "text"
    named = (model.config or {}).get("model_type")
    return "text" if named in TEXT_TYPES else "image" if named in IMAGE_TYPES else None


def _called(kind: str) -> str:
    return {"text": "text", "image": "images", "table": "tables"}[kind]


def _names(known: Iterable[str]) -> str:
    return ", ".join(sorted(known))


def _place(search: Search, space: str) -> Keys:
    """Where a space is named."""
    if search.space == space:
        return ("space",)
    named = [name for name, baseline in search.baselines.items() if baseline.space == space]
    return ("baselines", named[0], "space") if named else ("dimensions", "space")
