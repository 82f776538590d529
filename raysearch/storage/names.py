"""The names of runs, arms, trials and exports, which are names of folders and words of commands.

A name that is read from a file becomes part of a path only if it is one plain word (`is_plain`).
"""

from __future__ import annotations

import re

LONGEST_NAME = 100  # characters
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
PLAIN_PATTERN = f"^(?:{_PLAIN.pattern})$"  # for Arrow's RE2
_STORE = re.compile(r"([a-z][a-z0-9+.-]*):/")


def is_plain(name: object) -> bool:
    """Says whether a name that was read from a file may become part of a path: letters, digits, `.`, `_` and `-`.

    It begins with none of `.` and `-`, so that it leads nowhere else and is no option of a command.
    """
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def name_problem(name: str, of: str = "a run") -> str:
    """Returns why a run, or what `of` says, cannot have this name, with the remedy; empty if it can."""
    if _NAME.fullmatch(name):
        return ""
    shown = name if len(name) <= LONGEST_NAME else f"{name[:20]}..."
    return (
        f"{shown!r} cannot be the name of {of}: a name has letters, digits, '.', '_' and '-', begins with none of "
        f"'.' and '-', and has at most {LONGEST_NAME} characters; such as {valid_name(name)!r}"
    )


def valid_name(text: str) -> str:
    """Returns the name that is nearest to a text: other characters become `_`, and a long text keeps its end."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[-LONGEST_NAME:].lstrip("._-")
    return name or "run"


def runs_problem(folder: str) -> str:
    """Returns why there can be no runs in this folder, with the remedy; empty if there can."""
    if not (store := _STORE.match(folder)):
        return ""
    return (
        f"{folder} is an address of a store ({store[1]}), and runs are written to a folder: name one, such as runs; "
        "object stores are not supported yet"
    )
