"""Strict YAML into frozen dataclasses: every refusal is one line, `file:line: key: problem`.

A file is read whole into a tree of `Node`s that know where they were written. `node.read(kind)` gives a value of
that type or refuses: an unknown key, a missing one, a wrong type, a number out of the range that its field declares
(`fields.setting`). A class with a `read(node)` of its own is asked instead. `to_plain` goes back to JSON-able values.

Scalars are YAML 1.2's, not 1.1's: `1e-4` is a number; `none`, `on`, `off`, `yes` and `no` are words.
"""

from __future__ import annotations

import copy
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from raysearch.errors import SpecError, did_you_mean
from raysearch.formatting import describe_value
from raysearch.schema.catalog import display_path
from raysearch.schema.fields import check_value

T = TypeVar("T")
Keys = tuple[str | int, ...]
Place = tuple[str, int]  # file and line, or the command-line argument and 0

HIDDEN = {"hidden": True}  # metadata of a dataclass field that no file may set and `to_plain` leaves out
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_INT = re.compile(r"[-+]?[0-9]+")
_DOTTED = re.compile(
    r"include\.[^.]+\.[^.]+|weight\.(?:data|transform|representation|output)\.[^.]+|weight\.[^.]+|[^.]+"
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """Takes every scalar as text; `_plain_scalar` says what it is."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- PyYAML's own name and type


def join_keys(keys: Iterable[str | int]) -> str:
    """Keys as a user writes them: `exclude[0].representation`."""
    words = (key if isinstance(key, int) or key.isprintable() else repr(key) for key in keys)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in words).removeprefix(".")


@dataclass(frozen=True)
class Node:
    """A value of a file and where it was written."""

    value: Any
    keys: Keys = ()
    places: Mapping[Keys, Place] = field(default_factory=dict, repr=False)

    def error(self, problem: str, *below: str | int) -> SpecError:
        """The error to raise about this node, or about a key below it."""
        keys = self.keys + below
        near = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in self.places), None)
        file, line = self.places[near] if near is not None else ("", 0)
        return SpecError(problem, file=file, line=line, key=join_keys(keys))

    def __getitem__(self, key: str | int) -> Node:
        return Node(self.value[key], (*self.keys, key), self.places)

    def __contains__(self, key: object) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __iter__(self) -> Iterator[Node]:
        keys = self.value if isinstance(self.value, dict) else range(len(self.value))
        return (self[key] for key in keys)

    def items(self) -> list[Node]:
        """The entries of this list; SpecError if it is none."""
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, got {describe_value(self.value)}")
        return list(self)

    def mapping(self, known: Iterable[str] | None = None) -> Node:
        """This node if it is a mapping with no key but the `known`; else the error."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping (key: value), got {describe_value(self.value)}")
        for key in self.value:
            if known is not None and key not in (names := list(known)):
                raise self.error(f"unknown key {key!r}{did_you_mean(key, names)}", key)
        return self

    def read(self, kind: Any) -> Any:
        """The value as a `kind`: a dataclass, a scalar, Literal, tuple[X, ...], dict[str, X], or a union of these."""
        origin, args = get_origin(kind), get_args(kind)
        if hasattr(kind, "read"):
            return kind.read(self)
        if is_dataclass(kind):
            return self.fields_of(cast(type[Any], kind))
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is Literal:
            if self.value not in args:
                raise self.error(f"unknown choice {self.value!r}{did_you_mean(str(self.value), map(str, args))}")
            return self.value
        if origin is tuple:
            lone = isinstance(self.value, str) or args[0] is not int  # a lone number could be meant as a count
            if isinstance(self.value, list):
                return tuple(node.read(args[0]) for node in self)
            if isinstance(self.value, dict) or self.value is None or not lone:
                raise self.error(f"must be a list, got {describe_value(self.value)}")
            return (self.read(args[0]),)
        if origin is dict:
            return {node.keys[-1]: node.read(args[1]) for node in self.mapping()}
        if kind is Any:
            return self.value
        return self._scalar(kind)

    def fields_of(self, kind: type[T], given: Mapping[str, Any] | None = None) -> T:
        """A dataclass from this mapping; `given` are fields read elsewhere."""
        allowed = {f.name: f for f in fields(kind) if "hidden" not in f.metadata}  # type: ignore[arg-type]
        self.mapping(allowed)
        hints = get_type_hints(kind)
        values = dict(given or {})
        for name, about in allowed.items():
            if name in values:
                continue
            if name in self:
                values[name] = self[name].read(hints[name])
                self[name].check(about, values[name])
            elif about.default is MISSING and about.default_factory is MISSING:
                raise self.error(f"the key {name!r} is missing")
        return kind(**values)

    def check(self, about: Field[Any], value: object) -> None:
        """Refuse a value outside the range that the field declares; a field without `fields.setting` takes all."""
        if "meaning" in about.metadata:
            try:
                check_value(about, value)
            except ValueError as error:
                raise self.error(str(error).removeprefix(about.name).lstrip(": ")) from None

    def _union(self, args: tuple[Any, ...]) -> Any:
        if self.value is None and types.NoneType in args:
            return None
        kinds = [kind for kind in args if kind is not types.NoneType]
        exact = [kind for kind in kinds if type(self.value) is kind]
        if len(kinds) > 1 and not exact and all(kind in _WORDS for kind in kinds):
            raise self.error(f"must be one value, got {describe_value(self.value)}")
        return self.read((exact or kinds)[0])

    def _scalar(self, kind: type) -> Any:
        if kind is float and type(self.value) is int:
            return float(self.value)
        if type(self.value) is not kind:
            raise self.error(f"must be {_WORDS[kind]}, got {describe_value(self.value)}")
        return self.value


def load_yaml(file: Path) -> tuple[Node, str]:
    """The root mapping of a YAML file, and the text as written; SpecError if it cannot be read."""
    name = display_path(file)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text (byte {error.start})", file=name) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=name) from None
    places: dict[Keys, Place] = {}
    value = _parse(text, name, places)
    if value is None:
        raise SpecError("is empty", file=name)
    return Node(value, (), places).mapping(), text


def _parse(text: str, name: str, places: dict[Keys, Place]) -> Any:
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _convert(node, (), name, places, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise SpecError(f"not YAML: {error.problem or error.context}", file=name, line=line) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise SpecError(f"not YAML: {error.reason} (#x{ord(text[error.position]):02x})", file=name, line=line) from None
    except RecursionError:
        raise SpecError("not readable: nested too deeply", file=name) from None


def _convert(node: yaml.Node, keys: Keys, name: str, places: dict[Keys, Place], above: tuple[yaml.Node, ...]) -> Any:
    """The plain value of a YAML node; fills `places` with the line of every key."""
    line = node.start_mark.line + 1
    places.setdefault(keys, (name, line))

    def refuse(problem: str, at: int = line, key: Keys = keys) -> SpecError:
        return SpecError(problem, file=name, line=at, key=join_keys(key))

    if any(node is parent for parent in above):
        raise refuse("an alias inside its own anchor")
    if node.tag not in _TAGS:
        raise refuse(f"tags are not used here: {node.tag}")
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, (*keys, i), name, places, above) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, child in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise refuse("a key must be a word", at)
            if key.value in mapping:
                raise refuse("this key is given twice", at, (*keys, key.value))
            places[(*keys, key.value)] = (name, at)
            mapping[key.value] = _convert(child, (*keys, key.value), name, places, above)
        return mapping
    assert isinstance(node, yaml.ScalarNode)
    try:
        return _plain_scalar(node.value) if node.style is None else node.value
    except ValueError:
        raise refuse(f"the number {node.value[:40]!r} is too large") from None


def _plain_scalar(text: str) -> bool | int | float | str | None:
    """The value of an unquoted scalar; ValueError for a number out of all ranges."""
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        if not math.isfinite(number := float(text)):
            raise ValueError
        return number
    return text


def to_plain(value: Any) -> Any:
    """JSON-able values that `Node.read` reads back as equal; None and empty entries of a dataclass are left out."""
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if is_dataclass(value):
        parts = {f.name: to_plain(getattr(value, f.name)) for f in fields(value) if "hidden" not in f.metadata}
        return {name: part for name, part in parts.items() if part not in (None, "", {}, [])}
    if isinstance(value, dict):
        return {key: to_plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(part) for part in value]
    return value


def apply_overrides(root: Node, given: Mapping[str, str]) -> Node:
    """The tree with values replaced, as `--set key=value` asks; a value of `null` takes the key out.

    A key is dotted; `include.<stage>.<primitive>` counts as one part, and so do weights. Raises SpecError for a key
    below a scalar.
    """
    tree, places = copy.deepcopy(root.value), dict(root.places)
    for name, text in given.items():
        said_as = f"--set {name}={text}"
        keys = tuple(_DOTTED.findall(name))
        at = tree
        for depth, key in enumerate(keys[:-1], 1):
            at = at.setdefault(key, {})
            if not isinstance(at, dict):
                raise SpecError(
                    f"{'.'.join(keys[:depth])} is {describe_value(at)} here, not a mapping; set it whole", file=said_as
                )
        if not keys:
            raise SpecError("must be key=value", file=said_as)
        for old in [old for old in places if old[: len(keys)] == keys]:
            del places[old]
        places[keys] = (said_as, 0)
        try:
            value = _parse(text, said_as, {})
        except SpecError as error:
            raise SpecError(error.problem, file=said_as) from None
        if value is None:
            at.pop(keys[-1], None)
        else:
            at[keys[-1]] = value
    return Node(tree, root.keys, places)
