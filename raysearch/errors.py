"""The errors that a user meets. Each is one line that says where the problem is, what it is, and what would help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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


SHOWN_NAMES, SHOWN_CHARACTERS = 20, 60  # of a message that lists names


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the end of an error message about an unknown name: the nearest known name, or all of them."""
    names = sorted(known)
    return nearest(word, names) or (f"; known: {shorten_list(names)}" if names else "")


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns the end of an error message that asks for the nearest known name; empty if none is near.

    Long names, and those beyond some thousands, are not compared, because that takes time squared in their length.
    """
    short = [name for name in sorted(known) if len(name) <= SHOWN_CHARACTERS][:5000]
    near = difflib.get_close_matches(word, short, n=1, cutoff=0.6) if len(word) <= SHOWN_CHARACTERS else []
    return f"; did you mean {near[0]!r}?" if near else ""


def shorten(text: str) -> str:
    """Returns a text for a message: on one line, and cut after SHOWN_CHARACTERS."""
    text = text[: SHOWN_CHARACTERS + 1] if text.isprintable() else repr(text[: SHOWN_CHARACTERS + 1])[1:-1]
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def shorten_list(names: Sequence[str]) -> str:
    """Returns names separated by commas, at most SHOWN_NAMES of them."""
    shown = ", ".join(shorten(name) for name in names[:SHOWN_NAMES])
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES} more"
