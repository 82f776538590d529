"""Tuning: which trials the scheduler stops, and that it does so after a restart as before."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from raysearch.config.sections import Scheduler
from raysearch.search.tune_adapter import EXEMPT, REPLAYED, SCORE, STEP, Rungs

ASHA = Scheduler(name="asha", grace=20, reduction=3)


def say(rungs: Rungs, trial: Any, step: int, score: float, *, replayed: bool = False, exempt: bool = False) -> str:
    result = {STEP: step, SCORE: score, REPLAYED: replayed, EXEMPT: exempt}
    return rungs.on_trial_result(None, trial, result)  # type: ignore[arg-type]


def trial_of(rungs: Rungs, name: str) -> Any:
    trial = SimpleNamespace(trial_id=name)
    rungs.on_trial_add(None, trial)  # type: ignore[arg-type]
    return trial


def after(scores: list[float], **more: Any) -> str:
    """What becomes of the last of trials that report these scores at the first rung."""
    rungs = Rungs(ASHA)
    said = [say(rungs, trial_of(rungs, f"t{n}"), 20, score) for n, score in enumerate(scores[:-1])]
    assert said[0] == "CONTINUE"
    return say(rungs, trial_of(rungs, "last"), 20, scores[-1], **more)


def test_a_trial_below_the_best_third_of_its_rung_is_stopped() -> None:
    assert after([0.5, 0.6, 0.7, 0.8]) == "CONTINUE"
    assert after([0.5, 0.6, 0.7, 0.1]) == "STOP"


def test_steps_below_the_first_rung_stop_nobody() -> None:
    rungs = Rungs(ASHA)
    say(rungs, trial_of(rungs, "good"), 20, 0.9)
    assert say(rungs, trial_of(rungs, "bad"), 19, 0.1) == "CONTINUE"


def test_what_is_said_again_or_exempt_stops_nobody() -> None:
    assert after([0.5, 0.6, 0.7, 0.1], replayed=True) == "CONTINUE"
    assert after([0.5, 0.6, 0.7, 0.1], exempt=True) == "CONTINUE"


def test_exempt_trials_are_not_compared_with() -> None:
    rungs = Rungs(ASHA)
    say(rungs, trial_of(rungs, "baseline"), 20, 0.9, exempt=True)
    assert say(rungs, trial_of(rungs, "first"), 20, 0.1) == "CONTINUE"


def test_a_trial_that_ends_makes_no_difference() -> None:
    rungs = Rungs(ASHA)
    trial = trial_of(rungs, "t")
    say(rungs, trial, 20, 0.9)
    rungs.on_trial_complete(None, trial, {STEP: 20, SCORE: 0.9})  # type: ignore[arg-type]
    assert say(rungs, trial_of(rungs, "u"), 20, 0.95) == "CONTINUE"


@pytest.mark.parametrize("seed", range(5))
def test_a_scheduler_that_remembers_decides_like_one_that_was_there(seed: int) -> None:
    chance = random.Random(seed)
    there, history, decisions = Rungs(ASHA), [], []
    for number in range(12):
        trial = trial_of(there, f"t{number}")
        best = 0.0
        for step in range(20, 200, 20):
            best = max(best, chance.random())
            history.append({"trial_id": trial.trial_id, "step": step, "best": best})
            decisions.append(say(there, trial, step, best))
            if decisions[-1] == "STOP":
                break
    cut = next(i for i, row in enumerate(history) if row["trial_id"] == "t6")
    later = Rungs(ASHA)
    later.remember(history[:cut])
    trials = {row["trial_id"]: trial_of(later, row["trial_id"]) for row in history[cut:]}
    again = [say(later, trials[row["trial_id"]], row["step"], row["best"]) for row in history[cut:]]
    assert again == decisions[cut:]
    assert "STOP" in decisions
