"""The live view of a search: a panel on a terminal, otherwise one line for each trial that ends."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raysearch.formatting import format_duration, format_value, printable
from raysearch.search.time_estimate import Timings, estimate_remaining
from raysearch.storage.states import ENDED_STATES, TrialState

ROWS = 8  # running trials shown
REFRESH = 4.0  # times a second


@dataclass(frozen=True)
class TrialProgress:
    """A running trial."""

    trial_id: str
    step: int
    score: float | None
    seconds: float | None  # since it started; None while it waits for a worker


@dataclass(frozen=True)
class SearchProgress:
    """How far a search is."""

    counts: Counter[str]  # of trials: complete, stopped, failed, running
    expected: int | None  # trials in all, if none is stopped or fails; None when only time ends the search
    seconds: float  # spent, all sessions
    limit: float | None  # seconds after which no configuration starts
    timings: Timings  # of this session's trials
    final_trials: Mapping[str, int]  # by arm, those to come that start after the limit too
    best: tuple[float, str, Mapping[str, Any]] | None  # score, trial and values of the best trial, see `storage.best`
    running: Sequence[TrialProgress]

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(self.counts[state] for state in ENDED_STATES)

    @property
    def share(self) -> float:
        """How much of the budget is used, in [0, 1]."""
        shares = [self.ended / self.expected] if self.expected else []
        if self.limit and (self.expected is None or not shares):
            shares.append(self.seconds / self.limit)
        return min(1.0, max(shares, default=0.0))

    @property
    def remaining(self) -> float | None:
        """Estimated seconds until the end; None while there is nothing to estimate from."""
        by_trials = estimate_remaining(self.timings)
        if self.limit is None:
            return by_trials
        finals = estimate_remaining(replace(self.timings, to_come=self.final_trials))
        by_time = max(0.0, self.limit - self.seconds) + (finals or 0.0)
        return by_time if by_trials is None else min(by_trials, by_time)


class Progress:
    """Shows what a search does, while it is entered: first what it waits for, then how far it is."""

    def __init__(
        self,
        title: str,
        progress: Callable[[], SearchProgress] | None = None,
        *,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        """Asks `progress`, which may be set later, for the present state each time that something is shown."""
        self.title, self.progress = title, progress
        self.console = console or Console(stderr=True, quiet=quiet)
        self.live: Live | None = None
        self._state: SearchProgress | None = None  # when the panel was last drawn
        self._stage, self._entered, self._has_started = "", time.monotonic(), False
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self.render, console=self.console, auto_refresh=False, transient=True)
            self.live.start()
            threading.Thread(target=self._draw, name="panel", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _draw(self) -> None:
        """Draws the panel again and again. The state is asked for before, because rich draws while it holds a lock."""
        while not self._over.wait(1 / REFRESH) and (live := self.live) is not None:
            self._state = self.progress() if self.progress else None
            live.refresh()

    @property
    def elapsed(self) -> float:
        """Seconds since the panel was made."""
        return time.monotonic() - self._entered

    def wait_for(self, stage: str) -> None:
        """Says what is waited for from now on, such as `starting Ray`; a line of its own unless there is a panel."""
        self._stage = stage
        if self.live is None:
            self.print(f"{stage} ...")

    def show_start(self, trial_id: str, first_step: int) -> None:
        """Says that the first trial has begun, which is first evaluated after `first_step` steps."""
        if not self._has_started:
            self._has_started = True
            waited = f"the first trial began after {format_duration(self.elapsed)}"
            self.wait_for(f"{waited}: {trial_id}; it is first evaluated at step {first_step}")

    def print(self, line: str) -> None:
        """Prints a line that stays."""
        self.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    def show_end(self, row: Mapping[str, Any]) -> None:
        """Prints a line on a trial that has been committed, unless there is a panel."""
        if self.live is None and self.progress is not None:
            progress = self.progress()
            total = f"/{progress.expected}" if progress.expected is not None else ""
            score = f"{row['score']:.4f}" if row["score"] is not None else "-"
            best = f"best {progress.best[0]:.4f}" if progress.best else ""
            why = row["why"].strip().splitlines()[-1] if row["state"] == TrialState.FAILED else ""
            parts = (
                f"{progress.ended}{total}",
                row["trial_id"],
                row["state"],
                score,
                format_duration(row["seconds"]),
                best,
                why,
            )
            self.print("  ".join(part for part in parts if part))

    def render(self) -> RenderableType:
        """Returns the panel."""
        progress = self._state or (self.progress() if self.progress else None)
        if progress is None:
            waiting = Text(printable(f"{self.title}  "), style="bold")
            return waiting.append(printable(f"{self._stage}; {format_duration(self.elapsed)}"), "not bold")
        bar = Table.grid()
        bar.add_row(ProgressBar(total=1.0, completed=progress.share, width=60))
        parts: list[RenderableType] = [self._headline(progress), bar]
        if progress.best:
            score, trial_id, params = progress.best
            values = ", ".join(f"{name} {format_value(value)}" for name, value in params.items())
            best = printable(f"best {score:.4f}  {trial_id}  {values}")
            parts.append(Text(best, style="green", overflow="fold"))
        if progress.running and all(trial.seconds is None for trial in progress.running):
            parts.append(Text(self._stage or "waiting for workers", style="dim"))
        elif progress.running:
            parts.append(_running_table(progress.running))
        return Group(*parts)

    def _headline(self, progress: SearchProgress) -> Text:
        counts = progress.counts
        total = f" of {progress.expected}" if progress.expected is not None else ""
        complete, stopped, failed = (f"{counts[state]} {state}" for state in ENDED_STATES)
        text = Text(printable(f"{self.title}  "), style="bold")
        text.append(f"{progress.ended}{total} ended: {complete}, {stopped}, ", "not bold")
        text.append(failed, "red not bold" if counts[TrialState.FAILED] else "not bold")
        remaining = f", about {format_duration(progress.remaining)} left" if progress.remaining else ""
        running = f"{counts[TrialState.RUNNING]} running"
        text.append(f"; {running}; {format_duration(progress.seconds)}{remaining}", "not bold")
        return text


def _running_table(trials: Sequence[TrialProgress]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("running", "step", "score", "time"):
        table.add_column(name, justify="left" if name == "running" else "right")
    for trial in trials[:ROWS]:
        score = "" if trial.score is None else f"{trial.score:.4f}"
        duration = "waiting" if trial.seconds is None else format_duration(trial.seconds)
        table.add_row(Text(printable(trial.trial_id)), str(trial.step), score, duration)
    if len(trials) > ROWS:
        table.add_row(f"and {len(trials) - ROWS} more", "", "", "")
    return table
