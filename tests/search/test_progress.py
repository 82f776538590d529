"""What the live view shows, with and without a terminal."""

import io
import threading
import time
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from raysearch.search.progress import ROWS, Progress, SearchProgress, TrialProgress
from raysearch.search.time_estimate import Timings


def snapshot(**more: Any) -> SearchProgress:
    values = {
        "counts": Counter(complete=3, stopped=1, failed=1, running=2),
        "expected": 20,
        "seconds": 100.0,
        "limit": None,
        "timings": Timings(50.0, {"search": [10.0] * 5}, [], {"search": 15}),
        "final_trials": {"search": 0},
        "best": (0.75, "search-0002-s0-abcdef", {"lr": 0.00123456, "k": 4, "surgery": "none"}),
        "running": [
            TrialProgress("search-0005-s0-aaaaaa", 40, 0.5, 12.0),
            TrialProgress("search-0006-s0-bbbbbb", 0, None, None),
        ],
    }
    return SearchProgress(**(values | more))


def panel(**more: Any) -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    console.print(Progress("first", lambda: snapshot(**more), console=console).render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_panel_shows_counts_running_best_and_remaining_time() -> None:
    text = panel()
    assert "first  5 of 20 ended: 3 complete, 1 stopped, 1 failed; 2 running; 1 min 40 s, about 2 min 30 s left" in text
    assert "best 0.7500  search-0002-s0-abcdef  lr 0.001235, k 4, surgery none" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["search-0005-s0-aaaaaa", "40", "0.5000", "12", "s"] in lines
    assert ["search-0006-s0-bbbbbb", "0", "waiting"] in lines


def test_panel_with_many_running_trials_is_truncated() -> None:
    many = [TrialProgress(f"t{n}", 1, 0.1, 1.0) for n in range(ROWS + 5)]
    assert "and 5 more" in panel(running=many)


def test_panel_before_the_first_worker_says_waiting() -> None:
    assert "waiting for workers" in panel(running=[TrialProgress("t", 0, None, None)], best=None)


@pytest.mark.parametrize(
    ("more", "share", "remaining"),
    [
        ({}, 0.25, 150.0),
        ({"limit": 200.0}, 0.25, 100.0),
        ({"limit": 200.0, "expected": None}, 0.5, 100.0),
        ({"limit": 50.0, "expected": None}, 1.0, 0.0),
        ({"limit": 200.0, "final_trials": {"search": 3}}, 0.25, 130.0),
        ({"limit": 90.0, "final_trials": {"search": 3}}, 0.25, 30.0),
        ({"timings": Timings(9.0, {}, [("search", 9.0)], {"search": 19})}, 0.25, None),
    ],
)
def test_progress_bar_follows_trials_or_else_time(more: dict[str, Any], share: float, remaining: float | None) -> None:
    assert snapshot(**more).share == share
    assert snapshot(**more).remaining == remaining


def test_panel_before_the_search_says_what_it_waits_for() -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    progress = Progress("first", console=console)
    with progress:
        progress.wait_for("starting Ray while the data are read")
        console.print(progress.render())
    assert "first  starting Ray while the data are read; " in console.file.getvalue()  # type: ignore[attr-defined]


def test_panel_is_redrawn_without_holding_up_its_source() -> None:
    """The source of the panel may wait for a lock whose holder prints a line, see `Progress._draw`."""
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    lock = threading.RLock()

    def state() -> SearchProgress:
        with lock:
            return snapshot()

    progress = Progress("first", console=console)
    with progress:
        progress.progress = state
        with lock:
            time.sleep(0.6)  # more than a redraw: the panel's thread waits for the lock now
            progress.print("a line")
        time.sleep(0.6)
    assert "a line" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "5 of 20 ended" in console.file.getvalue()  # type: ignore[attr-defined]


def test_progress_without_terminal_says_what_it_waits_for() -> None:
    out = io.StringIO()
    with Progress("first", console=Console(file=out, width=140)) as progress:
        progress.wait_for("reading the data")
        progress.show_start("search-0000-s0-aaaaaa", 25)
        progress.show_start("search-0001-s0-bbbbbb", 25)
    first, second = out.getvalue().splitlines()
    assert first == "reading the data ..."
    assert second.startswith("the first trial began after 0")
    assert second.endswith(" s: search-0000-s0-aaaaaa; it is first evaluated at step 25 ...")


def test_progress_without_terminal_prints_a_line_per_trial() -> None:
    out = io.StringIO()
    row = {
        "trial_id": "search-0001-s0-cccccc",
        "state": "failed",
        "score": None,
        "seconds": 3.0,
        "why": "a\nOSError: x\n",
    }
    with Progress("first", snapshot, console=Console(file=out, width=40)) as progress:
        progress.show_end(row)
        progress.print("a note [that] is printed unchanged")
    line, note = out.getvalue().splitlines()
    assert line == "5/20  search-0001-s0-cccccc  failed  -  3 s  best 0.7500  OSError: x"
    assert note == "a note [that] is printed unchanged"
