"""Which trials the scheduler stops, and that it does the same after a restart."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from raysearch.config.sections import DECLARED_SCHEDULERS, Scheduler
from raysearch.search.tune_adapter import EXEMPT, REPLAYED, SCHEDULERS, SCORE, STEP, AshaWithExemptions

ASHA = Scheduler(name="asha", grace=20, reduction=3)


def report_score(
    asha: AshaWithExemptions, trial: Any, step: int, score: float, *, replayed: bool = False, exempt: bool = False
) -> str:
    result = {STEP: step, SCORE: score, REPLAYED: replayed, EXEMPT: exempt}
    return asha.on_trial_result(None, trial, result)  # type: ignore[arg-type]


def add_trial(asha: AshaWithExemptions, name: str) -> Any:
    trial = SimpleNamespace(trial_id=name)
    asha.on_trial_add(None, trial)  # type: ignore[arg-type]
    return trial


def decision_after(scores: list[float], **more: Any) -> str:
    """Returns the decision on the last of several trials that report these scores at the first rung."""
    asha = AshaWithExemptions(ASHA)
    decisions = [report_score(asha, add_trial(asha, f"t{n}"), 20, score) for n, score in enumerate(scores[:-1])]
    assert decisions[0] == "CONTINUE"
    return report_score(asha, add_trial(asha, "last"), 20, scores[-1], **more)


def test_every_declared_scheduler_that_stops_trials_has_a_class() -> None:
    assert SCHEDULERS.keys() == {name for name in DECLARED_SCHEDULERS if Scheduler(name=name).stops_trials}


def test_asha_stops_trials_below_the_best_third_of_a_rung() -> None:
    assert decision_after([0.5, 0.6, 0.7, 0.8]) == "CONTINUE"
    assert decision_after([0.5, 0.6, 0.7, 0.1]) == "STOP"


def test_asha_before_the_first_rung_stops_nothing() -> None:
    asha = AshaWithExemptions(ASHA)
    report_score(asha, add_trial(asha, "good"), 20, 0.9)
    assert report_score(asha, add_trial(asha, "bad"), 19, 0.1) == "CONTINUE"


def test_asha_ignores_replayed_and_exempt_reports() -> None:
    assert decision_after([0.5, 0.6, 0.7, 0.1], replayed=True) == "CONTINUE"
    assert decision_after([0.5, 0.6, 0.7, 0.1], exempt=True) == "CONTINUE"


def test_asha_exempt_trials_are_not_compared() -> None:
    asha = AshaWithExemptions(ASHA)
    report_score(asha, add_trial(asha, "baseline"), 20, 0.9, exempt=True)
    assert report_score(asha, add_trial(asha, "first"), 20, 0.1) == "CONTINUE"


def test_asha_completed_trial_changes_nothing() -> None:
    asha = AshaWithExemptions(ASHA)
    trial = add_trial(asha, "t")
    report_score(asha, trial, 20, 0.9)
    asha.on_trial_complete(None, trial, {STEP: 20, SCORE: 0.9})  # type: ignore[arg-type]
    assert report_score(asha, add_trial(asha, "u"), 20, 0.95) == "CONTINUE"


@pytest.mark.parametrize("seed", range(5))
def test_asha_after_a_restart_decides_as_before(seed: int) -> None:
    chance = random.Random(seed)
    uninterrupted, history, decisions = AshaWithExemptions(ASHA), [], []
    for number in range(12):
        trial = add_trial(uninterrupted, f"t{number}")
        best = 0.0
        for step in range(20, 200, 20):
            best = max(best, chance.random())
            history.append({"trial_id": trial.trial_id, "step": step, "best": best})
            decisions.append(report_score(uninterrupted, trial, step, best))
            if decisions[-1] == "STOP":
                break
    cut = next(i for i, row in enumerate(history) if row["trial_id"] == "t6")
    restarted = AshaWithExemptions(ASHA)
    restarted.restore_rungs(history[:cut])
    trials = {row["trial_id"]: add_trial(restarted, row["trial_id"]) for row in history[cut:]}
    again = [report_score(restarted, trials[row["trial_id"]], row["step"], row["best"]) for row in history[cut:]]
    assert again == decisions[cut:]
    assert "STOP" in decisions
