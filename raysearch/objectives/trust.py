"""Which Python files of primitives may run.

A run's folder, an exported folder or a plan may be a stranger's, and what they name runs only if the user asks for it.
A file runs if a search or space file that the user's own command names declares it by its path (`primitives: FILE`), or
after `--trust`. It is known by the sha256 of its content, so that what was trusted is what runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from raysearch.errors import SpecError
from raysearch.formatting import printable

_trusted: set[str] = set()  # sha256 of the files that may run in this process
_has_consent = [False]  # whether the user trusts every file that is named


def trust(digests: Iterable[str]) -> None:
    """Lets the files with these sha256 run in this process."""
    _trusted.update(digests)


def trusted_digests() -> list[str]:
    """Returns the sha256 of the files that may run, sorted; worker processes get them from the driver."""
    return sorted(_trusted)


@contextmanager
def trusting_all(consents: bool) -> Iterator[None]:
    """Lets every file run while it is entered, if the user consents (`--trust`); each is printed with its sha256."""
    before, _has_consent[0] = _has_consent[0], _has_consent[0] or consents
    try:
        yield
    finally:
        _has_consent[0] = before


def require_trust(primitives: Mapping[str, Any]) -> None:
    """Raises SpecError, with the sha256, unless the file of a plan's `primitives` may run; they may be empty."""
    if not primitives or primitives["sha256"] in _trusted:
        return
    file, sha256 = str(primitives["file"]), str(primitives["sha256"])
    if not _has_consent[0]:
        raise SpecError(
            "this run names a Python file, and your command does not: launch the search file that declares it, or read "
            f"it and add --trust to run it (sha256 {sha256})",
            file=file,
        )
    sys.stderr.write(f"raysearch: trusted: runs {printable(file)} (sha256 {printable(sha256)})\n")
    trust([sha256])
