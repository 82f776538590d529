"""Incumbents: what a practitioner would use instead, as baselines that are shipped and have names.

Each is a file of the catalog `baselines`: what it is, its source, what it needs, and a baseline as a search declares
it.

    baselines: incumbents                      # all that this search can have
    baselines: [tfidf_lr, fine_tune]           # these
    baselines: {fine_tune: {trials: 4}, mine: {method: ...}}   # by name, fields override those of the file

An entry with a `method` of its own is not completed from a file, whatever its name.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raysearch.config.sections import Baseline
from raysearch.errors import did_you_mean
from raysearch.methods import DEFAULT_METHODS, METHODS
from raysearch.modalities import load_modality
from raysearch.modalities.base import ModelConfig, TaskConfig
from raysearch.modalities.loading import accepts_model, load_space, read_model
from raysearch.schema import catalog
from raysearch.schema.fields import config_key
from raysearch.schema.node import Node
from raysearch.schema.yaml_source import load_yaml

ALL = "incumbents"


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """A shipped baseline."""

    meaning: str = config_key("what it is, in a few words")
    source: str = config_key("where it was published", default="")
    needs_unlabelled: bool = config_key("whether it learns from unlabelled text of the task's domain", default=False)
    needs_pretrained: bool = config_key("whether it makes sense for a pre-trained encoder alone", default=False)
    baseline: dict[str, Any] = field(default_factory=dict)  # as a search declares it

    def declared(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the baseline with these fields in place of its own; settings and dimensions are replaced by name.

        A setting that is given in place of a dimension fixes it, and the other way round.
        """
        merged = {**self.baseline, **fields}
        settings, dimensions = ({**self.baseline.get(key, {})} for key in ("settings", "dimensions"))
        given_settings, given_dimensions = fields.get("settings"), fields.get("dimensions")
        if isinstance(given_settings, dict):
            merged["settings"] = settings | given_settings
            dimensions = {name: each for name, each in dimensions.items() if name not in given_settings}
            merged["dimensions"] = dimensions
        if isinstance(given_dimensions, dict):
            merged["dimensions"] = dimensions | given_dimensions
            settings = merged.get("settings", {})
            merged["settings"] = {name: each for name, each in settings.items() if name not in given_dimensions}
        return merged


@functools.cache
def incumbents() -> dict[str, Incumbent]:
    """Returns the shipped baselines by name."""
    loaded = {}
    for name in catalog.names("baselines"):
        node, _ = load_yaml(catalog.path("baselines", name))
        loaded[name] = node.fields_of(Incumbent)
        Baseline.read(node["baseline"])
    return loaded


def read_baselines(node: Node, task: TaskConfig, model: ModelConfig) -> dict[str, Baseline]:
    """Returns the baselines that a search with this task and model declares, by name.

    Raises SpecError for a name that is not shipped, or a shipped baseline that the search cannot have.
    """
    return {name: Baseline.read(each) for name, each in _entries(node, task, model).items()}


def absent_incumbents(declared: Any, task: TaskConfig, model: ModelConfig) -> dict[str, str]:
    """Returns why shipped baselines are left out of a search, by name; nothing unless it asks for all of them."""
    if declared != ALL:
        return {}
    return {name: problem for name, each in incumbents().items() if (problem := _why_absent(each, task, model))}


def _entries(node: Node, task: TaskConfig, model: ModelConfig) -> dict[str, Node]:
    """Returns the declaration of every baseline, completed from its file where it names one."""
    if node.value == ALL:
        absent = absent_incumbents(ALL, task, model)
        names = [name for name in incumbents() if name not in absent]
        return {name: Node(incumbents()[name].declared({}), (*node.keys, name), node.places) for name in names}
    if isinstance(node.value, str | list):
        entries: dict[str, Node] = {}
        for each in node if isinstance(node.value, list) else [node]:
            name = each.read(str)
            if name not in incumbents():
                raise each.error(f"no baseline {name!r} is shipped{did_you_mean(name, [ALL, *incumbents()])}")
            if name in entries:
                raise each.error(f"{name} is listed twice")
            entries[name] = _completed(Node({}, (*node.keys, name), node.places), task, model)
        return entries
    return {str(each.keys[-1]): _completed(each, task, model) for each in node.mapping()}


def _completed(entry: Node, task: TaskConfig, model: ModelConfig) -> Node:
    """Returns a baseline's declaration, completed from the file of its name unless it has a method of its own."""
    incumbent = incumbents().get(str(entry.keys[-1]))
    if incumbent is None or not isinstance(entry.value, dict) or "method" in entry:
        if isinstance(entry.value, dict) and "method" not in entry:
            near = did_you_mean(str(entry.keys[-1]), incumbents())
            raise entry.error(f"the key 'method' is missing, and no baseline of this name is shipped{near}")
        return entry
    declared = incumbent.declared(entry.value)
    if problem := _why_absent(replace(incumbent, baseline=declared), task, model):
        raise entry.error(problem)
    return Node(declared, entry.keys, entry.places)


def _why_absent(incumbent: Incumbent, task: TaskConfig, model: ModelConfig) -> str:
    """Returns why a search with this task and model cannot have the incumbent; empty if it can."""
    modality, declared = load_modality(task.modality), incumbent.baseline
    model = read_model(Node(declared["model"])) if "model" in declared else model
    if not accepts_model(modality, model):
        return f"its model is none for {modality.noun}"
    if not model.takes_steps and incumbent.needs_pretrained:
        return "it needs a pre-trained encoder, and the search's model has none"
    if not model.takes_steps and METHODS[declared["method"].get("schedule", DEFAULT_METHODS["schedule"])].takes_steps:
        return "it trains an encoder, and the search's model has none"
    if incumbent.needs_pretrained and not model.is_pretrained:
        return "it needs a pre-trained encoder, and the search's is randomly initialised"
    if incumbent.needs_unlabelled and not task.has_unlabelled:
        return "it learns from unlabelled text, and the task has no `domain:`"
    if "space" in declared:
        space = load_space(declared["space"])
        if space.modality != modality.name:
            return f"its objectives are on {load_modality(space.modality).noun}, and the task is of {modality.noun}"
        if problem := modality.space_problem(task, space):
            return f"its space {problem}"
    return ""
