"""The installed versions of packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def version_of(package: str) -> str:
    """Returns the version, or a note that the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
