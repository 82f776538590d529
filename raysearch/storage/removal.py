"""Removes a run's folder: never one that a process writes to, never through a link, and nothing outside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from raysearch.errors import RunError
from raysearch.storage.lock import take_lock

_REMOVED = ".removed-"  # begins the name of a folder that is being removed, which is no run's


def folder_size(folder: Path) -> int:
    """Returns the bytes of a folder's files; links are not followed."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())


def remove_run(folder: Path) -> None:
    """Removes the folder of a run with all that is in it; what links in it point to stays.

    Raises RunError for a link, for a folder that is no run, and while a process writes the run.
    """
    folder = folder.absolute()
    if folder.is_symlink():
        raise RunError(f"{folder} is a link to {folder.resolve()}; remove the link, or name the folder itself")
    if not (folder / "tables").is_dir() or not folder.name or folder == Path.cwd() or folder in Path.cwd().parents:
        raise RunError(f"{folder} is no run that can be removed from here")
    lock = take_lock(folder)  # raises RunError while another process has it
    try:
        hidden = folder.with_name(f"{_REMOVED}{folder.name}")
        if hidden.exists():  # an earlier removal was interrupted
            shutil.rmtree(hidden)
        folder.rename(hidden)  # at once, so that half a run is never listed
    finally:
        lock.close()
    shutil.rmtree(hidden)  # follows no links
