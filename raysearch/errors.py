"""The errors a user meets: each one line that says where, what, and what would do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpecError(ValueError):
    """A user's file or argument that cannot be used: `file:line: key: problem`."""

    def __init__(self, problem: str, *, file: str = "", line: int = 0, key: str = "") -> None:
        self.problem, self.file, self.line, self.key = problem, file, line, key
        where = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(part for part in (where, key, problem) if part))


class RunError(RuntimeError):
    """A run folder that cannot be read, continued or exported as asked."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The closing words of an error about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
