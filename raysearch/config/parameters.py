"""What a file may set by name: settings, method families, the space, primitives and static weights.

A name is one of SETTINGS, one of FAMILIES, `space`, `include.<stage>.<primitive>`, `weight.<stage>.<primitive>` or
`weight.<objective>`. As dimensions, `weight.<stage>.*` and `weight.*` stand for all primitives or objectives.
"""

from __future__ import annotations

import re
from dataclasses import Field, fields
from typing import Any, cast

from raysearch.errors import did_you_mean, nearest
from raysearch.methods import FAMILIES, METHODS, Family, methods_of
from raysearch.modalities import all_modalities
from raysearch.objectives.primitive import STAGES
from raysearch.schema.fields import Settings, Value, check_value
from raysearch.schema.node import Node
from raysearch.training_settings import TrainingSettings

INCLUDE_PREFIX = "include."  # include.<stage>.<primitive>: whether the space has that primitive
WEIGHT_PREFIX = "weight."  # weight.<stage>.<primitive>, weight.<objective>: factors of an objective's static weight
OVERRIDE_KEY = re.compile(  # one part of the dotted key of `--set`: a setting's name is one part, dots and all
    rf"include\.[^.]+\.[^.]+|weight\.(?:{'|'.join(STAGES)})\.[^.]+|weight\.[^.]+|[^.]+"
)

_OF_MODELS = [config.settings for modality in all_modalities() for config in modality.model_configs]
_GROUPS: dict[type[Settings], None] = dict.fromkeys(
    [TrainingSettings, *(method.settings for method in METHODS.values()), *_OF_MODELS]
)
MODEL_SETTINGS = frozenset(field.name for group in _OF_MODELS for field in fields(group))  # of one kind of model each
SETTINGS: dict[str, Field[Any]] = {field.name: field for group in _GROUPS for field in fields(group)}
DEFAULTS: dict[str, Value] = {name: cast(Value, field.default) for name, field in SETTINGS.items()}
PHASE_LENGTHS = tuple(name for name, field in SETTINGS.items() if field.metadata["is_phase_length"])  # in steps


def check_method(node: Node, family: Family, name: str) -> None:
    """Raises SpecError for a name that is no method of the family, and says so if it is a method of another."""
    if name in methods_of(family):
        return
    if name in METHODS:
        other = METHODS[name].family
        raise node.error(f"{name!r} is a {other}, not a {family}{did_you_mean('', methods_of(family))}")
    raise node.error(f"unknown {family} {name!r}{did_you_mean(name, methods_of(family))}")


def check_name(node: Node, name: str) -> None:
    """Raises SpecError for a name that is no setting, family or `space`, and names no primitive or objective."""
    prefix = next((prefix for prefix in (INCLUDE_PREFIX, WEIGHT_PREFIX) if name.startswith(prefix)), "")
    stage, dot, primitive = name.removeprefix(prefix).partition(".")
    if prefix == INCLUDE_PREFIX or (prefix and dot):
        if stage not in STAGES:
            raise node.error(f"unknown stage {stage!r}{did_you_mean(stage, STAGES)}")
        if not primitive:
            raise node.error(f"name a primitive: {prefix}{stage}.PRIMITIVE")
    elif prefix:
        if not stage:
            raise node.error("name a primitive, weight.STAGE.PRIMITIVE, an objective, weight.D/T/R/O, or all, weight.*")
    elif name not in (known := {*SETTINGS, *FAMILIES, "space"}):
        raise node.error(f"unknown setting {name!r}{nearest(name, known) or '; `raysearch ls settings` lists them'}")


def fixed_settings(node: Node) -> dict[str, Value]:
    """Returns settings by name, each checked against its declared range."""
    values: dict[str, Value] = {}
    for child in node.mapping():
        name = str(child.keys[-1])
        if name in (*FAMILIES, "space"):
            key = "`space:`" if name == "space" else "`method:`"
            raise child.error(f"is set by {key}, not here")
        check_name(child, name)
        values[name] = setting_value(child, name)
    return values


def setting_value(node: Node, name: str) -> Value:
    """Returns the value of a setting, family or include, in the type that its declaration has."""
    if name.startswith(INCLUDE_PREFIX):
        include: bool = node.read(bool)
        return include
    if name.startswith(WEIGHT_PREFIX):
        weight = float(node.read(int | float))
        if not 0 <= weight < float("inf"):
            raise node.error(f"a weight is at least 0, got {weight:g}")
        return weight
    if name == "space":
        space: str = node.read(str)
        return space
    for family in FAMILIES:
        if name == family:
            method: str = node.read(str)
            check_method(node, family, method)
            return method
    value: Value = node.read(bool | int | float | str)
    node.check(SETTINGS[name], value)
    return typed_value(name, value)


def typed_value(name: str, value: Value) -> Value:
    """Returns the value in the type of its setting: 1 becomes 1.0 where the setting is a float.

    Raises ValueError for a value outside the setting's range.
    """
    if name in SETTINGS:
        check_value(SETTINGS[name], value)
    return widen_integer(name, value)


def widen_integer(name: str, value: Value) -> Value:
    """Returns a whole number as a float if the setting of that name is a float; any other value as it is."""
    is_float = name.startswith(WEIGHT_PREFIX) or isinstance(DEFAULTS.get(name), float)
    return float(value) if is_float and type(value) is int else value
