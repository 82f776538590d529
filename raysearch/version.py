"""The installed versions of packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of(package: str) -> str:
    """Returns the version, or words that say that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
