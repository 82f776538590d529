"""A deadline for each trial: a trial that hangs must not hold its worker group for ever. Knows no Ray.

A trial hangs if it has not reported for much longer than between any two of its reports so far. Its process is ended
then, as if it had been lost: the group starts again, the trial resumes from its checkpoint, and has failed if it hangs
a second time. A thread watches, and where it cannot run, because the trial holds Python's lock, the timer of
`faulthandler` ends the process a little later.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from raysearch.formatting import format_duration

LEAST_SECONDS = 600.0  # without a report before a trial counts as hanging
FIRST_SECONDS = 14_400.0  # before its first report, which also loads data and models
FACTOR = 20.0  # times its longest pause so far
LATER = 1.2  # times the deadline after which the timer of faulthandler acts
VARIABLE = "RAYSEARCH_HANG_SECONDS"  # the deadline, whatever the pace; 0: there is none
HANG_EXIT = 75


def declared_seconds() -> float | None:
    """Returns the seconds that the user has set; None for the usual ones. Raises ValueError for what is no number."""
    text = os.environ.get(VARIABLE, "")
    return float(text) if text else None


class Watchdog:
    """Watches one trial while it is entered; `beat` says that it has reported."""

    def __init__(
        self, on_hang: Callable[[str], None], seconds: float | None = None, end: Callable[[int], None] = os._exit
    ) -> None:
        """Calls `on_hang` with the reason and then `end` if the trial hangs; `seconds` as `declared_seconds`."""
        self._on_hang, self._end, self._seconds = on_hang, end, seconds
        self._longest: float | None = None  # seconds between two reports so far
        self._last = time.monotonic()
        self._changed, self._is_over = threading.Condition(), False

    @property
    def limit(self) -> float:
        """The seconds without a report after which the trial counts as hanging."""
        if self._seconds is not None:
            return self._seconds
        return FIRST_SECONDS if self._longest is None else max(LEAST_SECONDS, FACTOR * self._longest)

    def __enter__(self) -> Self:
        if self._seconds != 0:
            self._last = time.monotonic()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._seconds != 0:
            faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Says that the trial has reported."""
        with self._changed:
            now = time.monotonic()
            self._longest = max(self._longest or 0.0, now - self._last)
            self._last = now
            self._changed.notify_all()
        if self._seconds != 0:
            self._arm()

    def _arm(self) -> None:
        if self._end is os._exit:
            faulthandler.dump_traceback_later(LATER * self.limit, exit=True)

    def _watch(self) -> None:
        with self._changed:
            while not self._is_over:
                left = self._last + self.limit - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                pause = "none before" if self._longest is None else f"at most {format_duration(self._longest)} before"
                reason = f"hangs: no report for {format_duration(self.limit)} ({pause}); {VARIABLE} sets the deadline"
                self._on_hang(reason)
                self._end(HANG_EXIT)
                return
