"""The time that a search still takes, from timings by hand and from recorded searches."""

import json
from pathlib import Path

import pytest

from raysearch.search.time_estimate import Timings, estimate_remaining

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "search_timings.json").read_text())


def test_estimate_by_hand() -> None:
    # two at a time: four trials of 10 s in 20 s; 6 more of 10 s, and two running for 4 s, are 72 s of work
    timings = Timings(28.0, {"search": [10.0] * 4}, [("search", 4.0), ("search", 4.0)], {"search": 6})
    assert estimate_remaining(timings) == pytest.approx(72 / (48 / 28))


def test_estimate_uses_the_time_of_each_arm() -> None:
    timings = Timings(21.0, {"search": [20.0], "tfidf_lr": [1.0]}, [], {"search": 2, "tfidf_lr": 5, "tapt": 1})
    assert estimate_remaining(timings) == pytest.approx(2 * 20 + 5 * 1 + 10.5)


def test_estimate_before_any_end_is_unknown() -> None:
    assert estimate_remaining(Timings(5.0, {}, [("search", 5.0)], {"search": 3})) is None
    assert estimate_remaining(Timings(5.0, {"search": [2.0]}, [], None)) is None


def replayed(trials: list[list[object]], ended: int) -> tuple[float, float]:
    """Returns the estimate when so many trials have ended, and what was left then; rows are arm, start and end in s."""
    trials = sorted(trials, key=lambda row: row[2])
    now = float(trials[ended - 1][2])  # type: ignore[arg-type]
    first, last = min(float(row[1]) for row in trials), max(float(row[2]) for row in trials)  # type: ignore[arg-type]
    times: dict[str, list[float]] = {}
    running, to_come = [], dict.fromkeys({str(row[0]) for row in trials}, 0)
    for row in trials:
        arm, start, end = str(row[0]), float(row[1]), float(row[2])  # type: ignore[arg-type]
        if end <= now:
            times.setdefault(arm, []).append(end - start)
        elif start <= now:
            running.append((arm, now - start))
        else:
            to_come[arm] += 1
    return estimate_remaining(Timings(now - first, times, running, to_come)) or 0.0, last - now


@pytest.mark.parametrize("name", RECORDED)
def test_estimate_after_three_trials_is_within_twice(name: str) -> None:
    trials = RECORDED[name]
    for ended in range(3, len(trials) - 2):
        estimate, left = replayed(trials, ended)
        assert left / 2 < estimate < left * 2, f"after {ended} trials: {estimate:.0f} s, not {left:.0f} s"
