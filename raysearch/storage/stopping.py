"""Stops a run from another terminal: the process that writes it gets the signal of Ctrl-C, and the run can be resumed.

The process is the one that holds the run's lock. The lock file also names it, but a file may say anything: the signal
is sent only to a process of this machine that has this very file open.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from raysearch.errors import RunError
from raysearch.storage.lock import writer_pid

_POLL_SECONDS = 0.2


def stop_run(folder: Path, patience: float) -> bool:
    """Asks the process that writes a run to stop, and waits at most `patience` seconds for its end.

    Returns whether it has ended. Raises RunError when no process writes the run, or none that can be stopped from here.
    """
    pid = writer_pid(folder)
    if pid is None:
        raise RunError(f"{folder}: no process is working on this run, so there is nothing to stop")
    _check_writer(folder / "lock", pid)
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return True
    except PermissionError:
        raise RunError(f"{folder}: process {pid} is another user's; ask them to stop it") from None
    end = time.monotonic() + patience
    while writer_pid(folder) == pid:
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _check_writer(lock: Path, pid: int) -> None:
    """Raises RunError unless the process runs on this machine and has the lock file open."""
    if pid < 1:
        raise RunError(f"{lock}: it does not name the process that writes the run")
    host = [*lock.read_text(encoding="utf-8").split(), "", ""][1]
    if host != socket.gethostname():
        raise RunError(f"{lock.parent}: process {pid} works on this run on {host}; stop it there")
    descriptors = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").is_dir():  # not Linux: the lock is held, and the file names the holder
        return
    wanted_file = lock.stat()
    try:
        open_files = [descriptor.stat() for descriptor in descriptors.iterdir() if descriptor.exists()]
    except OSError:
        open_files = []
    if not any(os.path.samestat(each, wanted_file) for each in open_files):
        raise RunError(f"{lock}: process {pid} does not have this file open, so it is not the one that writes the run")
