"""The lock that lets one process at a time write a run."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from raysearch.errors import RunError

_TRIES, _PAUSE = 10, 0.05  # of taking the lock; `writer_pid` holds it for an instant


def take_lock(folder: Path) -> IO[str]:
    """Returns the open lock file of a run, which holds the lock until it is closed.

    Raises RunError when another process has it.
    """
    lock = (folder / "lock").open("a+")
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
        with (Path(folder) / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().split()[0])
    except FileNotFoundError:
        pass
    return None
