"""Command lines that are printed for a run, so that they work as printed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def command(*words: str) -> str:
    """Returns a command line of raysearch, quoted for a shell."""
    return shlex.join(["raysearch", *words])


def run_reference(folder: Path) -> str:
    """Returns what names a run on the command line, in the present folder: its name, or else its path."""
    folder = folder.resolve()
    runs = Path(os.environ.get("RAYSEARCH_RUNS") or "runs")
    return folder.name if (runs / folder.name).resolve() == folder else shorten_path(folder)


def shorten_path(path: Path) -> str:
    """Returns an absolute path relative to the present folder, if it lies there."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
