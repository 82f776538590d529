"""How much of its budget each arm has used, and whether it gets another configuration. Pure functions of the arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable

from raysearch.config.search_config import Search
from raysearch.formatting import format_count
from raysearch.search.arm_study import ArmStudy


def compute_seconds(arm: ArmStudy) -> float:
    """Returns the seconds in training of an arm's configurations; a trial in flight counts with the mean."""
    return math.fsum(arm.trial_seconds) + arm.in_flight * statistics.fmean(arm.trial_seconds or [0.0])


def is_full(arm: ArmStudy, search: Search, spent: float) -> bool:
    """Says whether an arm gets no new configuration, `spent` seconds after the search began.

    Of a budget of computing time an arm gets as many trials as come nearest to its share.
    """
    budget = search.budget
    if len(arm.configurations) >= arm.size or (budget.seconds is not None and spent >= budget.seconds):
        return True
    if budget.compute is None:
        return False
    seconds = compute_seconds(arm)
    half_of_next = statistics.fmean(arm.trial_seconds or [0.0]) * _trials_each(arm, search) / 2
    return seconds > 0 and seconds + half_of_next >= budget.compute


def _trials_each(arm: ArmStudy, search: Search) -> float:
    """Returns how many trials a configuration has: in a race, the mean of those that it is over for."""
    if not search.selection.folds:
        return 1.0
    over = [len(each.results) for each in arm.configurations.values() if each.trial is None]
    return statistics.fmean(over or [len(arm.cells)])


def awaits_first_cost(arm: ArmStudy, search: Search) -> bool:
    """Says whether an arm must wait for its first trial, to know what a trial costs."""
    return search.budget.compute is not None and not arm.trial_seconds and arm.in_flight > 0


def used_share(arm: ArmStudy, search: Search, arms: Collection[ArmStudy]) -> tuple[float, int]:
    """Returns how much of its share an arm has used; giving trials to the least lets all arms end at the same time."""
    tried = len(arm.configurations)
    if search.budget.compute is not None:
        return compute_seconds(arm) / search.budget.compute, tried
    longest = max((other.size for other in arms if other.size < math.inf), default=1)
    return tried / min(arm.size, longest), tried


def remaining_trials(arm: ArmStudy, search: Search, *, is_full: bool) -> int | None:
    """Returns how many trials an arm has still to hand out if none fails; None when only time ends the search.

    In a race it is an estimate: configurations to come have as many trials as those that it is over for.
    """
    total = 0.0
    if not is_full:
        if arm.size == math.inf or (search.budget.compute is not None and arm.arm.dimensions):
            return None
        each = _trials_each(arm, search) if search.selection.folds else len(arm.cells)
        total += (int(arm.size) - len(arm.configurations)) * each
    return round(total) + _promised_trials(arm, search)


def expected_trials(arm: ArmStudy, search: Search, *, is_full: bool) -> int | None:
    """Returns how many trials an arm will still hand out: `remaining_trials`, or an estimate from its computing time.

    None while an arm with a share of computing time has had no trial, or if only time ends the search.
    """
    remaining = remaining_trials(arm, search, is_full=is_full)
    if remaining is not None or search.budget.compute is None or not arm.trial_seconds:
        return remaining
    seconds = statistics.fmean(arm.trial_seconds)
    count = (search.budget.compute - compute_seconds(arm)) / seconds if seconds else math.inf
    most = (arm.size - len(arm.configurations)) * len(arm.cells)
    left = min(count, most)
    return None if left == math.inf else max(0, round(left)) + _promised_trials(arm, search)


def why_held_back(arms: Iterable[ArmStudy], search: Search, spent: float) -> str:
    """Returns what has to happen before the next trial is handed out, if none is now; empty if none is to come."""
    whys = []
    for arm in arms:
        name, running = arm.arm.name, format_count(arm.in_flight, "running trial")
        if not arm.in_flight:
            continue
        if not is_full(arm, search, spent) and awaits_first_cost(arm, search):
            whys.append(f"arm {name}: its first trial tells what a trial costs")
        elif arm.race.drops:
            whys.append(f"arm {name}: the race over the folds needs the result of {running}")
        elif _promised_trials(arm, search):
            whys.append(f"arm {name}: further seeds and final trainings need the result of {running}")
    return "; ".join(whys)


def _promised_trials(arm: ArmStudy, search: Search) -> int:
    """Returns how many trials come whatever the budget: of configurations that have begun, and of the winner."""
    unsettled = [configuration for configuration in arm.configurations.values() if configuration.trial is not None]
    total = sum(len(arm.cells) - len(configuration.results) for configuration in unsettled)
    return total + max(0, len(search.final_cells) - len(arm.finals))
