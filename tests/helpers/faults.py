"""Faults at the storage operations of a process, one by one: the process ends, a write is torn, the disk is full."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = ("replace", "unlink", "fsync", "mkdir", "rmdir")  # of the module os; pathlib and shutil call these
KINDS = ("ends before", "ends after", "torn", "full once", "full for ever", "broken once")
ERRORS = {"full once": errno.ENOSPC, "full for ever": errno.ENOSPC, "broken once": errno.EIO}


class ProcessEnds(BaseException):
    """The process has ended: nothing that it does from now on reaches the disk."""


class Faults:
    """Counts the storage operations below a folder, and lets the one of a number go wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str = "", number: int = -1) -> None:
        self.folder, self.kind, self.number = str(folder), kind, number
        self.count, self.is_over, self.log = 0, False, list[str]()
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._faulty(name, getattr(os, name)))

    def _faulty(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *more: Any, **named: Any) -> Any:
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else os.fspath(target)
            if not str(path).startswith(self.folder) and named.get("dir_fd") is None:
                return operation(target, *more, **named)
            return self._apply(name, str(path), lambda: operation(target, *more, **named))

        return call

    def _apply(self, name: str, path: str, act: Callable[[], Any]) -> Any:
        if self.is_over:
            raise ProcessEnds
        number, self.count = self.count, self.count + 1
        self.log.append(f"{name} {path.removeprefix(self.folder)}")
        is_hit = number == self.number or (self.kind == "full for ever" and 0 <= self.number < number)
        if not is_hit or (self.kind == "full for ever" and name in ("unlink", "rmdir")):
            return act()
        if self.kind in ERRORS:
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))
        self.is_over = True
        if self.kind == "ends after":
            act()
        elif self.kind == "torn" and name == "fsync" and not Path(path).is_dir():
            os.truncate(path, Path(path).stat().st_size // 2)
        raise ProcessEnds
