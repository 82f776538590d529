"""The parts of a sentence that says how two arms differ: by how much, on what it rests, and how surely."""

from __future__ import annotations

from raysearch.formatting import format_bounds, format_count
from raysearch.reports.arm_comparison import LEAST_SEEDS, Comparison
from raysearch.storage.states import ENSEMBLE_ARM, MAIN_ARM


def name_arm(arm: str) -> str:
    """Returns what a sentence calls an arm."""
    return {MAIN_ARM: "the search's winner", ENSEMBLE_ARM: "the ensemble of all arms"}.get(arm, arm)


def state_amount(comparison: Comparison, metric: str, than: str = "") -> str:
    """Returns `scores 0.012 macro_f1 more than ...`."""
    size = f"{abs(comparison.difference):.3f}"
    if float(size) == 0:
        return f"scores the same {metric}{f' as {name_arm(than)}' if than else ''}"
    direction = "more" if comparison.difference > 0 else "less"
    return f"scores {size} {metric} {direction}{f' than {name_arm(than)}' if than else ''}"


def state_basis(comparison: Comparison) -> str:
    """Returns the number of seeds and the interval, in brackets."""
    seeds = format_count(len(comparison.d), "fold" if comparison.folds else "fresh seed")
    seeds += " of fresh partitions" if comparison.folds else ""
    if comparison.low is None or comparison.high is None:
        return f"({seeds})"
    return f"({seeds}; 95 % interval {format_bounds(comparison.low, comparison.high)})"


def for_now(comparison: Comparison) -> str:
    """Returns ` for now` where so few seeds show nothing."""
    return " for now" if len(comparison.d) < LEAST_SEEDS and comparison.better == 0 else ""


def state_surety(comparison: Comparison) -> str:
    """Returns how surely the first arm is better."""
    if comparison.better > 0:
        return "and is better"
    if comparison.leans > 0:
        return "and is probably better"
    return "which shows no difference" if len(comparison.d) >= LEAST_SEEDS else "and so few seeds show nothing"
