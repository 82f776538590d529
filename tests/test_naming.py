"""Names and words: private words are not bound as identifiers, set phrases are not written, test names are short.

docs/glossary.md defines the project's terms; CONTRIBUTING.md has the naming rules.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = [path for top in ("raysearch", "tests", "benchmarks") for path in sorted((ROOT / top).rglob("*.py"))]
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# A variable is named for its content, never for its history or its place.
BANNED = {
    *("found", "own", "said", "given", "asked", "about", "taken", "mine", "wanted", "kept", "some", "anew", "told"),
    *("here", "there", "asks", "knob", "knobs", "looks", "alike", "beside", "dealt"),
}
EVENTS = {"ASKED", "TOLD"}  # of storage/states.py, after Optuna's ask and tell
PHRASES = re.compile(
    r"\b((?<![\"`'])anew|goes on with|go on with|gone on with|of one mind|written down|told apart|at right angles"
    r"|as it stands|as they stand|held against|begun from random|as all\b|without anyone minding|looks after)\b"
)


def bound_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that a module binds, with its line: variables, attributes, arguments, functions, classes, imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=label)
def test_private_words_are_not_identifiers(path: Path) -> None:
    names = bound_names(ast.parse(path.read_text(encoding="utf-8")))
    assert [
        f"{label(path)}:{line}: {name}"
        for name, line in names
        if name.strip("_").lower() in BANNED and name not in EVENTS
    ] == []


@pytest.mark.parametrize("path", [*CODE, *PROSE], ids=label)
def test_private_phrases_are_not_written(path: Path) -> None:
    if path == Path(__file__):
        return
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    assert [f"{label(path)}:{i}: {match[0]}" for i, line in lines if (match := PHRASES.search(line))] == []


@pytest.mark.parametrize("path", [path for path in CODE if path.name.startswith("test_")], ids=label)
def test_names_of_tests_have_at_most_60_characters(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if f.name.startswith("test_") and len(f.name) > 60] == []
