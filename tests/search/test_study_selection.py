"""A study with selection: the order of folds, what the sampler is told, what is trained at the end, and crashes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from optuna.trial import TrialState
from search.test_study import LR_DIMENSION, CrashError, MemoryLedger, optuna_states, run_session, search_of

from raysearch.search.study import Study

FOLDS = {"selection": {"folds": 3}, "budget": {"trials": 4}}
BASELINES = {"other": {"method": {"weighting": "end_task_only"}, "settings": {"batch_size": 4}, "trials": 2}}


def answer(study: Study, score: float | None, state: str = "complete") -> tuple[int, int, int, str]:
    """Answers the study's next trial with a score; returns number, seed, fold and role of the trial."""
    proposal = study.ask()
    assert proposal is not None
    plan = proposal.plan
    study.tell(plan.trial_id, state, score, 10)
    return plan.number, plan.seed, plan.fold, plan.role


def test_study_races_then_confirms_and_trains_on_all_rows() -> None:
    study = MemoryLedger().study(search_of(**FOLDS | {"budget": {"trials": 3}}, confirm={"seeds": [7]}))
    assert [answer(study, score) for score in (0.5, 0.7, 0.6)] == [(0, 0, fold, "search") for fold in range(3)]
    assert [answer(study, score) for score in (0.6, 0.5)] == [(1, 0, 0, "search"), (1, 0, 1, "search")]
    assert [answer(study, score) for score in (0.8, 0.8, 0.9)] == [(2, 0, fold, "search") for fold in range(3)]
    assert [answer(study, 0.7) for _ in range(3)] == [(2, 7, fold, "confirm") for fold in range(3)]
    assert not study.done
    assert answer(study, None) == (2, 0, -1, "refit")
    assert study.done
    assert study.ask() is None
    trials = study._arms["search"].study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert trials[0].value == pytest.approx(0.6)
    assert trials[1].intermediate_values == {1: 0.6, 2: pytest.approx(0.55)}


def test_study_gives_folds_of_every_seed_before_another_repeat() -> None:
    study = MemoryLedger().study(search_of(selection={"folds": 2, "repeats": 2}, seeds=[0, 5], budget={"trials": 1}))
    cells = [answer(study, 0.5)[1:3] for _ in range(8)]
    assert cells == [(0, 0), (0, 1), (5, 0), (5, 1), (0, 2), (0, 3), (5, 2), (5, 3)]


def test_study_fold_that_fails_ends_its_configuration() -> None:
    study = MemoryLedger().study(search_of(**FOLDS))
    assert answer(study, 0.5) == (0, 0, 0, "search")
    assert answer(study, None, "failed") == (0, 0, 1, "search")
    assert optuna_states(study) == {TrialState.FAIL: 1}
    assert answer(study, 0.1) == (1, 0, 0, "search")
    assert answer(study, 0.1) == (1, 0, 1, "search"), "a configuration that failed leads no race"


def test_study_stopped_on_its_first_fold_is_pruned_at_zero() -> None:
    study = MemoryLedger().study(search_of(**FOLDS))
    answer(study, 0.5, "stopped")
    trial = study._arms["search"].study.trials[0]
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {0: 0.5})


def test_study_keeps_no_model_and_so_trains_none_on_all_rows() -> None:
    study = MemoryLedger().study(search_of(selection={"folds": 2}, budget={"trials": 1}, keep=0))
    assert [answer(study, 0.5)[2] for _ in range(2)] == [0, 1]
    assert study.done


def test_study_expects_as_many_folds_as_the_race_has_given() -> None:
    study = MemoryLedger().study(search_of(**FOLDS))
    assert study.expected == 4 * 3 + 1
    for score in (0.5, 0.5, 0.5, 0.4):
        answer(study, score)
    assert study.expected == 4 + 2 * 2 + 1, "configurations have had two folds on average"


def test_study_compute_is_met_by_configurations_not_folds() -> None:
    study = MemoryLedger().study(search_of(selection={"folds": 3}, budget={"compute": 9.5}, keep=0))
    numbers = Counter[int]()
    while (proposal := study.ask()) is not None:
        numbers[proposal.plan.number] += 1
        study.tell(proposal.plan.trial_id, "complete", float(proposal.plan.number), 10, seconds=1.0)
    assert numbers == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_study_with_folds_crash_changes_nothing(sampler: str, at_once: int) -> None:
    declared: dict[str, Any] = {"sampler": sampler, "dimensions": LR_DIMENSION, "baselines": BASELINES}
    search = search_of(**FOLDS, **declared, seeds=[0, 1], confirm={"seeds": [7]})
    undisturbed = MemoryLedger()
    whole = run_session(search, undisturbed, at_once)
    assert len(undisturbed.committed) < 6 * 6 + 2 * 4, "the race drops nobody"
    for crash_after in range(1, 2 * len(undisturbed.committed), 9):
        ledger = MemoryLedger()
        with pytest.raises(CrashError):
            run_session(search, ledger, at_once, crash_after)
        study = run_session(search, ledger, at_once)
        assert study.done
        if at_once == 1:
            assert [plan.trial_id for plan in ledger.planned] == [plan.trial_id for plan in undisturbed.planned]
            assert all(optuna_states(study, arm) == optuna_states(whole, arm) for arm in search.arms)
        assert {arm: len(part.configurations) for arm, part in study._arms.items()} == {"search": 4, "other": 2}
