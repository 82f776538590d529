"""Checks of the models of a search as far as their files and declarations tell, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from raysearch.modalities import load_modality
from raysearch.modalities.base import Modality, ModelConfig
from raysearch.models.findings import Finding
from raysearch.schema.node import Node, join_keys

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

Examination = Callable[[Modality, ModelConfig, int], Iterator[Finding]]  # the last is the largest max_length


def check_models(search: Search, node: Node) -> tuple[str, ...]:
    """Returns remarks on the models. Raises SpecError for the first one that cannot be used."""
    return examine_models(search, node, lambda modality, model, longest: modality.model_findings(model, longest))


def try_configs(search: Search, node: Node) -> tuple[str, ...]:
    """Does the same for what needs the libraries that build the models."""
    return examine_models(search, node, lambda modality, model, _: modality.config_findings(model))


def examine_models(search: Search, node: Node, examine: Examination) -> tuple[str, ...]:
    """Returns the remarks of an examination of every model. Raises SpecError for the first refusal."""
    modality, remarks = load_modality(search.task.modality), []
    longest = int(max(arm.bound("max_length", max) for arm in search.arms.values()))
    for keys, model in search.models.items():
        for finding in examine(modality, model, longest):
            if finding.is_refusal:
                raise node.error(finding.text, *keys, *finding.keys)
            remarks.append(f"{join_keys((*keys, *finding.keys))}: {finding.text}")
    return tuple(remarks)
