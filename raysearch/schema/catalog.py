"""Where the catalogs of spaces, searches and reports lie; no other module looks for them.

A catalog file is named by its stem (`aang_td`) or as in the repository (`spaces/aang_td.yaml`), a user's file by its
path. In a wheel the catalogs lie inside the package, in an editable install next to it.
"""

from __future__ import annotations

from pathlib import Path

from raysearch.errors import SpecError, did_you_mean

# catalog -> its folder, the suffix of its files
CATALOGS = {
    "spaces": ("spaces", ".yaml"),
    "trials": ("trials", ".yaml"),
    "baselines": ("baselines", ".yaml"),
    "reports": ("analysis", ".sql"),
}
_SINGULAR = {"spaces": "objective space", "trials": "search", "baselines": "baseline", "reports": "report"}


def root() -> Path:
    """Returns the folder that holds `spaces`, `trials`, `baselines` and `analysis`."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "catalogs"
    return inside if inside.is_dir() else package.parent


def names(catalog: str) -> list[str]:
    """Returns the stems of a catalog's files, sorted."""
    folder, suffix = CATALOGS[catalog]
    return sorted(file.stem for file in (root() / folder).glob(f"*{suffix}"))


def path(catalog: str, name_or_path: str | Path) -> Path:
    """Returns the file of that name or path. Raises SpecError with the nearest name if there is none.

    A file on the disk takes precedence over a catalog file of the same path.
    """
    text = str(name_or_path)
    folder, suffix = CATALOGS[catalog]
    if "/" not in text and "\\" not in text and not text.endswith((suffix, ".yml")):
        if text in names(catalog):
            return root() / folder / f"{text}{suffix}"
        raise SpecError(f"no such {_SINGULAR[catalog]} {text!r}{did_you_mean(text, names(catalog))}")
    file = Path(text).expanduser()
    if file.is_file():
        return file
    if file.parent == Path(folder) and file.suffix == suffix:
        if file.stem in names(catalog):
            return root() / file
        raise SpecError(f"no such file {text!r}{did_you_mean(file.stem, names(catalog))}")
    problem = f"{text!r} is a folder, not a file" if file.is_dir() else f"no such file {text!r}"
    raise SpecError(f"{problem}; in the catalog: {', '.join(names(catalog))}")


def display_path(file: Path) -> str:
    """Returns a path as messages print it: relative to the current folder or the catalogs if it lies there."""
    for folder in (Path.cwd(), root()):
        if file.is_absolute() and file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return str(file)
