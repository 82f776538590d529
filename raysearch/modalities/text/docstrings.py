"""The built-in text task: given a docstring, predict which Python library it comes from.

The text is available wherever raysearch is installed: the first paragraphs of the docstrings of libraries that it
depends on, read with `ast` without importing them. Names and aliases of the libraries are masked, and only one of
several nearly equal texts is kept. Every label has the same number of rows in train, dev and test, which are split by
the sha256 of the text. The remaining texts are unlabelled domain text. docs/results/docstrings.md reports the scores
of simple classifiers.
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

RECIPE = "1"  # increases when the same libraries would give other rows
LIBRARIES = {  # from the label, which is also the name of the package, to its distribution
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
SOURCE_BYTES = 6_000_000  # read of each library: whole files, in the order of the sha256 of their paths
WORDS = (8, 60)  # least and most words of a first paragraph
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
_WHOLE_WORDS = "ray|np|pd|plt|mpl|pyplot|pylab|hf"  # also parts of other words: masked only between non-letters
_NAMES = re.compile(rf"{_ANYWHERE}|(?<![a-z])(?:{_WHOLE_WORDS})(?![a-z])", re.IGNORECASE)
_RAY_IN_CAMEL_CASE = re.compile(r"(?<![A-Za-z])Ray(?=[A-Z])|(?<=[a-z])Ray(?![a-z])")


def load_rows() -> dict[str, TextRows]:
    """Returns the rows of train, dev, test and domain.

    They are collected once for each set of library versions and then read from a cache. Raises SpecError if a library
    is missing or has too few texts.
    """
    from raysearch.data.places import row_places
    from raysearch.errors import SpecError
    from raysearch.modalities.text.readers import TextRows

    texts = texts_by_label()
    parts: dict[str, list[tuple[str, str]]] = {part: [] for part in (*PER_LABEL, "domain")}
    for label in LIBRARIES:
        order = sorted(texts[label], key=lambda text: hashlib.sha256(text.encode()).digest())
        if len(order) < sum(PER_LABEL.values()):
            raise SpecError(f"only {len(order)} docstrings found in {label}", key="task docstrings")
        start = 0
        for part, count in PER_LABEL.items():
            parts[part] += [(text, label) for text in order[start : start + count]]
            start += count
        parts["domain"] += [(text, "") for text in order[start:]]
    rows = {}
    for part, pairs in parts.items():
        pairs.sort(key=lambda pair: hashlib.sha256(f"order\0{pair[0]}".encode()).digest())
        labels = [label for _, label in pairs] if part != "domain" else []
        source = f"docstrings[{part}]"
        rows[part] = TextRows(source, [text for text, _ in pairs], labels, row_places(source, len(pairs)))
    return rows


def versions() -> dict[str, str]:
    """Returns all that the rows depend on: the recipe and the versions of the libraries."""
    from raysearch.errors import SpecError

    installed = {"recipe": RECIPE}
    for distribution in LIBRARIES.values():
        try:
            installed[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            problem = f"{distribution} is not installed, though raysearch needs it; pip install raysearch again"
            raise SpecError(problem, key="task docstrings") from None
    return installed


def collect() -> dict[str, list[str]]:
    """Collects masked first paragraphs by label, each once and under one label only; takes about 10 s of two cores."""
    files = [(label, str(path)) for label in LIBRARIES for path in source_files(label)]
    workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    command = [sys.executable, "-I", "-W", "ignore", __file__]  # a separate script: no fork, no second __main__
    texts: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(  # in sessions of their own, so that a terminal's Ctrl-C does not reach them
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
                )
            )
            for _ in range(workers)
        ]
        for i, process in enumerate(running):
            assert process.stdin is not None
            process.stdin.write(json.dumps(files[i::workers]).encode())
            process.stdin.close()
        for process in running:
            assert process.stdout is not None
            output = process.stdout.read()
            if process.wait() != 0:
                raise RuntimeError(f"a process that reads docstrings failed with exit code {process.returncode}")
            texts += json.loads(output)
    return distinct(texts)


def source_files(label: str) -> list[Path]:
    """Returns the Python files that are read of a library, without tests and vendored code."""
    spec = importlib.util.find_spec(label)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        files += [
            Path(folder) / name
            for name in names
            if name.endswith(".py") and name not in _SKIPPED and not name.startswith("test_")
        ]
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    chosen, size = [], 0
    for path in files:
        size += path.stat().st_size
        if size > SOURCE_BYTES:
            break
        chosen.append(path)
    return chosen


def distinct(labelled_texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Returns texts by label: one of each group with the same beginning, and none of a group that labels share."""
    groups: dict[str, dict[str, str]] = {}
    for label, text in labelled_texts:
        group = groups.setdefault(_beginning(text), {})
        group[label] = min(text, group.get(label, text))
    texts: dict[str, list[str]] = {label: [] for label in LIBRARIES}
    for group in groups.values():
        if len(group) == 1:
            ((label, text),) = group.items()
            texts[label].append(text)
    return {label: sorted(label_texts) for label, label_texts in texts.items()}


def _beginning(text: str) -> str:
    """Returns the first eight words, letters only; docstrings made from one template differ only after these."""
    return " ".join(re.findall(r"[a-z]+", text.lower())[: WORDS[0]])


def first_paragraphs(source: str) -> Iterator[str]:
    """Yields the masked first paragraphs of the docstrings in a module's source that have 8 to 60 words."""
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = re.split(r"\n\s*\n", ast.get_docstring(node) or "", maxsplit=1)[0].split()
            if WORDS[0] <= len(words) <= WORDS[1]:
                yield mask_names(" ".join(words))
        for block in ("body", "orelse", "finalbody", "handlers"):  # statements only: half the time of ast.walk
            inner = getattr(node, block, None)
            nodes += inner if isinstance(inner, list) else []


def mask_names(text: str) -> str:
    """Returns the text with every name and alias of the libraries replaced by MASK."""
    return _NAMES.sub(MASK, _RAY_IN_CAMEL_CASE.sub(MASK, text))


def cache_folder() -> Path:
    """Returns the folder of files that can be made again: $XDG_CACHE_HOME/raysearch, or ~/.cache/raysearch."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raysearch"


def texts_by_label() -> dict[str, list[str]]:
    """Returns masked first paragraphs by label, from the cache or newly collected."""
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
        pass  # without a writable home folder they are collected each time
    return texts


def _read_files() -> None:
    """Reads file names from stdin and writes their texts to stdout: the work of one process of `collect`."""
    gc.disable()  # syntax trees are many small objects, and the process is short-lived
    texts = []
    for label, path in json.load(sys.stdin):
        try:
            source = Path(path).read_text(encoding="utf-8")
            texts += [(label, text) for text in first_paragraphs(source)]
        except (SyntaxError, UnicodeDecodeError):  # a file for another version of Python
            continue
    with contextlib.suppress(BrokenPipeError):  # the process that asked for them was ended
        sys.stdout.write(json.dumps(texts))
        sys.stdout.flush()
        return
    os._exit(1)  # without another attempt to write


if __name__ == "__main__":
    _read_files()
