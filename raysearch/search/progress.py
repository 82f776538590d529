"""Progress: what a search is doing, shown while it does it.

On a terminal a live panel; elsewhere one line for each trial that ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raysearch.formatting import format_duration, format_value
from raysearch.storage.states import ENDED_STATES, TrialState

ROWS = 8  # running trials shown
REFRESH = 4.0  # a second


@dataclass(frozen=True)
class TrialProgress:
    """A running trial."""

    trial_id: str
    step: int
    score: float | None
    seconds: float | None  # since it was started; None while it waits for a worker


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands."""

    counts: Counter[str]  # complete, stopped, failed, running
    expected: int | None  # trials in all, if none is stopped or fails; None when only time ends the search
    seconds: float  # spent, all sessions
    limit: float | None  # seconds after which no configuration starts
    session: tuple[int, float]  # trials that have ended, and seconds, since this driver began
    best: tuple[float, str, Mapping[str, Any]] | None  # score, trial, values drawn
    running: Sequence[TrialProgress]

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return sum(self.counts[state] for state in ENDED_STATES)

    @property
    def share(self) -> float:
        """How much of the budget is used, in [0, 1]."""
        shares = [self.ended / self.expected] if self.expected else []
        if self.limit and (self.expected is None or not shares):
            shares.append(self.seconds / self.limit)
        return min(1.0, max(shares, default=0.0))

    @property
    def left(self) -> float | None:
        """Seconds to go, as it looks; None while nothing can be said."""
        ended, seconds = self.session
        by_trials = seconds / ended * (self.expected - self.ended) if ended and self.expected is not None else None
        by_time = max(0.0, self.limit - self.seconds) if self.limit is not None else None
        known = [left for left in (by_trials, by_time) if left is not None]
        return min(known) if known else None


class Progress:
    """Shows where a search stands, from entering to leaving."""

    def __init__(
        self,
        title: str,
        snapshot: Callable[[], SearchProgress],
        *,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self.title, self._standing = title, snapshot
        self.console = console or Console(stderr=True, quiet=quiet)
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(
                get_renderable=self.render, console=self.console, refresh_per_second=REFRESH, transient=True
            )
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def ended(self, row: Mapping[str, Any]) -> None:
        """A trial has been committed: one line where there is no panel."""
        if self.live is None:
            snapshot = self._standing()
            of = f"/{snapshot.expected}" if snapshot.expected is not None else ""
            score = f"{row['score']:.4f}" if row["score"] is not None else "-"
            best = f"best {snapshot.best[0]:.4f}" if snapshot.best else ""
            why = row["why"].strip().splitlines()[-1] if row["state"] == TrialState.FAILED else ""
            parts = (
                f"{snapshot.ended}{of}",
                row["trial_id"],
                row["state"],
                score,
                format_duration(row["seconds"]),
                best,
                why,
            )
            self.say("  ".join(part for part in parts if part))

    def render(self) -> RenderableType:
        """The panel."""
        snapshot = self._standing()
        bar = Table.grid()
        bar.add_row(ProgressBar(total=1.0, completed=snapshot.share, width=60))
        parts: list[RenderableType] = [self._head(snapshot), bar]
        if snapshot.best:
            score, trial_id, params = snapshot.best
            drawn = ", ".join(f"{name} {format_value(value)}" for name, value in params.items())
            parts.append(Text(f"best {score:.4f}  {trial_id}  {drawn}", style="green", overflow="fold"))
        if snapshot.running and all(line.seconds is None for line in snapshot.running):
            parts.append(Text("waiting for workers", style="dim"))
        elif snapshot.running:
            parts.append(_table(snapshot.running))
        return Group(*parts)

    def _head(self, snapshot: SearchProgress) -> Text:
        counts = snapshot.counts
        of = f" of {snapshot.expected}" if snapshot.expected is not None else ""
        text = Text(f"{self.title}  ", style="bold")
        text.append(
            f"{snapshot.ended}{of} ended: {counts['complete']} complete, {counts['stopped']} stopped, ",
            "not bold",
        )
        text.append(f"{counts['failed']} failed", "red not bold" if counts["failed"] else "not bold")
        left = f", about {format_duration(snapshot.left)} left" if snapshot.left else ""
        text.append(f"; {counts['running']} running; {format_duration(snapshot.seconds)}{left}", "not bold")
        return text


def _table(running: Sequence[TrialProgress]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("running", "step", "score", "time"):
        table.add_column(name, justify="left" if name == "running" else "right")
    for line in running[:ROWS]:
        score = "" if line.score is None else f"{line.score:.4f}"
        table.add_row(
            line.trial_id, str(line.step), score, "waits" if line.seconds is None else format_duration(line.seconds)
        )
    if len(running) > ROWS:
        table.add_row(f"and {len(running) - ROWS} more", "", "", "")
    return table
