from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.errors import SpecError
from raysearch.schema.fields import setting
from raysearch.schema.node import Node, join_keys, to_plain
from raysearch.schema.yaml_source import LARGEST_FILE, apply_overrides, load_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = setting(0.5, "a rate", low=0, high=1)
    word: str = "none"


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    kind: Literal["plain", "fancy"] = "plain"
    names: tuple[str, ...] = ()
    parts: dict[str, Inner] = field(default_factory=dict)
    maybe: int | None = None
    value: bool | int | float | str = 0


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "a.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def read(folder: Path, text: str) -> Outer:
    outer: Outer = load_yaml(write(folder, text))[0].read(Outer)
    return outer


def test_node_read_returns_the_dataclass(tmp_path: Path) -> None:
    text = "count: 3\nkind: fancy\nnames: [a, b]\nparts:\n  x: {rate: 1}\nmaybe: 4\nvalue: 1e-4\n"
    outer = Outer(count=3, kind="fancy", names=("a", "b"), parts={"x": Inner(rate=1.0)}, maybe=4, value=1e-4)
    assert read(tmp_path, text) == outer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("-3", -3),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("none", "none"),
        ("None", "None"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("null", None),
        ("", None),
        ("[a, 1, {b: 2}]", ["a", 1, {"b": 2}]),
    ],
)
def test_load_scalars_follow_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    scalar = load_yaml(write(tmp_path, f"a: {text}\n"))[0].value["a"]
    assert scalar == value
    assert type(scalar) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("count: 1\ncuont: 2\n", "2: cuont: unknown key 'cuont'; did you mean 'count'?"),
        ("kind: plain\n", "1: the key 'count' is missing"),
        ("count: 1.5\n", "1: count: must be a whole number, got 1.5"),
        ("count: true\n", "1: count: must be a whole number, got true"),
        ("count: '1'\n", "1: count: must be a whole number, got '1'"),
        ("count:\n", "1: count: must be a whole number, got nothing"),
        ("count: {a: 1}\n", "1: count: must be a whole number, got a mapping"),
        ("count: 1\nkind: fancie\n", "2: kind: unknown choice 'fancie'; did you mean 'fancy'?"),
        ("count: 1\nnames: {a: 1}\n", "2: names: must be a list, got a mapping"),
        ("count: 1\nnames:\n  - a\n  - 2\n", "4: names[1]: must be a word, got 2"),
        ("count: 1\nparts: 3\n", "2: parts: must be a mapping (key: value), got 3"),
        ("count: 1\nparts:\n  x:\n    rate: 2\n", "4: parts.x.rate: must be in [0, 1], got 2.0"),
        ("count: 1\nvalue: [1]\n", "2: value: must be one value, got a list"),
        ("count: 1\ncount: 2\n", "2: count: this key is given twice"),
        ("- 1\n", "1: must be a mapping (key: value), got a list"),
        ("count: [1\n", "2: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("count: 1\n\tkind: plain\n", "2: not YAML: found character '\\t' that cannot start any token"),
        ("count: 1\n---\ncount: 2\n", "2: not YAML: but found another document"),
        ("count: &a [*a]\n", "1: count[0]: an alias inside its own anchor"),
        (
            "count: !!python/name:os.system 1\n",
            "1: count: tags are not used here: tag:yaml.org,2002:python/name:os.system",
        ),
        ("count: !mine 1\n", "1: count: tags are not used here: !mine"),
        ("? [a]\n: 1\n", "1: a key must be a word"),
        ("count: 1e999\n", "1: count: the number '1e999' is too large"),
        ("count: 1\nvalue: \x01\n", "2: not YAML: special characters are not allowed (#x01)"),
    ],
)
def test_load_invalid_file_error_is_one_line_with_location(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        read(tmp_path, text)
    assert str(error.value) == f"{tmp_path}/a.yaml:{problem}"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"count: \xff\n", "not UTF-8 text (byte 7)"),
        (b"[" * 5000, "not readable: nested too deeply"),
        (b"count: " + b"9" * 5000, f"count: the number '{'9' * 40}' is too large"),
    ],
)
def test_load_unreadable_file_error_is_one_line(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        load_yaml(write(tmp_path, data))
    assert str(error.value).removeprefix(f"{tmp_path}/a.yaml:").removeprefix("1:").strip() == problem
    assert "\n" not in str(error.value)


def test_load_missing_file_and_folder_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path)


def test_node_read_single_word_becomes_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, "count: 1\nnames: a\n").names == ("a",)


def test_load_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffcount: 1\n").count == 1


def test_override_replaces_adds_and_removes_keys() -> None:
    root = Node({"a": {"b": 1, "c": 2}, "d": [1]})
    changed = apply_overrides(root, {"a.b": "1e-3", "a.c": "null", "e.f.g": "x", "d": "[2, 3]"})
    assert changed.value == {"a": {"b": 1e-3}, "d": [2, 3], "e": {"f": {"g": "x"}}}
    assert root.value == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_override_key_is_split_by_the_given_pattern() -> None:
    changed = apply_overrides(Node({}), {"a.b:c.d:e.f": "x"}, re.compile(r"[^.]+:[^.]+\.[^.]+:[^.]+|[^.]+"))
    assert changed.value == {"a": {"b:c.d:e": {"f": "x"}}}


def test_override_error_names_the_override(tmp_path: Path) -> None:
    root, _ = load_yaml(write(tmp_path, "count: 1\nparts: {x: {rate: 1}}\n"))
    with pytest.raises(SpecError, match=r"^--set parts\.x\.rate=7: parts\.x\.rate: must be in \[0, 1\], got 7\.0$"):
        apply_overrides(root, {"parts.x.rate": "7"}).read(Outer)
    with pytest.raises(SpecError, match=r"^--set count\.x=7: count is 1, not a mapping; set it as a whole$"):
        apply_overrides(root, {"count.x": "7"})
    with pytest.raises(SpecError, match=r"^--set count=\[: not YAML: "):
        apply_overrides(root, {"count": "["})
    with pytest.raises(SpecError, match=r"^--set \.=1: must be key=value$"):
        apply_overrides(root, {".": "1"})


def test_plain_values_round_trip() -> None:
    outer = Outer(count=1, names=("a",), parts={"x": Inner(rate=0.25, word="w")}, value=False)
    assert Node(to_plain(outer)).read(Outer) == outer


@given(st.lists(st.one_of(st.integers(0, 99), st.text("abc", min_size=1))))
def test_key_path_is_written_as_in_the_file(keys: list[str | int]) -> None:
    text = join_keys(keys)
    assert text.count("[") == sum(isinstance(key, int) for key in keys)
    assert not text.startswith(".")
    assert join_keys(("exclude", 0, "representation")) == "exclude[0].representation"


@given(
    st.recursive(
        st.one_of(st.booleans(), st.integers(), st.text()), lambda t: st.lists(t) | st.dictionaries(st.text(), t)
    )
)
def test_node_read_any_tree_returns_or_raises_spec_error(tree: object) -> None:
    with contextlib.suppress(SpecError):
        Node({"count": tree, "parts": tree}).read(Outer)


@given(st.text())
def test_override_any_text_returns_or_raises_spec_error(text: str) -> None:
    with contextlib.suppress(SpecError):
        apply_overrides(Node({}), {"a": text})


@pytest.mark.parametrize("kind", ["lists", "mappings"])
def test_load_alias_bomb_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    if kind == "mappings":
        levels = [f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 12)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(["a0: &a0 [lol, lol]", *levels]) + "\n")
    started = time.monotonic()
    with pytest.raises(SpecError, match=r"bomb\.yaml:\d+: not readable: more than 100000 values, aliases counted"):
        load_yaml(file)
    assert time.monotonic() - started < 20


def test_load_file_of_many_megabytes_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_text("a: " + "x" * LARGEST_FILE)
    with pytest.raises(SpecError, match=r"large\.yaml: is too large to be a search or a space: more than 4 MiB"):
        load_yaml(file)
