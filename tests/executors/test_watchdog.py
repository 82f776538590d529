"""A trial that hangs is ended by its own pace; one that reports is not."""

import subprocess
import sys
import threading
import time

import pytest

from raysearch.executors import watchdog
from raysearch.executors.watchdog import FACTOR, FIRST_SECONDS, HANG_EXIT, LEAST_SECONDS, VARIABLE, Watchdog


class Ending:
    """Takes what a watchdog does."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.codes: list[int] = []
        self.has_ended = threading.Event()

    def end(self, code: int) -> None:
        self.codes.append(code)
        self.has_ended.set()


def test_trial_without_a_report_is_ended_with_the_reason() -> None:
    ending = Ending()
    with Watchdog(ending.reasons.append, 0.05, ending.end):
        assert ending.has_ended.wait(10)
    assert ending.codes == [HANG_EXIT]
    assert ending.reasons == [f"hangs: no report for 0.05 s (none before); {VARIABLE} sets the deadline"]


def test_trial_that_reports_is_not_ended() -> None:
    ending = Ending()
    with Watchdog(ending.reasons.append, 5.0, ending.end) as watched:
        for _ in range(5):
            time.sleep(0.01)
            watched.beat()
    time.sleep(0.05)
    assert ending.codes == []


def test_deadline_follows_the_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watched = Watchdog(print, end=Ending().end)
    assert watched.limit == FIRST_SECONDS
    clock[0] = 5.0
    watched.beat()
    assert watched.limit == LEAST_SECONDS
    clock[0] = 105.0
    watched.beat()
    clock[0] = 106.0
    watched.beat()
    assert watched.limit == 100 * FACTOR


@pytest.mark.parametrize("hang", ["time.sleep(60)", "sum(range(10**12))"])
def test_process_that_hangs_ends(hang: str) -> None:
    code = (
        "import time\nfrom raysearch.executors.watchdog import Watchdog\n"
        f"with Watchdog(lambda reason: print(reason, flush=True), 0.5):\n    {hang}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0


def test_no_deadline_where_the_user_sets_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    ending = Ending()
    assert watchdog.declared_seconds() == 0.0
    with Watchdog(ending.reasons.append, watchdog.declared_seconds(), ending.end):
        time.sleep(0.05)
    assert ending.codes == []
