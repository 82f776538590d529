"""The errors that a user meets. Each is one line that says where the problem is, what it is, and what would help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpecError(ValueError):
    """A user's file or argument that cannot be used: `file:line: key: problem`."""

    def __init__(self, problem: str, *, file: str = "", line: int = 0, key: str = "") -> None:
        self.problem, self.file, self.line, self.key = problem, file, line, key
        where = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(part for part in (where, key, problem) if part))


class MissingFileError(SpecError):
    """A file that a declaration names and that is not there."""


class RunError(RuntimeError):
    """A run folder that cannot be read, resumed or exported."""


class SearchInterrupted(Exception):  # noqa: N818 - not an error: the user has pressed Ctrl-C
    """The user has asked the search to stop."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name: the nearest known name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
