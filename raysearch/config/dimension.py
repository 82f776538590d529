"""A dimension of a search: what is varied, between which values, and under which conditions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from raysearch.config.parameters import (
    DEFAULTS,
    WEIGHT_PREFIX,
    check_name,
    setting_value,
    widen_integer,
)
from raysearch.schema.fields import Value
from raysearch.schema.node import Node


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A setting, a method family, the space, a primitive or a weight, and the values to try for it."""

    name: str
    type: Literal["float", "int", "choice"]
    low: float = 0  # low, high and log: of float and int
    high: float = 0
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: dict[str, tuple[Value, ...]] = field(default_factory=dict)  # other dimensions, and values of theirs

    @classmethod
    def read(cls, node: Node) -> Dimension:
        """Reads `{float: [low, high], log: true, when: {...}}`, the same with `int`, or `{choice: [...]}`."""
        name = str(node.keys[-1])
        types = [name for name in ("float", "int", "choice") if name in node.mapping(_KEYS)]
        if len(types) != 1:
            raise node.error("must have one of float: [low, high], int: [low, high] and choice: [...]")
        declared: Any = types[0]
        log = node["log"].read(bool) if "log" in node else False
        if log and declared == "choice":
            raise node.error("choices have no logarithm", "log")
        check_name(node, name)
        when = node["when"].read(dict[str, tuple[bool | int | float | str, ...]]) if "when" in node else {}
        when = {parent: tuple(widen_integer(parent, value) for value in values) for parent, values in when.items()}
        if declared == "choice":
            return cls(name=name, type=declared, choices=_choices(node[declared], name), when=when)
        low, high = _bounds(node[declared], name, int if declared == "int" else float)
        if log and low <= 0:
            raise node.error("must have a lower bound above 0, because of `log: true`", declared)
        return cls(name=name, type=declared, low=low, high=high, log=log, when=when)

    def to_plain(self) -> dict[str, Any]:
        """Returns the short form that `read` reads."""
        values = list(self.choices) if self.type == "choice" else [self.low, self.high]
        entries = {self.type: values, "log": self.log, "when": {name: list(v) for name, v in self.when.items()}}
        return {key: entry for key, entry in entries.items() if entry}

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All values in order; None for a continuous dimension."""
        if self.type == "int":
            return tuple(range(int(self.low), int(self.high) + 1))
        return self.choices if self.type == "choice" else None

    def holds(self, value: object) -> bool:
        """Returns whether this is one of the dimension's values, type included."""
        if self.type == "choice":
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        number = int if self.type == "int" else float
        return type(value) is number and self.low <= value <= self.high


_KEYS = ("float", "int", "choice", "log", "when")


def _choices(node: Node, name: str) -> tuple[Value, ...]:
    values = tuple(setting_value(child, name) for child in node.items())
    if len(values) < 2:
        raise node.error(f"has {len(values)} value; put it under `settings:`, or list more")
    if len({(type(value), value) for value in values}) < len(values):
        raise node.error("lists a value twice")
    return values


def _bounds(node: Node, name: str, declared: type) -> tuple[float, float]:
    expected = type(DEFAULTS[name]) if name in DEFAULTS else float if name.startswith(WEIGHT_PREFIX) else str
    if expected is not declared:
        remedy = {int: "use int: [low, high]", float: "use float: [low, high]"}.get(expected, "use choice: [...]")
        raise node.error(f"does not fit {name}; {remedy}")
    bounds = [setting_value(child, name) for child in node.items()]
    if len(bounds) != 2:
        raise node.error(f"must be [low, high], got {len(bounds)} values")
    low, high = bounds
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        remedy = "; put it under `settings:`" if low == high else ""
        raise node.error(f"must be [low, high] with low < high, got [{low:g}, {high:g}]{remedy}")
    return low, high
