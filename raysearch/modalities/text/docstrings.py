"""The embedded task: which library does a docstring come from?

Real text that is wherever raysearch is installed: the first paragraphs of the docstrings of libraries that it depends
on, read with `ast` and never imported. Names and aliases of the libraries are masked, near-equal texts are kept once,
and every label gives the same number of rows to train, dev and test, dealt out by the sha256 of the text. What is
left over is text of the same kind without labels. docs/results/docstrings.md says how well simple classifiers do.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysearch.modalities.text.readers import TextRows

RECIPE = "1"  # goes up when the same libraries would give other rows
LIBRARIES = {  # label, which is also the package that is imported: the distribution it comes from
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "ray": "ray",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "transformers": "transformers",
}
PER_LABEL = {"train": 50, "dev": 100, "test": 200}  # rows of each label; the rest is domain text
SOURCE_BYTES = 6_000_000  # of each library, whole files in the order of the sha256 of their paths
WORDS = (8, 60)  # of a first paragraph
MASK = "library"

_SKIPPED = {
    "tests",
    "test",
    "testing",
    "conftest.py",
    "externals",
    "extern",
    "_vendor",
    "thirdparty_files",
    "generated",
}
_ANYWHERE = (
    "matplotlib|numpy|pandas|scipy|scikit[- ]?learn|scikit|sklearn"
    "|pytorch|torch|transformers|hugging ?face|rllib|raylet"
)
_ALONE = "ray|np|pd|plt|mpl|pyplot|pylab|hf"  # parts of other words as well: masked only between non-letters
_NAMES = re.compile(rf"{_ANYWHERE}|(?<![a-z])(?:{_ALONE})(?![a-z])", re.IGNORECASE)
_RAY_IN_CAMEL_CASE = re.compile(r"(?<![A-Za-z])Ray(?=[A-Z])|(?<=[a-z])Ray(?![a-z])")


def load_rows() -> dict[str, TextRows]:
    """Rows of train, dev, test and domain; collected once per set of library versions, then read from the cache.

    Raises SpecError when a library is missing or gives too few texts.
    """
    from raysearch.data.row_readers import row_places
    from raysearch.errors import SpecError
    from raysearch.modalities.text.readers import TextRows

    texts = texts_by_label()
    parts: dict[str, list[tuple[str, str]]] = {part: [] for part in (*PER_LABEL, "domain")}
    for label in LIBRARIES:
        own = sorted(texts[label], key=lambda text: hashlib.sha256(text.encode()).digest())
        if len(own) < sum(PER_LABEL.values()):
            raise SpecError(f"only {len(own)} docstrings found in {label}", key="task docstrings")
        start = 0
        for part, count in PER_LABEL.items():
            parts[part] += [(text, label) for text in own[start : start + count]]
            start += count
        parts["domain"] += [(text, "") for text in own[start:]]
    rows = {}
    for part, pairs in parts.items():
        pairs.sort(key=lambda pair: hashlib.sha256(f"order\0{pair[0]}".encode()).digest())
        labels = [label for _, label in pairs] if part != "domain" else []
        source = f"docstrings[{part}]"
        rows[part] = TextRows(source, [text for text, _ in pairs], labels, row_places(source, len(pairs)))
    return rows


def versions() -> dict[str, str]:
    """What the rows are a function of: the recipe and the versions of the libraries."""
    from raysearch.errors import SpecError

    found = {"recipe": RECIPE}
    for distribution in LIBRARIES.values():
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            problem = f"{distribution} is not installed, though raysearch needs it; pip install raysearch again"
            raise SpecError(problem, key="task docstrings") from None
    return found


def collect() -> dict[str, list[str]]:
    """Masked first paragraphs by label, each once and under one label only; about 10 s of two cores."""
    files = [(label, str(path)) for label in LIBRARIES for path in source_files(label)]
    workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    command = [sys.executable, "-I", "-W", "ignore", __file__]  # a script of its own: no fork, no second __main__
    found: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(workers)
        ]
        for i, process in enumerate(running):
            assert process.stdin is not None
            process.stdin.write(json.dumps(files[i::workers]).encode())
            process.stdin.close()
        for process in running:
            assert process.stdout is not None
            text = process.stdout.read()
            if process.wait() != 0:
                raise RuntimeError(f"a reader of docstrings ended with exit code {process.returncode}")
            found += json.loads(text)
    return distinct(found)


def source_files(label: str) -> list[Path]:
    """The Python files of a library that are read, tests and vendored code left out."""
    found = importlib.util.find_spec(label)
    assert found is not None
    assert found.submodule_search_locations
    root = Path(found.submodule_search_locations[0])
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        files += [
            Path(folder) / n for n in names if n.endswith(".py") and n not in _SKIPPED and not n.startswith("test_")
        ]
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    chosen, size = [], 0
    for path in files:
        size += path.stat().st_size
        if size > SOURCE_BYTES:
            break
        chosen.append(path)
    return chosen


def distinct(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Texts by label, one of each group that begins alike; a group that several libraries share is left out."""
    groups: dict[str, dict[str, str]] = {}
    for label, text in found:
        group = groups.setdefault(_beginning(text), {})
        group[label] = min(text, group.get(label, text))
    texts: dict[str, list[str]] = {label: [] for label in LIBRARIES}
    for group in groups.values():
        if len(group) == 1:
            ((label, text),) = group.items()
            texts[label].append(text)
    return {label: sorted(own) for label, own in texts.items()}


def _beginning(text: str) -> str:
    """The first eight words, letters only: docstrings made from one template differ further on."""
    return " ".join(re.findall(r"[a-z]+", text.lower())[: WORDS[0]])


def first_paragraphs(source: str) -> Iterator[str]:
    """Masked first paragraphs of the docstrings in a module's source, those of 8 to 60 words."""
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = re.split(r"\n\s*\n", ast.get_docstring(node) or "", maxsplit=1)[0].split()
            if WORDS[0] <= len(words) <= WORDS[1]:
                yield masked(" ".join(words))
        for block in ("body", "orelse", "finalbody", "handlers"):  # statements alone: half the time of ast.walk
            inner = getattr(node, block, None)
            nodes += inner if isinstance(inner, list) else []


def masked(text: str) -> str:
    """The text with every name and alias of the libraries replaced."""
    return _NAMES.sub(MASK, _RAY_IN_CAMEL_CASE.sub(MASK, text))


def cache_folder() -> Path:
    """Where raysearch keeps what it can make again: $XDG_CACHE_HOME/raysearch, or ~/.cache/raysearch."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raysearch"


def texts_by_label() -> dict[str, list[str]]:
    """Masked first paragraphs by label, from the cache or collected now."""
    key = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / f"docstrings-{key}.json"
    if path.exists():
        texts: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return texts
    texts = collect()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as draft:
            json.dump(texts, draft, ensure_ascii=False)
        Path(draft.name).replace(path)
    except PermissionError:
        pass  # a machine without a writable home collects them each time
    return texts


def _read_files() -> None:
    """The work of one process of `collect`: names of files on stdin, texts on stdout."""
    gc.disable()  # syntax trees are many small objects; the process is short-lived
    found = []
    for label, path in json.load(sys.stdin):
        try:
            source = Path(path).read_text(encoding="utf-8")
            found += [(label, text) for text in first_paragraphs(source)]
        except (SyntaxError, UnicodeDecodeError):  # a file for another Python
            continue
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    _read_files()
