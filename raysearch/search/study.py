"""The study of a whole search: decides what to try next, and takes the results. Knows no Ray and writes nothing.

The ledger is the record. The studies of the arms, see `arm_study`, live in memory and are rebuilt from it: every
configuration that was handed out is restored, what was committed is reported to Optuna, and what was in flight is
handed out again with the same plan.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.search.arm_study import ArmStudy, Result
from raysearch.search.budget_use import awaits_first_cost, is_full, remaining_trials, used_share
from raysearch.storage.states import MAIN_ARM, TrialRole, TrialState


@dataclass(frozen=True)
class Proposal:
    """A trial to run now."""

    plan: TrialPlan
    resumed: bool = False  # handed out before, by a driver that was lost; resumes from its own checkpoint


class Study:
    """All arms of a search. Hands out trials until the budget is met, and takes their results.

    Trials are handed out in this order: those in flight when an earlier driver was lost; further seeds of
    configurations that are complete on the first; new configurations, of the arm that has used least of its share; and,
    for each arm that has all its results, its best configuration on the seeds that confirm it.
    """

    def __init__(
        self,
        search: Search,
        *,
        data: str,
        labels: int | list[str],
        committed: Iterable[Mapping[str, Any]] = (),
        planned: Iterable[TrialPlan] = (),
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Rebuilds the study from `committed` rows of the table of trials and all plans ever handed out.

        `data` is the folder of prepared splits, `labels` what plans say of them, `spent` the seconds of earlier
        sessions. Raises RunError when a trial is not of this search.
        """
        self.search, self._data, self._labels = search, data, labels
        self._clock, self._started = clock, clock() - spent
        self._arms = {name: ArmStudy(arm, search) for name, arm in search.arms.items()}
        self._in_flight: dict[str, TrialPlan] = {}
        self._results: dict[str, Result] = {}
        self._to_resume: deque[TrialPlan] = deque()
        self._rebuild(list(committed), list(planned))

    def _rebuild(self, committed: list[Mapping[str, Any]], planned: list[TrialPlan]) -> None:
        plans = {plan.trial_id: plan for plan in planned}
        seconds = {row["trial_id"]: float(row.get("seconds") or 0.0) for row in committed}
        for row in committed:
            plans.setdefault(row["trial_id"], TrialPlan.from_json(row["plan"]))
            self._results[row["trial_id"]] = Result(row["state"], row["score"], row["steps"] or 0)
        configurations: dict[tuple[str, int], tuple[TrialPlan, dict[int, Result | None]]] = {}
        for trial_id, plan in plans.items():
            if plan.arm not in self._arms:
                raise RunError(f"{trial_id} belongs to an arm that the search does not have")
            arm, result = self._arms[plan.arm], self._results.get(trial_id)
            arm.keys.add(plan.key)
            if result is None:
                self._to_resume.append(replace(plan, task={**plan.task, "data": self._data}))
            if plan.role == TrialRole.CONFIRM:
                arm.confirmed[plan.number, plan.seed] = result
            else:
                arm.trial_seconds += [seconds[trial_id]] if result is not None else []
                configurations.setdefault((plan.arm, plan.number), (plan, {}))[1][plan.seed] = result
        for (name, number), (plan, results) in sorted(configurations.items(), key=lambda item: item[0]):
            self._arms[name].restore(number, plan.params, results)

    # ---- asking ----

    def ask(self) -> Proposal | None:
        """Returns the next trial; None when there is none now, which is for good if `done`."""
        resumed = bool(self._to_resume)
        plan = self._to_resume.popleft() if resumed else self._next_seed() or self._new() or self._next_confirmation()
        if plan is None:
            return None
        self._in_flight[plan.trial_id] = plan
        return Proposal(plan, resumed)

    def competes(self, arm: str, role: str, seed: int) -> bool:
        """Says whether the scheduler may stop a trial: only new configurations of the search proper compete."""
        return (arm, role, seed) == (MAIN_ARM, TrialRole.SEARCH, self.search.seeds[0])

    def _next_seed(self) -> TrialPlan | None:
        for arm in self._arms.values():
            pair = arm.next_seed()
            if pair:
                number, seed = pair
                configuration = arm.configurations[number]
                configuration.results[seed] = None
                return self._plan(arm, configuration.params, number, seed, TrialRole.SEARCH)
        return None

    def _new(self) -> TrialPlan | None:
        arms = self._arms.values()
        open_arms = [arm for arm in arms if not self._is_full(arm) and not awaits_first_cost(arm, self.search)]
        if not open_arms:
            return None
        arm = min(open_arms, key=lambda arm: used_share(arm, self.search, arms))
        return arm.draw(lambda params, number: self._plan(arm, params, number, self.search.seeds[0], TrialRole.SEARCH))

    def _next_confirmation(self) -> TrialPlan | None:
        for arm in self._arms.values():
            for number, seed in self._unconfirmed(arm):
                arm.confirmed[number, seed] = None
                return self._plan(arm, arm.configurations[number].params, number, seed, TrialRole.CONFIRM)
        return None

    def _unconfirmed(self, arm: ArmStudy) -> list[tuple[int, int]]:
        """Returns number and seeds on which the arm's best configuration is still to be repeated."""
        seeds = self.search.confirm.seeds if self.search.confirm else ()
        if not seeds or not self._is_full(arm) or not arm.is_settled or (number := arm.best()) is None:
            return []
        return [(number, seed) for seed in seeds if (number, seed) not in arm.confirmed]

    def _is_full(self, arm: ArmStudy) -> bool:
        return is_full(arm, self.search, self.seconds)

    def _plan(self, arm: ArmStudy, params: Mapping[str, Any], number: int, seed: int, role: str) -> TrialPlan:
        return self.search.resolve(
            arm.arm.name, params, number=number, seed=seed, role=role, data=self._data, labels=self._labels
        )

    # ---- telling ----

    def tell(self, trial_id: str, state: str, score: float | None, step: int, seconds: float = 0.0) -> None:
        """Takes a trial's result, once; `seconds` is its time in training.

        Raises ValueError for a trial that is not in flight.
        """
        plan = self._in_flight.pop(trial_id, None)
        if plan is None:
            problem = "has a result already" if trial_id in self._results else "was not asked for"
            raise ValueError(f"{trial_id} {problem}")
        result = self._results[trial_id] = Result(state, score, step)
        arm = self._arms[plan.arm]
        if plan.role == TrialRole.CONFIRM:
            arm.confirmed[plan.number, plan.seed] = result
        else:
            arm.trial_seconds.append(seconds)
            arm.configurations[plan.number].results[plan.seed] = result
            arm.tell_if_final(plan.number)

    # ---- progress ----

    @property
    def seconds(self) -> float:
        """Time spent on the search, all sessions."""
        return self._clock() - self._started

    @property
    def done(self) -> bool:
        """Says whether the budget is met and every result is in."""
        if self._to_resume or self._in_flight:
            return False
        return all(self._is_full(arm) and arm.is_settled and not self._unconfirmed(arm) for arm in self._arms.values())

    @property
    def counts(self) -> Counter[str]:
        """Trials by state: complete, stopped, failed, and running."""
        states = [result.state for result in self._results.values()]
        return Counter([*states, *[TrialState.RUNNING] * len(self._in_flight)])

    @property
    def expected(self) -> int | None:
        """How many trials there will be if none fails or is stopped; None when only time ends the search."""
        total = len(self._results) + len(self._in_flight) + len(self._to_resume)
        for arm in self._arms.values():
            remaining = remaining_trials(arm, self.search, is_full=self._is_full(arm))
            if remaining is None:
                return None
            total += remaining
        return total
