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
    """A setting, a method family, the space or a primitive, and the values to try for it."""

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0  # low to choices: of the kind, or unused
    high: float = 0
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: dict[str, tuple[Value, ...]] = field(default_factory=dict)  # other dimensions, and values that draw this one

    @classmethod
    def read(cls, node: Node) -> Dimension:
        """A dimension as declared: `{float: [low, high], log: true, when: {...}}`, int alike, or `{choice: [...]}`."""
        name = str(node.keys[-1])
        kinds = [kind for kind in ("float", "int", "choice") if kind in node.mapping(_DIMENSION)]
        if len(kinds) != 1:
            raise node.error("must have one of float: [low, high], int: [low, high] and choice: [...]")
        kind: Any = kinds[0]
        log = node["log"].read(bool) if "log" in node else False
        if log and kind == "choice":
            raise node.error("choices have no logarithm", "log")
        check_name(node, name)
        when = node["when"].read(dict[str, tuple[bool | int | float | str, ...]]) if "when" in node else {}
        when = {parent: tuple(widen_integer(parent, value) for value in values) for parent, values in when.items()}
        if kind == "choice":
            return cls(name=name, kind=kind, choices=_choices(node[kind], name), when=when)
        low, high = _bounds(node[kind], name, int if kind == "int" else float)
        if log and low <= 0:
            raise node.error("a logarithmic dimension begins above 0", kind)
        return cls(name=name, kind=kind, low=low, high=high, log=log, when=when)

    def to_plain(self) -> dict[str, Any]:
        """What `read` reads."""
        values = list(self.choices) if self.kind == "choice" else [self.low, self.high]
        parts = {self.kind: values, "log": self.log, "when": {name: list(v) for name, v in self.when.items()}}
        return {key: part for key, part in parts.items() if part}

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All its values in order, or None where there is no end of them (float)."""
        if self.kind == "int":
            return tuple(range(int(self.low), int(self.high) + 1))
        return self.choices if self.kind == "choice" else None

    def holds(self, value: object) -> bool:
        """Is this one of its values?"""
        if self.kind == "choice":
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        wanted = int if self.kind == "int" else float
        return type(value) is wanted and self.low <= value <= self.high


_DIMENSION = ("float", "int", "choice", "log", "when")


def _choices(node: Node, name: str) -> tuple[Value, ...]:
    values = tuple(setting_value(child, name) for child in node.items())
    if len(values) < 2:
        raise node.error(f"has {len(values)} value; fix it instead, or give more")
    if len({(type(value), value) for value in values}) < len(values):
        raise node.error("a value is given twice")
    return values


def _bounds(node: Node, name: str, kind: type) -> tuple[float, float]:
    own = type(DEFAULTS[name]) if name in DEFAULTS else float if name.startswith(WEIGHT_PREFIX) else str
    if own is not kind:
        remedy = {int: "use int: [low, high]", float: "use float: [low, high]"}.get(own, "use choice: [...]")
        raise node.error(f"does not fit {name}; {remedy}")
    bounds = [setting_value(child, name) for child in node.items()]
    if len(bounds) != 2:
        raise node.error(f"must be [low, high], got {len(bounds)} values")
    low, high = bounds
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        remedy = "; fix it instead" if low == high else ""
        raise node.error(f"must be [low, high] with low < high, got [{low:g}, {high:g}]{remedy}")
    return low, high
