"""What `raysearch init` asks of a modality: a draft of a search for a user's file, as a template and its values.

A template is a YAML file beside the modality's code, with comments and placeholders such as $train. A line with a
placeholder that has no value is left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from raysearch.data.columns import Column

COMMENT_COLUMN = 44
SIBLINGS = {"dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
BALANCED = 1.5  # the largest class has at most so many times the rows of the smallest
_PLAIN = re.compile(r"[A-Za-z_][\w./ -]*(?<! )")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}  # that YAML reads as something else


@dataclass(frozen=True, kw_only=True)
class DraftRequest:
    """What a search is to be drafted for."""

    file: Path
    folder: Path  # of the file that is written; paths in it are relative to it
    columns: Mapping[str, Column] = field(default_factory=dict)  # empty for a folder
    siblings: Mapping[str, Path] = field(default_factory=dict)  # files or folders that hold dev and test
    text: str | None = None  # columns that the user has named
    label: str | None = None
    unlabelled: Path | None = None
    gpus: int = 0


@dataclass(frozen=True)
class Draft:
    """A search without its budget."""

    template: Path
    values: Mapping[str, str | None]
    step_seconds: float  # about how long a step takes
    summary: str  # what was found, in a few words


def render(template: str, values: Mapping[str, str | None]) -> str:
    """Returns the template with its placeholders filled in and its comments aligned."""
    lines = []
    for line in template.splitlines():
        names = Template(line).get_identifiers()
        if any(values[name] is None for name in names):
            continue
        filled = Template(line).substitute(values)
        code, mark, comment = filled.partition("  # ")
        lines.append(f"{code.rstrip():<{COMMENT_COLUMN - 2}}  # {comment}" if mark and code.strip() else filled)
    return "\n".join(lines) + "\n"


def quote(value: object) -> str:
    """Returns a value as YAML."""
    text = str(value)
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def find_siblings(file: Path) -> dict[str, Path]:
    """Returns the dev and test files beside a file called train, or folders beside a folder of that name."""
    if "train" not in file.stem.lower():
        return {}
    siblings = {}
    for part, names in SIBLINGS.items():
        stems = [re.sub("train", name, file.stem, flags=re.IGNORECASE) for name in names]
        candidates = [file.with_name(stem + file.suffix) for stem in stems]
        if (sibling := next((path for path in candidates if path.exists()), None)) is not None:
            siblings[part] = sibling
    return siblings


def relative_path(path: Path, folder: Path) -> str:
    """Returns a path as a file in `folder` names it: relative unless it lies on another branch of the disk."""
    absolute, start = path.absolute(), folder.absolute()
    relative = Path(os.path.relpath(absolute, start))
    return str(absolute if relative.parts[:3] == ("..", "..", "..") else relative)


def choose_metric(counts: Mapping[str, int]) -> tuple[str, str]:
    """Returns the metric for classes with these rows, and why: accuracy where they are balanced, else macro-F1."""
    largest, smallest = max(counts.values()), min(counts.values())
    share = largest / sum(counts.values())
    if largest <= BALANCED * smallest:
        return "accuracy", f"{len(counts)} classes of similar size"
    return "macro_f1", f"the mean over classes, because they are uneven: {share:.0%} of the rows are of the largest"


def shared_values(request: DraftRequest, counts: Mapping[str, int] | None) -> dict[str, Any]:
    """Returns the values that the templates of all modalities have: files, split and metric."""
    paths = {part: quote(relative_path(path, request.folder)) for part, path in request.siblings.items()}
    held_out = {"dev": 0.2, "test": 0.2}
    shares = ", ".join(f"{part}: {share}" for part, share in held_out.items() if part not in paths)
    values: dict[str, Any] = {
        "train": quote(relative_path(request.file, request.folder)),
        "dev": paths.get("dev"),
        "test": paths.get("test"),
        "split": f"{{{shares}}}" if shares else None,
    }
    if counts:
        values["metric"], values["why_metric"] = choose_metric(counts)
    return values
