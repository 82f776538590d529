"""How long a search will still take, estimated from its trials so far.

The time before the first trial (reading data, starting Ray, importing torch) counts for nothing. Trials of an arm are
expected to take what its trials have taken on average; those of an arm that has none yet, what the others have taken.
Trials run at the same time as many as they have on average since the first one began, pauses included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean


@dataclass(frozen=True)
class Timings:
    """What is known of the trials of this session; times in s."""

    elapsed: float = 0.0  # since its first trial began
    ended: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by arm, the times of trials that have ended
    running: Sequence[tuple[str, float]] = ()  # arm and time so far; 0 while the trial waits for a worker
    to_come: Mapping[str, int] | None = None  # trials to be handed out, by arm; None when only time ends the search


def estimate_remaining(timings: Timings) -> float | None:
    """Returns the seconds until the last trial ends; None while no trial has ended, or if their number is unknown."""
    times = {arm: fmean(of_arm) for arm, of_arm in timings.ended.items() if of_arm}
    if not times or timings.to_come is None:
        return None
    typical = fmean(time for of_arm in timings.ended.values() for time in of_arm)
    trained = math.fsum(time for of_arm in timings.ended.values() for time in of_arm)
    at_once = (trained + math.fsum(time for _, time in timings.running)) / max(timings.elapsed, 1e-9)
    work = math.fsum(times.get(arm, typical) * count for arm, count in timings.to_come.items())
    work += math.fsum(max(0.0, times.get(arm, typical) - time) for arm, time in timings.running)
    return work / max(at_once, 1e-9)
