"""Study: what is asked, in which order, and that a study rebuilt after a crash goes on as if there had been none."""

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

LR = {"lr": {"float": [0.001, 0.5]}}


def search_of(**declared: Any) -> Search:
    return Search.from_dict(
        {
            "name": "s",
            "task": {"name": "t", "train": "t.jsonl", "dev": "d.jsonl"},
            "model": "tiny",
            "method": {"weighting": "end_task_only"},
            "dimensions": LR,
            "budget": {"trials": 6},
        }
        | declared
    )


def outcome(plan: TrialPlan) -> tuple[str, float | None, int]:
    """How a trial ends, a function of its plan: most complete, some are stopped or fail."""
    fate = sum(map(ord, plan.key)) % 7
    score = 1 - plan.settings["lr"] + plan.seed / 1000
    if plan.role == "search" and plan.seed == 0 and fate == 0:
        return "stopped", score / 2, 20
    if fate == 1:
        return "failed", None, 5
    return "complete", score, 100


@dataclass
class Disk:
    """What a ledger would hold."""

    asked: list[TrialPlan] = field(default_factory=list)
    committed: list[dict[str, Any]] = field(default_factory=list)

    def study(self, search: Search, **more: Any) -> Study:
        return Study(search, data="/data", labels=["a", "b"], committed=self.committed, asked=self.asked, **more)

    def ask(self, study: Study) -> Proposal | None:
        proposal = study.ask()
        if proposal is not None and not proposal.resumed:
            self.asked.append(proposal.plan)
        return proposal

    def commit(self, plan: TrialPlan) -> None:
        state, score, steps = outcome(plan)
        row = {"trial_id": plan.trial_id, "state": state, "score": score, "steps": steps, "plan": plan.to_json()}
        self.committed.append(row)


class CrashError(Exception):
    pass


def drive(search: Search, disk: Disk, at_once: int, crash_after: float = math.inf) -> Study:
    """A driver's session: ask, commit, tell, `at_once` trials in flight; dies after so many of these."""
    study, flying, done = disk.study(search), [], 0

    def live() -> None:
        nonlocal done
        done += 1
        if done > crash_after:
            raise CrashError

    while not study.done:
        while len(flying) < at_once and (proposal := disk.ask(study)) is not None:
            live()
            flying.append(proposal.plan)
        plan = flying.pop(0)
        disk.commit(plan)
        live()
        state, score, steps = outcome(plan)
        study.tell(plan.trial_id, state, score, steps)
        live()
    return study


def ids(disk: Disk) -> list[str]:
    return [row["trial_id"] for row in disk.committed]


def optuna_states(study: Study, arm: str = "search") -> Counter[TrialState]:
    return Counter(trial.state for trial in study._arms[arm].study.trials)


RICH = {
    "budget": {"trials": 5},
    "seeds": [0, 1],
    "confirm": {"seeds": [7, 8]},
    "baselines": {"other": {"method": {"weighting": "end_task_only"}, "settings": {"batch_size": 4}, "trials": 3}},
}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_driver_that_dies_at_any_point_changes_nothing(sampler: str) -> None:
    search = search_of(**RICH, sampler=sampler)
    undisturbed = Disk()
    whole = drive(search, undisturbed, 1)
    steps = len(undisturbed.asked) + 2 * len(undisturbed.committed)
    for crash_after in range(steps):
        disk = Disk()
        with pytest.raises(CrashError):
            drive(search, disk, 1, crash_after)
        study = drive(search, disk, 1)
        assert sorted(ids(disk)) == sorted(ids(undisturbed))
        assert [plan.trial_id for plan in disk.asked] == [plan.trial_id for plan in undisturbed.asked]
        assert all(optuna_states(study, arm) == optuna_states(whole, arm) for arm in search.arms)


@given(crashes=st.lists(st.integers(0, 25), max_size=4), at_once=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_a_search_that_crashes_again_and_again_meets_its_budget_exactly(crashes: list[int], at_once: int) -> None:
    search, disk = search_of(**RICH, sampler="random"), Disk()
    for crash_after in crashes:
        try:
            drive(search, disk, at_once, crash_after)
        except CrashError:
            continue
    study = drive(search, disk, at_once)
    first = [(p.arm, p.number) for p in disk.asked if p.role == "search" and p.seed == 0]
    assert sorted(first) == [("other", n) for n in range(3)] + [("search", n) for n in range(5)]
    assert len(set(ids(disk))) == len(ids(disk)) == len(disk.asked)
    told = [state for arm in search.arms for state in optuna_states(study, arm).elements()]
    assert len(told) == 8
    assert TrialState.RUNNING not in told


def test_trials_in_flight_at_a_crash_come_back_first_as_they_were() -> None:
    search, disk = search_of(), Disk()
    study = disk.study(search)
    flying = [disk.ask(study).plan for _ in range(3)]
    disk.commit(flying[1])
    study = Study(search, data="/moved", labels=["a", "b"], committed=disk.committed, asked=disk.asked)
    again = [study.ask() for _ in range(3)]
    assert [p.plan.trial_id for p in again[:2]] == [flying[0].trial_id, flying[2].trial_id]
    assert [p.resumed for p in again] == [True, True, False]
    assert again[0].plan.settings == flying[0].settings
    assert again[0].plan.task["data"] == "/moved"
    assert again[2].plan.number == 3


def test_every_arm_is_through_its_share_at_the_same_time() -> None:
    search, disk = search_of(budget={"trials": 8}, baselines=RICH["baselines"]), Disk()
    drive(search, disk, 1)
    arms = [plan.arm for plan in disk.asked]
    assert arms[:2] == ["search", "other"]
    assert [arms.index("other", 1), arms[::-1].index("other")] == [1, 2]
    assert Counter(arms) == {"search": 8, "other": 3}


def test_further_seeds_follow_a_first_that_ran_to_its_end_and_optuna_hears_the_mean() -> None:
    study = Disk().study(search_of(seeds=[0, 1, 2], budget={"trials": 2}))
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


def test_stopped_is_pruned_with_its_value_and_failed_or_nan_is_failed() -> None:
    study = Disk().study(search_of())
    for state, score in [("stopped", 0.4), ("failed", None), ("complete", math.nan), ("failed", 0.7)]:
        study.tell(study.ask().plan.trial_id, state, score, 40)
    trials = study._arms["search"].study.trials
    assert [t.state for t in trials] == [TrialState.PRUNED, *[TrialState.FAIL] * 3]
    assert trials[0].intermediate_values == {40: 0.4}


def test_a_configuration_that_fails_on_a_further_seed_has_failed() -> None:
    study = Disk().study(search_of(seeds=[0, 1], budget={"trials": 1}, confirm={"seeds": [5]}))
    study.tell(study.ask().plan.trial_id, "complete", 0.9, 10)
    study.tell(study.ask().plan.trial_id, "failed", None, 10)
    assert optuna_states(study) == {TrialState.FAIL: 1}
    assert study.done, "there is nothing to confirm"


def test_a_result_is_taken_once() -> None:
    study = Disk().study(search_of())
    trial_id = study.ask().plan.trial_id
    study.tell(trial_id, "complete", 0.5, 10)
    with pytest.raises(ValueError, match="has been told"):
        study.tell(trial_id, "complete", 0.5, 10)
    with pytest.raises(ValueError, match="was not asked for"):
        study.tell("search-0099-s0-abcdef", "complete", 0.5, 10)


def test_the_best_configuration_of_each_arm_is_confirmed_when_the_arm_has_all_its_results() -> None:
    search, disk = search_of(budget={"trials": 3}, confirm={"seeds": [7, 8]}), Disk()
    study = disk.study(search)
    plans = [study.ask().plan for _ in range(3)]
    assert study.ask() is None
    for plan, score in zip(plans, [0.2, 0.8, 0.5], strict=True):
        study.tell(plan.trial_id, "complete", score, 10)
    confirming = [study.ask().plan for _ in range(2)]
    assert [(p.number, p.seed, p.role) for p in confirming] == [(1, 7, "confirm"), (1, 8, "confirm")]
    assert confirming[0].settings == plans[1].settings
    assert study.ask() is None
    assert not study.done


def test_no_configuration_starts_when_the_time_is_up_and_what_is_begun_is_ended() -> None:
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


def test_every_arm_gets_the_same_compute_as_near_as_its_trials_come() -> None:
    own = {"dear": {"method": {"weighting": "static"}, "space": "bert_style"}, "lone": {"settings": {"lr": 0.1}}}
    own["lone"]["method"] = {"weighting": "end_task_only"}
    search = search_of(budget={"compute": 60}, baselines=own)
    seconds = {"search": 4.0, "dear": 25.0, "lone": 4.0}
    study, flying, asked = Study(search, data="", labels=2), [], []
    while not study.done:
        while len(flying) < 2 and (proposal := study.ask()) is not None:
            flying.append(proposal.plan)
            asked.append(proposal.plan)
        plan = flying.pop(0)
        study.tell(plan.trial_id, "complete", 0.5, 10, seconds[plan.arm])
    assert Counter(plan.arm for plan in asked) == {"search": 15, "dear": 2, "lone": 1}

    committed = [{"trial_id": p.trial_id, "plan": p.to_json(), "state": "complete"} for p in asked[:10]]
    for row, plan in zip(committed, asked, strict=False):
        row |= {"score": 0.5, "steps": 10, "seconds": seconds[plan.arm]}
    again = Study(search, data="", labels=2, committed=committed, asked=asked[:10])
    rest = []
    while (proposal := again.ask()) is not None:
        again.tell(proposal.plan.trial_id, "complete", 0.5, 10, seconds[proposal.plan.arm])
        rest.append(proposal.plan.arm)
    assert Counter([plan.arm for plan in asked[:10]] + rest) == {"search": 15, "dear": 2, "lone": 1}


def test_an_arm_waits_until_its_first_trial_has_told_what_one_costs() -> None:
    study = Study(search_of(budget={"compute": 60}), data="", labels=2)
    first = study.ask()
    assert first is not None
    assert study.ask() is None
    assert not study.done
    study.tell(first.plan.trial_id, "complete", 0.5, 10, 59.0)
    assert study.ask() is None  # another would take it further from its share than it is
    assert study.done


def test_random_draws_of_a_dimension_are_the_same_for_all_arms_that_have_it() -> None:
    own = {"fine_tune": {"method": {"weighting": "end_task_only"}, "trials": 6}}
    of = {"method": {"weighting": "static"}, "space": "bert_style"}
    search = search_of(sampler="random", dimensions={"lambda_e": {"float": [0, 1]}} | LR, baselines=own, **of)
    study, rates = Study(search, data="", labels=2), {}
    while (proposal := study.ask()) is not None:
        rates.setdefault(proposal.plan.arm, []).append(proposal.plan.params["lr"])
        study.tell(proposal.plan.trial_id, "complete", 0.5, 10)
    assert rates["search"] == rates["fine_tune"]
    assert len(set(rates["search"])) == 6


def test_an_extension_asks_for_the_missing_configurations_and_seeds() -> None:
    disk = Disk()
    drive(search_of(budget={"trials": 3}), disk, 1)
    before = len(disk.asked)
    study = drive(search_of(budget={"trials": 4}, seeds=[0, 1]), disk, 1)
    added = disk.asked[before:]
    complete = {p.number for p in disk.asked if p.seed == 0 and outcome(p)[0] == "complete"}
    assert {(p.number, p.seed) for p in added} == {(3, 0)} | {(number, 1) for number in complete}
    assert TrialState.RUNNING not in optuna_states(study)


def test_a_grid_is_asked_for_whole_and_in_an_order_that_a_crash_does_not_change() -> None:
    dimensions = {"batch_size": {"choice": [4, 8, 16]}, "patience": {"int": [0, 1]}}
    search = search_of(sampler="grid", dimensions=dimensions, budget={"trials": 6})
    whole, disk = Disk(), Disk()
    drive(search, whole, 1)
    with pytest.raises(CrashError):
        drive(search, disk, 2, 7)
    drive(search, disk, 2)
    assert [p.params for p in disk.asked] == [p.params for p in whole.asked]
    assert len({tuple(p.params.items()) for p in whole.asked}) == 6


def test_what_has_been_tried_is_not_tried_again_while_there_is_something_new() -> None:
    search = search_of(dimensions={"batch_size": {"choice": [4, 8, 16]}}, budget={"trials": 3}, sampler="random")
    disk = Disk()
    drive(search, disk, 1)
    assert len({plan.key for plan in disk.asked}) == 3


def test_a_space_with_conditions_is_drawn_and_rebuilt() -> None:
    dimensions = {
        "surgery": {"choice": ["none", "attittud"]},
        "eta_neg": {"float": [-1, 1], "when": {"surgery": ["attittud"]}},
        "lr": {"float": [1e-4, 1e-2], "log": True},
    }
    method = {"weighting": "static"}
    search = search_of(method=method, space="xyz", dimensions=dimensions, budget={"trials": 24}, confirm={"seeds": [3]})
    disk = Disk()
    with pytest.raises(CrashError):
        drive(search, disk, 2, 50)
    drive(search, disk, 2)
    drawn = [plan.params for plan in disk.asked]
    assert {len(params) for params in drawn} == {2, 3}
    assert all(("eta_neg" in params) == (params["surgery"] == "attittud") for params in drawn)


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_samplers_of_the_extra_go_on_after_a_crash(sampler: str) -> None:
    pytest.importorskip("cmaes")
    search = search_of(sampler=sampler, dimensions=LR | {"head_lr": {"float": [0.001, 0.5]}}, budget={"trials": 14})
    disk = Disk()
    with pytest.raises(CrashError):
        drive(search, disk, 1, 32)
    study = drive(search, disk, 1)
    assert sum(optuna_states(study).values()) == 14


def test_an_arm_that_draws_nothing_possible_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "resolve", Mock(side_effect=ValueError("k must be at most m")))
    study = Disk().study(search_of())
    with pytest.raises(RunError, match=r"100 impossible draws in a row; the last: k must be at most m"):
        study.ask()


def test_rows_of_an_arm_that_is_gone_are_refused() -> None:
    disk = Disk()
    drive(search_of(**RICH), disk, 1)
    with pytest.raises(RunError, match="belongs to an arm that the search does not have"):
        disk.study(search_of())


def test_expected_counts_all_that_is_to_come() -> None:
    study = Disk().study(search_of(**RICH))
    assert study.expected == (5 + 3) * 2 + 2 * 2
    study.tell(study.ask().plan.trial_id, "failed", None, 1)
    assert study.expected == (5 + 3) * 2 + 2 * 2 - 1
    assert study.counts == {"failed": 1}
