"""What the user of a launch sees: the panel, and the answer to Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from raysearch.errors import SearchInterrupted
from raysearch.formatting import format_count
from raysearch.search.interruption import catch_interrupts
from raysearch.search.progress import Progress
from raysearch.search.recorder import Recorder
from raysearch.storage.commands import command, run_reference


class Session:
    """The panel of a launch and the answer to Ctrl-C, while it is entered."""

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self.folder, self.panel = folder, Progress(folder.name, quiet=quiet)
        self.interrupted = threading.Event()
        self._recorder: Recorder | None = None
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        self._entered.enter_context(self.panel)
        self.interrupted = self._entered.enter_context(catch_interrupts(self._answer, self._leave))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, SearchInterrupted) and self._recorder is not None:
            count = len(self._recorder.running)
            unfinished = f"{count} {'trial is' if count == 1 else 'trials are'} unfinished; " if count else ""
            self.panel.print(
                f"interrupted; {unfinished}resume it with: {command('resume', run_reference(self.folder))}"
            )
        self._entered.close()
        if isinstance(error, SearchInterrupted):
            raise KeyboardInterrupt from None

    def follow(self, recorder: Recorder, notes: Iterable[str]) -> None:
        """Shows the recorder's state from now on, after the notes on the data."""
        for note in notes:
            self.panel.print(note)
        self._recorder, self.panel.progress = recorder, recorder.progress
        recorder.on_commit, recorder.on_restart = self.panel.show_end, self.panel.print
        recorder.on_start = lambda plan: self.panel.show_start(plan.trial_id, plan.training.eval_every)

    def remark(self, text: str) -> None:
        """Prints a remark, if there is one."""
        if text:
            self.panel.print(text)

    def check(self) -> None:
        """Raises SearchInterrupted after Ctrl-C."""
        if self.interrupted.is_set():
            raise SearchInterrupted

    def _answer(self) -> None:
        if self._recorder is None:
            self.panel.print("stopping: no trial has begun; Ctrl-C again leaves at once")
            return
        saved = format_count(self._recorder.committed, "trial")
        running = format_count(len(self._recorder.running), "unfinished trial")
        self.panel.print(
            f"stopping: {saved} saved, {running} to be resumed; Ctrl-C again leaves at once and loses none of these"
        )

    def _leave(self) -> None:
        self.panel.console.show_cursor()
