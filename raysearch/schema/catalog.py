"""Where the spaces, trials and reports lie; no other module looks for them.

A catalog file is named by its stem (`aang_td`) or as in the repository (`spaces/aang_td.yaml`); a user's own file
by its path. In a wheel the catalogs lie inside the package, in an editable install beside it.
"""

from __future__ import annotations

from pathlib import Path

from raysearch.errors import SpecError, did_you_mean

CATALOGS = {"spaces": ("spaces", ".yaml"), "trials": ("trials", ".yaml"), "reports": ("analysis", ".sql")}
_ONE = {"spaces": "objective space", "trials": "search", "reports": "report"}


def root() -> Path:
    """The folder that holds `spaces`, `trials` and `analysis`."""
    here = Path(__file__).resolve().parent.parent
    inside = here / "catalogs"
    return inside if inside.is_dir() else here.parent


def names(kind: str) -> list[str]:
    """The stems of a kind's catalog files, sorted."""
    folder, suffix = CATALOGS[kind]
    return sorted(file.stem for file in (root() / folder).glob(f"*{suffix}"))


def path(kind: str, name_or_path: str | Path) -> Path:
    """The file of that name or path; SpecError with the nearest name when there is none.

    A file on the disk comes before a catalog file of the same path.
    """
    text = str(name_or_path)
    folder, suffix = CATALOGS[kind]
    if "/" not in text and "\\" not in text and not text.endswith((suffix, ".yml")):
        if text in names(kind):
            return root() / folder / f"{text}{suffix}"
        raise SpecError(f"no such {_ONE[kind]} {text!r}{did_you_mean(text, names(kind))}")
    own = Path(text).expanduser()
    if own.is_file():
        return own
    if own.parent == Path(folder) and own.suffix == suffix:
        if own.stem in names(kind):
            return root() / own
        raise SpecError(f"no such file {text!r}{did_you_mean(own.stem, names(kind))}")
    problem = f"{text!r} is a folder, not a file" if own.is_dir() else f"no such file {text!r}"
    raise SpecError(f"{problem}; in the catalog: {', '.join(names(kind))}")


def display_path(file: Path) -> str:
    """How a message names a file: relative to the current folder or the catalogs if it lies there."""
    for base in (Path.cwd(), root()):
        if file.is_absolute() and file.is_relative_to(base):
            return str(file.relative_to(base))
    return str(file)
