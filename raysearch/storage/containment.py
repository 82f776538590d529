"""What may be read as a path, written and removed in a run's folder, which may be a stranger's.

A name that was read from a file becomes a path only if it is one plain word (`names.is_plain`). A run's folder is
written only if none of its links leads out of it, and something is removed only if it lies in the folder after all
links are resolved.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from raysearch.errors import RunError, shorten
from raysearch.storage.names import is_plain


def check_contained(folder: Path) -> None:
    """Raises RunError if a link in a run's folder leads out of it, or something there is neither file nor folder.

    What writes to the run would follow such a link: it would write, or remove, files of others.
    """
    root, folders = folder.resolve(), [folder.resolve()]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except FileNotFoundError:  # the run is new, or a trial has just ended
            continue
        for entry in entries:
            if entry.is_symlink():
                target = Path(entry.path).resolve()
                if not target.is_relative_to(root):
                    problem = f"is a link that leads out of the run's folder, to {target}"
                    raise RunError(f"{entry.path}: {problem}; put what belongs to the run in its place")
            elif entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise RunError(f"{entry.path}: is neither a file nor a folder; remove it")


def path_inside(folder: Path, *names: str) -> Path:
    """Returns the path of a file or folder in a run's folder, given the names that lead to it.

    Raises RunError for a name that is no plain word, and where links lead out of the folder.
    """
    for name in names:
        if not is_plain(name):
            raise RunError(f"{folder}: {shorten(str(name))!r} cannot be the name of a file of a run")
    path = folder.joinpath(*names)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{path}: lies outside of the run's folder, at {path.parent.resolve()}")
    return path


def remove_inside(folder: Path, *names: str) -> None:
    """Removes a file, or a folder with all that it holds, from a run's folder; of a link, the link alone.

    Raises RunError as `path_inside`.
    """
    path = path_inside(folder, *names)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
