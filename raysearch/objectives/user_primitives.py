"""A user's primitives: a Python file that a space names with `primitives: FILE`.

    PRIMITIVES = {"transform": {"swap": swap}, "output": {"length": length}}
    HEADS = {"length": 1}       # numbers that an output's head gives for a hidden state; or "vocabulary"

`parse_user_primitives` reads the file without running it, and checks that each function exists and takes its stage's
arguments. `load` runs the file, in the processes that train, and only if it is the file that was parsed and the user
trusts it (`trust`): plans and runs hold its path and sha256, never its text. The driver, which has run the file, sends
its text to the workers, whose hosts need not have it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.errors import SpecError, did_you_mean
from raysearch.objectives.primitive import Primitive
from raysearch.objectives.trust import require_trust

if TYPE_CHECKING:
    from raysearch.schema.node import Node

ARGUMENTS = {  # with which a stage calls its functions, in this order
    "data": ("open_split",),
    "transform": ("tokens", "selected", "vocabulary", "generator"),
    "representation": ("real", "generator"),
    "output": ("hidden", "targets", "head"),
}
VOCABULARY = "vocabulary"  # a head like that of `denoise`
_NAME = re.compile(r"(?!extra_)[a-z][a-z0-9_]*")
Functions = Mapping[str, Mapping[str, Callable[..., Any]]]
_ran: dict[str, bytes] = {}  # the files that this process has run, by sha256
_received: dict[str, bytes] = {}  # those that the driver has sent


@dataclass(frozen=True, kw_only=True)
class UserPrimitives:
    """The primitives of a user's file."""

    file: str  # absolute
    sha256: str
    primitives: tuple[Primitive, ...]
    is_named: bool = field(default=False, compare=False)  # by the user: a file that the command names has its path

    @classmethod
    def read(cls, node: Node) -> UserPrimitives:
        """Returns the primitives that `to_plain` wrote."""
        node.mapping(("file", "sha256", "stages", "heads"))
        heads = node["heads"].read(dict[str, int | str]) if "heads" in node else {}
        stages = node["stages"].read(dict[str, dict[str, str]])
        primitives = [
            Primitive(stage, name, "", meaning, head=heads.get(name, "") if stage == "output" else "")
            for stage, meanings in stages.items()
            for name, meaning in meanings.items()
        ]
        return cls(file=node["file"].read(str), sha256=node["sha256"].read(str), primitives=tuple(primitives))

    @property
    def stages(self) -> dict[str, dict[str, str]]:
        """The meaning of each primitive, by stage and name."""
        stages: dict[str, dict[str, str]] = {}
        for primitive in self.primitives:
            stages.setdefault(primitive.stage, {})[primitive.name] = primitive.meaning
        return stages

    @property
    def heads(self) -> dict[str, int | str]:
        """The head of each output."""
        return {primitive.name: primitive.head for primitive in self.primitives if primitive.stage == "output"}

    def to_plain(self) -> dict[str, Any]:
        """Returns what `read` reads."""
        heads = {"heads": self.heads} if self.heads else {}
        return {"file": self.file, "sha256": self.sha256, "stages": self.stages, **heads}

    def to_plan(self) -> dict[str, Any]:
        """Returns what a plan holds of the primitives."""
        return {"file": self.file, "sha256": self.sha256, "heads": self.heads}


def parse_user_primitives(file: Path, known: Mapping[str, Mapping[str, str]]) -> UserPrimitives:
    """Returns the primitives that `file` declares, without running it; `known` are the built-in ones.

    Raises SpecError with file and line for what cannot be used.
    """
    name = str(file)
    try:
        data = file.read_bytes()
        tree = ast.parse(data, name)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=name) from None
    except (SyntaxError, ValueError) as error:
        raise SpecError(f"not Python: {error.args[0]}", file=name, line=getattr(error, "lineno", None) or 0) from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    stages: dict[str, dict[str, str]] = {}
    for stage_node, entries in _entries(_assigned(tree, "PRIMITIVES", name), name):
        stage = _text(stage_node, name)
        if stage not in ARGUMENTS:
            raise _error(stage_node, name, f"unknown stage {stage!r}{did_you_mean(stage, ARGUMENTS)}")
        stages[stage] = {}
        for key, value in _entries(entries, name):
            primitive = _text(key, name)
            if primitive in known[stage]:
                raise _error(key, name, f"{primitive!r} is a built-in primitive; use another name")
            if not _NAME.fullmatch(primitive):
                raise _error(key, name, f"{primitive!r}: a name has small letters, digits and _, and no prefix extra_")
            if not isinstance(value, ast.Name) or value.id not in functions:
                raise _error(value, name, f"{primitive!r} must be the name of a function that this file defines")
            stages[stage][primitive] = _fitting(functions[value.id], stage, name)
    if not any(stages.values()):
        raise SpecError('defines no PRIMITIVES = {"transform": {"name": function}}', file=name)
    heads = _heads(tree, stages.get("output", {}), name)
    primitives = [
        Primitive(stage, primitive, "", meaning, head=heads[primitive] if stage == "output" else "")
        for stage, meanings in stages.items()
        for primitive, meaning in meanings.items()
    ]
    digest = hashlib.sha256(data).hexdigest()
    return UserPrimitives(file=str(file.resolve()), sha256=digest, primitives=tuple(primitives), is_named=True)


def check_unchanged(file: str, sha256: str) -> bytes:
    """Returns the bytes of the file. Raises SpecError if it is not the one that was parsed."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise SpecError(f"the primitives of this search cannot be read: {error.strerror}", file=file) from None
    if (current := hashlib.sha256(data).hexdigest()) != sha256:
        problem = f"these primitives have changed since the search began (sha256 {sha256[:12]}, now {current[:12]})"
        raise SpecError(f"{problem}; put the file back, or begin a new run", file=file)
    return data


def load(file: str, sha256: str) -> Functions:
    """Runs the file and returns its functions by stage and name.

    Raises SpecError if it is not trusted (see `trust`), has changed, or fails.
    """
    require_trust({"file": file, "sha256": sha256})
    return _run_file(file, sha256)


def sources() -> dict[str, bytes]:
    """Returns the files that this process has run, by sha256, for `receive_sources` of another process."""
    return dict(_ran)


def receive_sources(files: Mapping[str, bytes]) -> None:
    """Makes `load` run these files, by sha256, whatever the disk holds. Raises ValueError for a wrong sha256."""
    for sha256, data in files.items():
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"primitives with sha256 {sha256[:12]} have arrived damaged")
        _received[sha256] = data


@cache
def _run_file(file: str, sha256: str) -> Functions:
    data = _ran[sha256] = _received.get(sha256) or check_unchanged(file, sha256)
    loader = _CheckedLoader(f"raysearch_own_{sha256[:12]}", file)
    loader.data = data
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except Exception as error:
        lines = [line for path, line in _lines(error) if path == file]
        problem = f"cannot be run: {type(error).__name__}: {error}"
        raise SpecError(problem, file=file, line=lines[-1] if lines else 0) from error
    functions: Functions = module.PRIMITIVES
    return functions


def load_functions(primitives: Mapping[str, Any]) -> Functions:
    """Runs the file that a plan names (`UserPrimitives.to_plan`) and returns its functions; none if it names none."""
    return load(primitives["file"], primitives["sha256"]) if primitives else {}


class _CheckedLoader(importlib.machinery.SourceFileLoader):
    """A loader that runs the bytes that were checked, and neither reads nor writes compiled files."""

    data = b""

    def get_data(self, path: str) -> bytes:
        """Returns the bytes that were checked, not those on the disk."""
        del path
        return self.data

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Raises OSError: there is no compiled file."""
        raise OSError(path)


def _lines(error: BaseException) -> list[tuple[str, int]]:
    """Returns file and line of each frame of the traceback."""
    return [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]


def _error(node: ast.AST, file: str, problem: str) -> SpecError:
    return SpecError(problem, file=file, line=getattr(node, "lineno", 0))


def _assigned(tree: ast.Module, name: str, file: str) -> ast.expr:
    """Returns the expression that the file assigns to `name`."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in targets:
                if isinstance(target, ast.Name) and target.id == name:
                    return node.value
    raise SpecError(f'defines no {name}, such as {name} = {{"transform": {{"name": function}}}}', file=file)


def _entries(node: ast.expr, file: str) -> list[tuple[ast.expr, ast.expr]]:
    if not isinstance(node, ast.Dict) or None in node.keys:
        raise _error(node, file, "must be written out as {...}: it is read without running the file")
    return [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]


def _text(node: ast.expr, file: str) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise _error(node, file, "must be a word in quotes")
    return node.value


def _fitting(function: ast.FunctionDef, stage: str, file: str) -> str:
    """Returns the first line of a function's docstring, if it can be called as its stage calls it."""
    a, takes = function.args, ARGUMENTS[stage]
    positional = [*a.posonlyargs, *a.args]
    required = len(positional) - len(a.defaults)
    unset = [arg.arg for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True) if default is None]
    if required > len(takes) or (len(positional) < len(takes) and a.vararg is None) or unset:
        named = ", ".join([*(arg.arg for arg in positional), *unset])
        article = "an" if stage == "output" else "a"
        what = f"{article} {stage} primitive takes ({', '.join(takes)})"
        raise _error(function, file, f"{function.name}: {what}, this one ({named})")
    if function.decorator_list:
        raise _error(function, file, f"{function.name}: decorators are not used here")
    return (ast.get_docstring(function) or "a user's primitive").split("\n", 1)[0].rstrip(".")


def _heads(tree: ast.Module, outputs: Mapping[str, str], file: str) -> dict[str, int | str]:
    """Returns HEADS, an entry for each output."""
    if not outputs:
        return {}
    node = _assigned(tree, "HEADS", file)
    heads: dict[str, int | str] = {}
    for key, value in _entries(node, file):
        output, head = _text(key, file), value.value if isinstance(value, ast.Constant) else None
        if output not in outputs:
            raise _error(key, file, f"HEADS: {output!r} is no output of PRIMITIVES{did_you_mean(output, outputs)}")
        if head == VOCABULARY or (type(head) is int and head > 0):
            heads[output] = head
        else:
            raise _error(value, file, f'HEADS: {output!r} must be "{VOCABULARY}" or how many numbers its head gives')
    for output in outputs:
        if output not in heads:
            problem = f'HEADS: say for {output!r} how many numbers its head gives, or "{VOCABULARY}"'
            raise _error(node, file, problem)
    return heads
