"""Which version of a package is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def version_of(package: str) -> str:
    """The version, or words that say there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
