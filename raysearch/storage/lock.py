"""The lock that lets one process at a time write a run."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from raysearch.errors import RunError

_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # the folder may be a stranger's, and its lock a link or a pipe
_TRIES, _PAUSE = 10, 0.05  # of taking the lock; `writer_pid` holds it for an instant


def take_lock(folder: Path) -> IO[str]:
    """Returns the open lock file of a run, which holds the lock until it is closed.

    Raises RunError when another process has it.
    """
    try:
        lock = os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK, 0o666), "a+")
    except OSError as error:
        raise RunError(f"{folder / 'lock'}: cannot be locked: {_reason(error)}") from None
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
            continue
        lock.truncate(0)
        lock.write(f"{os.getpid()} {socket.gethostname()}\n")
        lock.flush()
        return lock
    lock.seek(0)
    pid, host = [*lock.read().split(), "?", "?"][:2]
    lock.close()
    raise RunError(f"{folder}: process {pid} on {host} is writing this run; wait for it, or stop it")


def writer_pid(folder: Path | str) -> int | None:
    """Returns the id of the process that writes a run now, or None."""
    try:
        with os.fdopen(os.open(Path(folder) / "lock", os.O_RDONLY | _NO_LINK)) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                words = lock.read(1000).split()
                return int(words[0]) if words and words[0].isdecimal() else 0
    except OSError:  # there is none, or it is a link
        pass
    return None


def _reason(error: OSError) -> str:
    return "it is a link; remove it" if error.errno == errno.ELOOP else str(error.strerror)
