"""The files of a folder of examples, and what in it is none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from raysearch.errors import SpecError, shorten_list


@dataclass(frozen=True)
class FolderContent:
    """The files of a folder with one of some suffixes, in order, and what was passed over."""

    files: list[Path]
    hidden: list[str] = field(default_factory=list)  # files and folders whose names begin with a dot, or __MACOSX
    others: Counter[str] = field(default_factory=Counter)  # files of another suffix, by suffix
    broken: list[str] = field(default_factory=list)  # links to nothing, or back to a folder above

    def notes(self, name: str) -> list[str]:
        """Returns a sentence for each kind of thing that was passed over in the folder of this name."""
        notes = []
        if self.hidden:
            notes.append(f"{name}: hidden files and folders were passed over: {shorten_list(self.hidden)}")
        if self.others:
            counts = [f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(self.others.items())]
            notes.append(f"{name}: files of other suffixes were passed over: {shorten_list(counts)}")
        if self.broken:
            notes.append(f"{name}: links that lead nowhere new were passed over: {shorten_list(self.broken)}")
        return notes


def list_folder(folder: Path, suffixes: Collection[str]) -> FolderContent:
    """Returns the files below a folder whose suffix, in small letters, is one of `suffixes`; links are followed.

    Raises SpecError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise SpecError(f"cannot be read: {error.strerror}", file=str(error.filename or folder))

    content = FolderContent([])
    seen: set[str] = set()
    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        place = Path(name)
        folders.sort()
        for child in list(folders):
            target = os.path.realpath(place / child)
            if _is_hidden(child):
                content.hidden.append(str((place / child).relative_to(folder)))
                folders.remove(child)
            elif target in seen or os.path.realpath(place).startswith(f"{target}{os.sep}"):
                content.broken.append(str((place / child).relative_to(folder)))
                folders.remove(child)
            else:
                seen.add(target)
        for child in sorted(files):
            file = place / child
            if _is_hidden(child):
                content.hidden.append(str(file.relative_to(folder)))
            elif file.suffix.lower() not in suffixes:
                content.others[file.suffix.lower()] += 1
            elif file.is_file():
                content.files.append(file)
            else:
                content.broken.append(str(file.relative_to(folder)))
    content.files.sort()
    return content


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
