"""Starts the process that copies a run's scores to trackers while it works, and waits for it at the end.

It is a process of its own that reads the run's tables. Whatever happens to it, or to the tracker, happens to no trial.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from raysearch.config.sections import Logging
from raysearch.formatting import printable
from raysearch.storage.commands import command, run_reference

LOG_NAME = "export-logs.log"  # in the run's folder: what the process had to say
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # the folder may be a stranger's, and its log a link
_PATIENCE = 10.0  # s that it has after the end of the run
_CALL = "from raysearch.cli.main import main; main()"


class LogFollower:
    """The process that copies a run to the trackers that its search names; nothing without `logging:`."""

    def __init__(self, logging: Logging | None, folder: Path, *, quiet: bool) -> None:
        """Copies the run in `folder`; `quiet`: the user is told nothing."""
        self._logging, self._folder, self._quiet = logging, folder, quiet
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, once the run is declared and its lock is held."""
        if self._logging is None or self._process is not None:
            return
        verb = ["export-logs", str(self._folder), "--follow", *self._logging.options]
        try:
            with os.fdopen(os.open(self._folder / LOG_NAME, _APPEND, 0o666), "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CALL, *verb],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is not for it: it ends when the run does
                )
        except OSError as error:
            self._note(f"the scores are not copied to trackers: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is None or self._logging is None:
            return
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code:
            again = command("export-logs", run_reference(self._folder), *self._logging.options)
            self._note(f"not all scores were copied to trackers ({self._folder / LOG_NAME} says why); again: {again}")

    def _note(self, sentence: str) -> None:
        if not self._quiet:
            sys.stderr.write(printable(f"raysearch: {sentence}\n"))
