"""YAML read into a tree of nodes that know their file and line, and the overrides of the command line.

Scalars are YAML 1.2's, not 1.1's: `1e-4` is a number; `none`, `on`, `off`, `yes` and `no` are words.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raysearch.errors import SpecError
from raysearch.formatting import describe_value
from raysearch.schema.catalog import display_path
from raysearch.schema.node import Keys, Node, Place, join_keys

_INT = re.compile(r"[-+]?[0-9]+")
_PART = re.compile(r"[^.]+")  # of a dotted key
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

LARGEST_FILE = 4 << 20  # bytes of a YAML file
LARGEST_TREE = 100_000  # values of a file, each alias counted with all that it stands for
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """Loads every scalar as text, which `_plain_scalar` converts."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- PyYAML's own name and type


def load_yaml(file: Path) -> tuple[Node, str]:
    """Returns the root mapping of a YAML file, and its text. Raises SpecError if the file cannot be read."""
    name = display_path(file)
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise SpecError(f"is too large to be a search or a space: more than {LARGEST_FILE >> 20} MiB", file=name)
        text = data.decode("utf-8-sig")
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
    """Returns the value of a YAML node; writes the line of every key into `places`."""
    line = node.start_mark.line + 1
    places.setdefault(keys, (name, line))
    if len(places) > LARGEST_TREE:
        problem = f"not readable: more than {LARGEST_TREE} values, aliases counted with what they stand for"
        raise SpecError(problem, file=name, line=line)

    def error(problem: str, at: int = line, key: Keys = keys) -> SpecError:
        return SpecError(problem, file=name, line=at, key=join_keys(key))

    if any(node is parent for parent in above):
        raise error("an alias inside its own anchor")
    if node.tag not in _TAGS:
        raise error(f"tags are not used here: {node.tag}")
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, (*keys, i), name, places, above) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, child in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise error("a key must be a word", at)
            if key.value in mapping:
                raise error("this key is given twice", at, (*keys, key.value))
            places[(*keys, key.value)] = (name, at)
            mapping[key.value] = _convert(child, (*keys, key.value), name, places, above)
        return mapping
    assert isinstance(node, yaml.ScalarNode)
    try:
        return _plain_scalar(node.value) if node.style is None else node.value
    except ValueError:
        raise error(f"the number {node.value[:40]!r} is too large") from None


def _plain_scalar(text: str) -> bool | int | float | str | None:
    """Returns the value of an unquoted scalar. Raises ValueError for a number that no float holds."""
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


def apply_overrides(root: Node, overrides: Mapping[str, str], part: re.Pattern[str] = _PART) -> Node:
    """Returns the tree with the values of `--set key=value` replaced; the value `null` removes the key.

    A key is dotted; `part` matches one part of it. Raises SpecError for a key below a scalar.
    """
    tree, places = copy.deepcopy(root.value), dict(root.places)
    for name, text in overrides.items():
        argument = f"--set {name}={text}"
        keys = tuple(part.findall(name))
        mapping = tree
        for depth, key in enumerate(keys[:-1], 1):
            mapping = mapping.setdefault(key, {})
            if not isinstance(mapping, dict):
                raise SpecError(
                    f"{'.'.join(keys[:depth])} is {describe_value(mapping)}, not a mapping; set it as a whole",
                    file=argument,
                )
        if not keys:
            raise SpecError("must be key=value", file=argument)
        for replaced in [each for each in places if each[: len(keys)] == keys]:
            del places[replaced]
        places[keys] = (argument, 0)
        try:
            value = _parse(text, argument, {})
        except SpecError as error:
            raise SpecError(error.problem, file=argument) from None
        if value is None:
            mapping.pop(keys[-1], None)
        else:
            mapping[keys[-1]] = value
    return Node(tree, root.keys, places)
