"""A call that runs in a thread while something else is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")
POLL_SECONDS = 0.1


class BackgroundCall(Generic[ResultT]):
    """A call that begins now, in a thread that does not keep the process alive."""

    def __init__(self, call: Callable[[], ResultT]) -> None:
        self._results: list[ResultT] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], ResultT]) -> None:
        try:
            self._results.append(call())
        except BaseException as error:
            self._error = error

    def wait(self, patience: float) -> None:
        """Waits for the end of the call at most `patience` seconds."""
        self._thread.join(patience)

    def check(self, interrupt: Callable[[], None], patience: float = 0.0) -> None:
        """Waits for the end of the call at most `patience` seconds, then raises what it has raised so far.

        `interrupt`, which may raise, is called first.
        """
        self.wait(patience)
        interrupt()
        if self._error is not None:
            raise self._error

    def result(self, interrupt: Callable[[], None]) -> ResultT:
        """Waits for the end of the call and returns its result; calls `interrupt` all the time."""
        while self._thread.is_alive():
            self.check(interrupt, POLL_SECONDS)
        self.check(interrupt)
        return self._results[0]
