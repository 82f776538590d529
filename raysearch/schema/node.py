"""A value of a file, the place where it was written, and the typed dataclass that it is read into.

`node.read(cls)` returns a value of that type or raises SpecError: for an unknown key, a missing key, a wrong type, or a
number outside the range that its field declares (`fields.setting`). A class with a method `read(node)` reads
itself. `to_plain` goes the other way, to values that JSON can hold.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from raysearch.errors import SpecError, did_you_mean
from raysearch.formatting import describe_value
from raysearch.schema.fields import TYPE_NAMES, check_value

T = TypeVar("T")
Keys = tuple[str | int, ...]
Place = tuple[str, int]  # file and line, or the command-line argument and 0


def join_keys(keys: Iterable[str | int]) -> str:
    """Returns keys as a user writes them: `exclude[0].representation`."""
    words = (key if isinstance(key, int) or key.isprintable() else repr(key) for key in keys)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in words).removeprefix(".")


@dataclass(frozen=True)
class Node:
    """A value of a file and where it was written."""

    value: Any
    keys: Keys = ()
    places: Mapping[Keys, Place] = field(default_factory=dict, repr=False)

    def error(self, problem: str, *below: str | int) -> SpecError:
        """Returns the error to raise about this node, or about a key below it."""
        keys = self.keys + below
        nearest = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in self.places), None)
        file, line = self.places[nearest] if nearest is not None else ("", 0)
        return SpecError(problem, file=file, line=line, key=join_keys(keys))

    def __getitem__(self, key: str | int) -> Node:
        return Node(self.value[key], (*self.keys, key), self.places)

    def __contains__(self, key: object) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __iter__(self) -> Iterator[Node]:
        keys = self.value if isinstance(self.value, dict) else range(len(self.value))
        return (self[key] for key in keys)

    def items(self) -> list[Node]:
        """Returns the entries of this list. Raises SpecError if it is not a list."""
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, got {describe_value(self.value)}")
        return list(self)

    def mapping(self, known: Iterable[str] | None = None) -> Node:
        """Returns this node. Raises SpecError unless it is a mapping with no other keys than `known`."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping (key: value), got {describe_value(self.value)}")
        for key in self.value:
            if known is not None and key not in (names := list(known)):
                raise self.error(f"unknown key {key!r}{did_you_mean(key, names)}", key)
        return self

    def read(self, hint: Any) -> Any:
        """Returns the value as the type that the hint names. Raises SpecError if it is none.

        The hint is a dataclass, a scalar, Literal, tuple[X, ...], dict[str, X], or a union of these.
        """
        origin, args = get_origin(hint), get_args(hint)
        if hasattr(hint, "read"):
            return hint.read(self)
        if is_dataclass(hint):
            return self.fields_of(cast(type[Any], hint))
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is Literal:
            if self.value not in args:
                raise self.error(f"unknown choice {self.value!r}{did_you_mean(str(self.value), map(str, args))}")
            return self.value
        if origin is tuple:
            may_be_single = isinstance(self.value, str) or args[0] is not int  # a single number may be meant as a count
            if isinstance(self.value, list):
                return tuple(node.read(args[0]) for node in self)
            if isinstance(self.value, dict) or self.value is None or not may_be_single:
                raise self.error(f"must be a list, got {describe_value(self.value)}")
            return (self.read(args[0]),)
        if origin is dict:
            return {node.keys[-1]: node.read(args[1]) for node in self.mapping()}
        if hint is Any:
            return self.value
        return self._scalar(hint)

    def fields_of(self, cls: type[T], values: Mapping[str, Any] | None = None) -> T:
        """Returns a dataclass read from this mapping; `values` are fields that were read elsewhere."""
        declared = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
        self.mapping(declared)
        hints = get_type_hints(cls)
        values = dict(values or {})
        for name, declaration in declared.items():
            if name in values:
                continue
            if name in self:
                values[name] = self[name].read(hints[name])
                self[name].check(declaration, values[name])
            elif declaration.default is MISSING and declaration.default_factory is MISSING:
                raise self.error(f"the key {name!r} is missing")
        return cls(**values)

    def check(self, declaration: Field[Any], value: object) -> None:
        """Raises SpecError for a value outside the range that the field declares, if it declares one."""
        if "meaning" in declaration.metadata:
            try:
                check_value(declaration, value)
            except ValueError as error:
                raise self.error(str(error).removeprefix(declaration.name).lstrip(": ")) from None

    def _union(self, args: tuple[Any, ...]) -> Any:
        if self.value is None and types.NoneType in args:
            return None
        members = [member for member in args if member is not types.NoneType]
        exact = [member for member in members if type(self.value) is member]
        if len(members) > 1 and not exact and all(member in TYPE_NAMES for member in members):
            raise self.error(f"must be one value, got {describe_value(self.value)}")
        return self.read((exact or members)[0])

    def _scalar(self, scalar: type) -> Any:
        if scalar is float and type(self.value) is int:
            return float(self.value)
        if type(self.value) is not scalar:
            raise self.error(f"must be {TYPE_NAMES[scalar]}, got {describe_value(self.value)}")
        return self.value


def to_plain(value: Any) -> Any:
    """Returns values that JSON holds and `Node.read` reads back; a dataclass leaves out None and empty entries."""
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if is_dataclass(value):
        entries = {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
        return {name: part for name, part in entries.items() if part not in (None, "", {}, [])}
    if isinstance(value, dict):
        return {key: to_plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(part) for part in value]
    return value
