"""A folder of prepared splits, whatever the kind of task: what is in it, and how rows are dealt out to it.

    train        what the end task learns from
    meta_dev     what meta-gradients look at
    select_dev   what early stopping, the scheduler and the search look at
    test         scored once, by export; nothing else opens it
    domain       unlabelled text of the same kind, if there is any
    out_of_domain, neural_lm   unlabelled text of another kind, and text that a language model has written
    extra_NAME   further labelled texts, with labels of their own
    auxiliary    images with labels of their own, if there are any

Rows are dealt out by the sha256 of their content, never by their order, so that the same rows are dealt alike on every
machine and rows of one content stay together.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raysearch.errors import SpecError

SPLITS = ("train", "meta_dev", "select_dev", "test", "domain", "out_of_domain", "neural_lm", "auxiliary")
UNLABELLED = ("domain", "out_of_domain", "neural_lm")
UNSCORED = (*UNLABELLED, "auxiliary")  # splits that only objectives look at; so are extra_NAME
FRACTIONS = {"dev": 0.1, "test": 0.1}  # of the distinct rows, when one file has to be split


@dataclass(frozen=True)
class PreparedData:
    """What the driver needs to know of a folder of prepared splits."""

    folder: Path
    task: str
    metric: str
    labels: tuple[str, ...]
    fingerprint: str  # sha256 over splits, labels, metric and what else the rows are read by
    sizes: dict[str, int]  # rows of each split
    notes: tuple[str, ...]  # what is odd about the data, one line each


class Split(Protocol):
    """Rows of one split, mapped from disk."""

    @property
    def labels(self) -> NDArray[Any] | None:
        """Classes (n,), or 0 and 1 for each of several labels (n, L); None for rows without."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How long each row is (n,): rows of like length are best read together."""

    def __len__(self) -> int: ...

    def row(self, i: int) -> NDArray[Any]:
        """Row `i` as it is stored."""


def load_prepared_data(folder: Path) -> PreparedData:
    """What `tasks.prepare` left in `folder`. Raises SpecError when there is nothing."""
    about = load_metadata(folder)
    return PreparedData(
        folder=folder,
        task=about["task"],
        metric=about["metric"],
        labels=tuple(about["labels"]),
        fingerprint=about["fingerprint"],
        sizes=about["sizes"],
        notes=tuple(about["notes"]),
    )


def load_metadata(folder: Path) -> dict[str, Any]:
    """What data.json says. Raises SpecError when there is none."""
    try:
        about: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("holds no prepared data (no data.json)", file=str(folder)) from None
    return about


def is_up_to_date(folder: Path, source: Mapping[str, Any]) -> bool:
    """Has `folder` been prepared from these sources? Raises SpecError if from others."""
    if not (folder / "data.json").exists():
        return False
    before = load_metadata(folder)["source"]
    if before != source:
        changed = [name for name in source if before.get(name) != source[name]]
        problem = f"prepared from other data or settings ({', '.join(changed)} changed); use another run name"
        raise SpecError(problem, file=str(folder))
    return True


def write_atomically(folder: Path, write: Callable[[Path], None]) -> PreparedData:
    """What `write` has put into `folder`: all of it, or nothing when it fails."""
    draft = folder.parent / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    write(draft)
    draft.replace(folder)  # an empty folder gives way, any other is refused by the system
    return load_prepared_data(folder)


def resolve_path(given: str, key: str, base: str, data_root: Path | None, *, folders: bool = False) -> Path:
    """The file that `given` names, under the data root or `base`; a folder too where `folders` are allowed."""
    places = [folder / given for folder in (data_root, Path(base)) if folder is not None]
    for path in places:
        if path.is_file() or (folders and path.is_dir()):
            return path.absolute()
    problem = f"no file {' or '.join(map(str, dict.fromkeys(places)))}"
    raise SpecError(f"{problem}; name the folder that holds your data sets by --data DIR or RAYSEARCH_DATA", key=key)


def order_by_hash(contents: Iterable[str], salt: str) -> list[str]:
    """Distinct contents, in order of the sha256 of salt and content."""
    return sorted(set(contents), key=lambda content: hashlib.sha256(f"{salt}\0{content}".encode()).digest())


def split_by_hash(contents: Iterable[str], shares: Mapping[str, float], salt: str) -> dict[str, str]:
    """The split of every distinct content: `shares` of them, in this order, and the rest to "".

    Contents are put in order of the sha256 of salt and content and cut there; a share above 0 gets at least one.
    """
    order = order_by_hash(contents, salt)
    dealt: dict[str, str] = dict.fromkeys(order, "")
    start = 0
    for name, share in shares.items():
        count = max(1, round(share * len(order))) if share > 0 else 0
        dealt.update(dict.fromkeys(order[start : start + count], name))
        start += count
    return dealt


def count_leaks(contents: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Rows of a split whose content also stands in one that is learned from or selected on: "test in train": count."""
    found = {}
    lists = {name: list(rows) for name, rows in contents.items()}
    sets = {name: set(rows) for name, rows in lists.items()}
    for name in ("meta_dev", "select_dev", "test"):
        extra = [other for other in lists if other.startswith("extra_")]
        for other in ("train", *UNSCORED, *extra, *(("meta_dev", "select_dev") if name == "test" else ())):
            if name in lists and other in lists:
                found[f"{name} in {other}"] = sum(row in sets[other] for row in lists[name])
    return found


def leak_notes(leaked: Mapping[str, int], sizes: Mapping[str, int], what: str) -> list[str]:
    """A line for each of `leaks` beside how many rows there are, but for unlabelled and auxiliary splits.

    `what` says what was found, such as "images also stand".
    """
    notes = []
    for where, count in leaked.items():
        name, _, other = where.partition(" in ")
        if count and other not in UNSCORED:
            notes.append(f"{count} of {sizes[name]} {name} {what} in {other}")
    return notes


def sort_labels(names: Iterable[str]) -> list[str]:
    """Distinct labels, sorted; numbers by value."""
    return sorted(set(names), key=lambda name: (0, int(name), "") if _is_number(name) else (1, 0, name))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
