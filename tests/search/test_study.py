"""Which trials a study hands out, in which order, and that a study rebuilt after a crash does the same."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.search.study import Proposal, Study

LR_DIMENSION = {"lr": {"float": [0.001, 0.5]}}


def search_of(**declared: Any) -> Search:
    return Search.from_dict(
        {
            "name": "s",
            "task": {"name": "t", "train": "t.jsonl", "dev": "d.jsonl"},
            "model": "tiny",
            "method": {"weighting": "end_task_only"},
            "dimensions": LR_DIMENSION,
            "budget": {"trials": 6},
        }
        | declared
    )


def outcome(plan: TrialPlan) -> tuple[str, float | None, int]:
    """Returns how a trial ends, a function of its plan: most are complete, some are stopped or fail."""
    fate = sum(map(ord, plan.key)) % 7
    score = 1 - plan.settings["lr"] + plan.seed / 1000
    if plan.role == "search" and plan.seed == 0 and fate == 0:
        return "stopped", score / 2, 20
    if fate == 1:
        return "failed", None, 5
    return "complete", score, 100


@dataclass
class MemoryLedger:
    """The plans and rows that a ledger would hold."""

    planned: list[TrialPlan] = field(default_factory=list)
    committed: list[dict[str, Any]] = field(default_factory=list)

    def study(self, search: Search, **more: Any) -> Study:
        return Study(search, data="/data", labels=["a", "b"], committed=self.committed, planned=self.planned, **more)

    def ask(self, study: Study) -> Proposal | None:
        proposal = study.ask()
        if proposal is not None and not proposal.resumed:
            self.planned.append(proposal.plan)
        return proposal

    def commit(self, plan: TrialPlan) -> None:
        state, score, steps = outcome(plan)
        row = {"trial_id": plan.trial_id, "state": state, "score": score, "steps": steps, "plan": plan.to_json()}
        self.committed.append(row)


class CrashError(Exception):
    pass


def run_session(search: Search, ledger: MemoryLedger, at_once: int, crash_after: float = math.inf) -> Study:
    """Runs a session with `at_once` trials in flight; it crashes after so many calls of ask, commit and tell."""
    study, in_flight, done = ledger.study(search), [], 0

    def live() -> None:
        nonlocal done
        done += 1
        if done > crash_after:
            raise CrashError

    while not study.done:
        while len(in_flight) < at_once and (proposal := ledger.ask(study)) is not None:
            live()
            in_flight.append(proposal.plan)
        plan = in_flight.pop(0)
        ledger.commit(plan)
        live()
        state, score, steps = outcome(plan)
        study.tell(plan.trial_id, state, score, steps)
        live()
    return study


def trial_ids(ledger: MemoryLedger) -> list[str]:
    return [row["trial_id"] for row in ledger.committed]


def optuna_states(study: Study, arm: str = "search") -> Counter[TrialState]:
    return Counter(trial.state for trial in study._arms[arm].study.trials)


SEEDS_AND_BASELINES = {
    "budget": {"trials": 5},
    "seeds": [0, 1],
    "confirm": {"seeds": [7, 8]},
    "baselines": {"other": {"method": {"weighting": "end_task_only"}, "settings": {"batch_size": 4}, "trials": 3}},
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_study_crash_at_any_point_changes_nothing(sampler: str) -> None:
    search = search_of(**SEEDS_AND_BASELINES, sampler=sampler)
    undisturbed = MemoryLedger()
    whole = run_session(search, undisturbed, 1)
    steps = len(undisturbed.planned) + 2 * len(undisturbed.committed)
    for crash_after in range(steps):
        ledger = MemoryLedger()
        with pytest.raises(CrashError):
            run_session(search, ledger, 1, crash_after)
        study = run_session(search, ledger, 1)
        assert sorted(trial_ids(ledger)) == sorted(trial_ids(undisturbed))
        assert [plan.trial_id for plan in ledger.planned] == [plan.trial_id for plan in undisturbed.planned]
        assert all(optuna_states(study, arm) == optuna_states(whole, arm) for arm in search.arms)


@given(crashes=st.lists(st.integers(0, 25), max_size=4), at_once=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_study_with_repeated_crashes_meets_its_budget(crashes: list[int], at_once: int) -> None:
    search, ledger = search_of(**SEEDS_AND_BASELINES, sampler="random"), MemoryLedger()
    for crash_after in crashes:
        try:
            run_session(search, ledger, at_once, crash_after)
        except CrashError:
            continue
    study = run_session(search, ledger, at_once)
    first = [(p.arm, p.number) for p in ledger.planned if p.role == "search" and p.seed == 0]
    assert sorted(first) == [("other", n) for n in range(3)] + [("search", n) for n in range(5)]
    assert len(set(trial_ids(ledger))) == len(trial_ids(ledger)) == len(ledger.planned)
    states = [state for arm in search.arms for state in optuna_states(study, arm).elements()]
    assert len(states) == 8
    assert TrialState.RUNNING not in states


def test_study_after_a_crash_resumes_trials_in_flight_first() -> None:
    search, ledger = search_of(), MemoryLedger()
    study = ledger.study(search)
    in_flight = [ledger.ask(study).plan for _ in range(3)]
    ledger.commit(in_flight[1])
    study = Study(search, data="/moved", labels=["a", "b"], committed=ledger.committed, planned=ledger.planned)
    again = [study.ask() for _ in range(3)]
    assert [p.plan.trial_id for p in again[:2]] == [in_flight[0].trial_id, in_flight[2].trial_id]
    assert [p.resumed for p in again] == [True, True, False]
    assert again[0].plan.settings == in_flight[0].settings
    assert again[0].plan.task["data"] == "/moved"
    assert again[2].plan.number == 3


def test_study_arms_progress_at_the_same_rate() -> None:
    search, ledger = search_of(budget={"trials": 8}, baselines=SEEDS_AND_BASELINES["baselines"]), MemoryLedger()
    run_session(search, ledger, 1)
    arms = [plan.arm for plan in ledger.planned]
    assert arms[:2] == ["search", "other"]
    assert [arms.index("other", 1), arms[::-1].index("other")] == [1, 2]
    assert Counter(arms) == {"search": 8, "other": 3}


def test_study_runs_further_seeds_and_tells_optuna_the_mean() -> None:
    study = MemoryLedger().study(search_of(seeds=[0, 1, 2], budget={"trials": 2}))
    first = study.ask().plan
    study.tell(first.trial_id, "complete", 0.3, 10)
    second, third = study.ask().plan, study.ask().plan
    assert [(p.number, p.seed, p.role) for p in (second, third)] == [(0, 1, "search"), (0, 2, "search")]
    study.tell(third.trial_id, "complete", 0.9, 10)
    assert optuna_states(study) == {TrialState.RUNNING: 1}
    study.tell(second.trial_id, "complete", 0.6, 10)
    assert study._arms["search"].study.best_value == pytest.approx(0.6)
    stopped = study.ask().plan
    assert (stopped.number, stopped.seed) == (1, 0)
    study.tell(stopped.trial_id, "stopped", 0.2, 4)
    assert study.ask() is None
    assert study.done


def test_study_tells_stopped_as_pruned_and_nan_as_failed() -> None:
    study = MemoryLedger().study(search_of())
    for state, score in [("stopped", 0.4), ("failed", None), ("complete", math.nan), ("failed", 0.7)]:
        study.tell(study.ask().plan.trial_id, state, score, 40)
    trials = study._arms["search"].study.trials
    assert [t.state for t in trials] == [TrialState.PRUNED, *[TrialState.FAIL] * 3]
    assert trials[0].intermediate_values == {40: 0.4}


def test_study_failure_on_a_further_seed_fails_configuration() -> None:
    study = MemoryLedger().study(search_of(seeds=[0, 1], budget={"trials": 1}, confirm={"seeds": [5]}))
    study.tell(study.ask().plan.trial_id, "complete", 0.9, 10)
    study.tell(study.ask().plan.trial_id, "failed", None, 10)
    assert optuna_states(study) == {TrialState.FAIL: 1}
    assert study.done, "there is nothing to confirm"


def test_study_tell_twice_raises() -> None:
    study = MemoryLedger().study(search_of())
    trial_id = study.ask().plan.trial_id
    study.tell(trial_id, "complete", 0.5, 10)
    with pytest.raises(ValueError, match="has a result already"):
        study.tell(trial_id, "complete", 0.5, 10)
    with pytest.raises(ValueError, match="was not asked for"):
        study.tell("search-0099-s0-abcdef", "complete", 0.5, 10)


def test_study_confirms_the_best_configuration_of_each_arm() -> None:
    search, ledger = search_of(budget={"trials": 3}, confirm={"seeds": [7, 8]}), MemoryLedger()
    study = ledger.study(search)
    plans = [study.ask().plan for _ in range(3)]
    assert study.ask() is None
    for plan, score in zip(plans, [0.2, 0.8, 0.5], strict=True):
        study.tell(plan.trial_id, "complete", score, 10)
    confirming = [study.ask().plan for _ in range(2)]
    assert [(p.number, p.seed, p.role) for p in confirming] == [(1, 7, "confirm"), (1, 8, "confirm")]
    assert confirming[0].settings == plans[1].settings
    assert study.ask() is None
    assert not study.done


def confirming_plans(ledger: MemoryLedger, search: Search, best_steps: list[int]) -> list[TrialPlan]:
    """The plans of the fresh seeds of one configuration whose seeds were best at these steps."""
    study = ledger.study(search)
    for best_step in best_steps:
        plan = ledger.ask(study).plan
        row = {"trial_id": plan.trial_id, "state": "complete", "score": 0.5, "steps": 100, "best_step": best_step}
        ledger.committed.append(row | {"plan": plan.to_json()})
        study.tell(plan.trial_id, "complete", 0.5, 100, 1.0, best_step)
    return [study.ask().plan for _ in search.confirm.seeds]


def test_fresh_seeds_are_scored_at_the_step_that_was_found() -> None:
    search, ledger = search_of(budget={"trials": 1}, seeds=[0, 1, 2], confirm={"seeds": [7, 8]}), MemoryLedger()
    plans = confirming_plans(ledger, search, [80, 20, 40])
    assert [plan.score_step for plan in plans] == [40, 40]
    assert [plan.score_step for plan in ledger.planned] == [0, 0, 0]
    rebuilt = ledger.study(search)
    assert rebuilt.ask().plan == plans[0]
    assert TrialPlan.from_json(plans[0].to_json()) == plans[0]


def test_fresh_seeds_of_a_run_that_began_before_keep_their_best() -> None:
    search, ledger = search_of(budget={"trials": 1}, confirm={"seeds": [7, 8]}), MemoryLedger()
    confirming_plans(ledger, search, [40])
    (row,) = ledger.committed
    row["plan"] = json.dumps({name: value for name, value in json.loads(row["plan"]).items() if name != "score_step"})
    rebuilt = ledger.study(search)
    assert [rebuilt.ask().plan.score_step for _ in range(2)] == [0, 0]
    by_best = search_of(budget={"trials": 1}, confirm={"seeds": [7, 8], "score_at": "best"})
    assert [plan.score_step for plan in confirming_plans(MemoryLedger(), by_best, [40])] == [0, 0]
    assert search.fingerprint != by_best.fingerprint


def test_study_time_budget_stops_only_new_configurations() -> None:
    now = 0.0
    search = search_of(budget={"seconds": 100}, seeds=[0, 1])
    study = Study(search, data="", labels=0, spent=60, clock=lambda: now)
    first = study.ask().plan
    assert study.expected is None
    now = 41.0
    assert study.ask() is None
    assert not study.done
    study.tell(first.trial_id, "complete", 0.5, 10)
    further = study.ask().plan
    assert further.seed == 1
    study.tell(further.trial_id, "complete", 0.5, 10)
    assert study.done
    assert study.expected == 2


def test_study_compute_budget_is_equal_for_all_arms() -> None:
    baseline_arms = {
        "dear": {"method": {"weighting": "static"}, "space": "bert_style"},
        "lone": {"settings": {"lr": 0.1}},
    }
    baseline_arms["lone"]["method"] = {"weighting": "end_task_only"}
    search = search_of(budget={"compute": 60}, baselines=baseline_arms)
    seconds = {"search": 4.0, "dear": 25.0, "lone": 4.0}
    study, in_flight, plans = Study(search, data="", labels=2), [], []
    while not study.done:
        while len(in_flight) < 2 and (proposal := study.ask()) is not None:
            in_flight.append(proposal.plan)
            plans.append(proposal.plan)
        plan = in_flight.pop(0)
        study.tell(plan.trial_id, "complete", 0.5, 10, seconds[plan.arm])
    assert Counter(plan.arm for plan in plans) == {"search": 15, "dear": 2, "lone": 1}

    committed = [{"trial_id": p.trial_id, "plan": p.to_json(), "state": "complete"} for p in plans[:10]]
    for row, plan in zip(committed, plans, strict=False):
        row |= {"score": 0.5, "steps": 10, "seconds": seconds[plan.arm]}
    again = Study(search, data="", labels=2, committed=committed, planned=plans[:10])
    rest = []
    while (proposal := again.ask()) is not None:
        again.tell(proposal.plan.trial_id, "complete", 0.5, 10, seconds[proposal.plan.arm])
        rest.append(proposal.plan.arm)
    assert Counter([plan.arm for plan in plans[:10]] + rest) == {"search": 15, "dear": 2, "lone": 1}


def test_study_compute_budget_says_about_how_many_trials_come() -> None:
    study = Study(search_of(budget={"compute": 60}, confirm={"seeds": [7, 8]}), data="", labels=2)
    assert study.to_come is None
    for _ in range(2):
        proposal = study.ask()
        assert proposal is not None
        study.tell(proposal.plan.trial_id, "complete", 0.5, 10, 4.0)
    assert study.to_come == {"search": (60 - 8) // 4 + 2}
    assert study.expected is None


def test_study_compute_budget_waits_for_the_first_cost() -> None:
    study = Study(search_of(budget={"compute": 60}), data="", labels=2)
    first = study.ask()
    assert first is not None
    assert study.ask() is None
    assert not study.done
    study.tell(first.plan.trial_id, "complete", 0.5, 10, 59.0)
    assert study.ask() is None  # another would take it further from its share than it is
    assert study.done


def test_random_sampler_draws_the_same_values_for_all_arms() -> None:
    baseline_arms = {"fine_tune": {"method": {"weighting": "end_task_only"}, "trials": 6}}
    of = {"method": {"weighting": "static"}, "space": "bert_style"}
    search = search_of(
        sampler="random", dimensions={"lambda_e": {"float": [0, 1]}} | LR_DIMENSION, baselines=baseline_arms, **of
    )
    study, rates = Study(search, data="", labels=2), {}
    while (proposal := study.ask()) is not None:
        rates.setdefault(proposal.plan.arm, []).append(proposal.plan.params["lr"])
        study.tell(proposal.plan.trial_id, "complete", 0.5, 10)
    assert rates["search"] == rates["fine_tune"]
    assert len(set(rates["search"])) == 6


def test_study_extension_asks_only_for_what_is_missing() -> None:
    ledger = MemoryLedger()
    run_session(search_of(budget={"trials": 3}), ledger, 1)
    before = len(ledger.planned)
    study = run_session(search_of(budget={"trials": 4}, seeds=[0, 1]), ledger, 1)
    added = ledger.planned[before:]
    complete = {p.number for p in ledger.planned if p.seed == 0 and outcome(p)[0] == "complete"}
    assert {(p.number, p.seed) for p in added} == {(3, 0)} | {(number, 1) for number in complete}
    assert TrialState.RUNNING not in optuna_states(study)


def test_study_grid_is_complete_and_keeps_order_after_a_crash() -> None:
    dimensions = {"batch_size": {"choice": [4, 8, 16]}, "patience": {"int": [0, 1]}}
    search = search_of(sampler="grid", dimensions=dimensions, budget={"trials": 6})
    whole, ledger = MemoryLedger(), MemoryLedger()
    run_session(search, whole, 1)
    with pytest.raises(CrashError):
        run_session(search, ledger, 2, 7)
    run_session(search, ledger, 2)
    assert [p.params for p in ledger.planned] == [p.params for p in whole.planned]
    assert len({tuple(p.params.items()) for p in whole.planned}) == 6


def test_study_does_not_repeat_a_configuration() -> None:
    search = search_of(dimensions={"batch_size": {"choice": [4, 8, 16]}}, budget={"trials": 3}, sampler="random")
    ledger = MemoryLedger()
    run_session(search, ledger, 1)
    assert len({plan.key for plan in ledger.planned}) == 3


def test_study_conditional_dimensions_survive_a_crash() -> None:
    dimensions = {
        "surgery": {"choice": ["none", "attittud"]},
        "eta_neg": {"float": [-1, 1], "when": {"surgery": ["attittud"]}},
        "lr": {"float": [1e-4, 1e-2], "log": True},
    }
    method = {"weighting": "static"}
    search = search_of(method=method, space="xyz", dimensions=dimensions, budget={"trials": 24}, confirm={"seeds": [3]})
    ledger = MemoryLedger()
    with pytest.raises(CrashError):
        run_session(search, ledger, 2, 50)
    run_session(search, ledger, 2)
    drawn = [plan.params for plan in ledger.planned]
    assert {len(params) for params in drawn} == {2, 3}
    assert all(("eta_neg" in params) == (params["surgery"] == "attittud") for params in drawn)


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_optional_samplers_continue_after_a_crash(sampler: str) -> None:
    pytest.importorskip("cmaes")
    search = search_of(
        sampler=sampler, dimensions=LR_DIMENSION | {"head_lr": {"float": [0.001, 0.5]}}, budget={"trials": 14}
    )
    ledger = MemoryLedger()
    with pytest.raises(CrashError):
        run_session(search, ledger, 1, 32)
    study = run_session(search, ledger, 1)
    assert sum(optuna_states(study).values()) == 14


def test_study_impossible_draws_raise_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "resolve", Mock(side_effect=ValueError("k must be at most m")))
    study = MemoryLedger().study(search_of())
    with pytest.raises(RunError, match=r"100 impossible draws in a row; the last: k must be at most m"):
        study.ask()


def test_study_rows_of_an_unknown_arm_are_rejected() -> None:
    ledger = MemoryLedger()
    run_session(search_of(**SEEDS_AND_BASELINES), ledger, 1)
    with pytest.raises(RunError, match="belongs to an arm that the search does not have"):
        ledger.study(search_of())


def test_study_expected_counts_all_remaining_trials() -> None:
    study = MemoryLedger().study(search_of(**SEEDS_AND_BASELINES))
    assert study.expected == (5 + 3) * 2 + 2 * 2
    study.tell(study.ask().plan.trial_id, "failed", None, 1)
    assert study.expected == (5 + 3) * 2 + 2 * 2 - 1
    assert study.counts == {"failed": 1}
