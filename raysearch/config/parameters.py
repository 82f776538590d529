"""What a file may set by name: settings, method families, the space, and the primitives that are in.

A name is one of SETTINGS, of FAMILIES, `space`, `include.<stage>.<primitive>`, or, for static weights, one of
`weight.<stage>.<primitive>` and `weight.<objective>`; as dimensions, `weight.<stage>.*` and `weight.*` stand for all.
"""

from __future__ import annotations

import re
from dataclasses import Field, fields
from typing import Any, cast

from raysearch.errors import did_you_mean
from raysearch.methods import FAMILIES, METHODS, Family, methods_of
from raysearch.objectives.primitive import STAGES
from raysearch.schema.fields import Settings, Value, check_value
from raysearch.schema.node import Node
from raysearch.training_settings import TrainingSettings

INCLUDE_PREFIX = "include."  # include.<stage>.<primitive>: is that primitive of the space in?
WEIGHT_PREFIX = "weight."  # weight.<stage>.<primitive>, weight.<objective>: factors of an objective's static weight
OVERRIDE_KEY = re.compile(  # one part of the dotted key of `--set`: a setting's name is one part, dots and all
    r"include\.[^.]+\.[^.]+|weight\.(?:data|transform|representation|output)\.[^.]+|weight\.[^.]+|[^.]+"
)

_GROUPS: list[type[Settings]] = [TrainingSettings, *(method.settings for method in METHODS.values())]
SETTINGS: dict[str, Field[Any]] = {about.name: about for group in _GROUPS for about in fields(group)}
DEFAULTS: dict[str, Value] = {name: cast(Value, about.default) for name, about in SETTINGS.items()}


def check_method(node: Node, family: Family, name: str) -> None:
    """Refuse a name that is no method of the family, saying so when it is one of another."""
    if name in methods_of(family):
        return
    if name in METHODS:
        raise node.error(f"{name!r} is a {METHODS[name].family}, not a {family}{did_you_mean('', methods_of(family))}")
    raise node.error(f"unknown {family} {name!r}{did_you_mean(name, methods_of(family))}")


def check_name(node: Node, name: str) -> None:
    """Refuse a name that is neither a setting, a method family, `space` nor one of a primitive or an objective."""
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
        raise node.error(f"unknown setting {name!r}{did_you_mean(name, known)}")


def fixed_settings(node: Node) -> dict[str, Value]:
    """Settings by name, each checked against its declared range."""
    given: dict[str, Value] = {}
    for child in node.mapping():
        name = str(child.keys[-1])
        if name in (*FAMILIES, "space"):
            place = "`space:`" if name == "space" else "`method:`"
            raise child.error(f"is set by {place}, not here")
        check_name(child, name)
        given[name] = setting_value(child, name)
    return given


def setting_value(node: Node, name: str) -> Value:
    """A value of the setting, family or include of that name, in the setting's own type."""
    if name.startswith(INCLUDE_PREFIX):
        return node.read(bool)  # type: ignore[no-any-return]
    if name.startswith(WEIGHT_PREFIX):
        weight = float(node.read(int | float))
        if not 0 <= weight < float("inf"):
            raise node.error(f"a weight is at least 0, got {weight:g}")
        return weight
    if name in FAMILIES or name == "space":
        word: str = node.read(str)
        if name != "space":
            check_method(node, name, word)  # type: ignore[arg-type]
        return word
    value: Value = node.read(bool | int | float | str)
    node.check(SETTINGS[name], value)
    return typed_value(name, value)


def typed_value(name: str, value: Value) -> Value:
    """The value as its setting has it: 1 becomes 1.0 where a number may have a fraction.

    Raises ValueError for a value out of the setting's range.
    """
    if name not in SETTINGS:
        return widen_integer(name, value)
    check_value(SETTINGS[name], value)
    return widen_integer(name, value)


def widen_integer(name: str, value: Value) -> Value:
    """The value of that name, unchecked: a whole number as a float where the setting is one."""
    is_float = name.startswith(WEIGHT_PREFIX) or isinstance(DEFAULTS.get(name), float)
    return float(value) if is_float and type(value) is int else value
