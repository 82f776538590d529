"""Study: what to try next, asked of Optuna and told to it. Knows no Ray and writes nothing.

The ledger is the record. The studies of the arms, see `arm_study`, live in memory and are rebuilt from it: every
configuration that was handed out takes its place, what was committed is told, what was in flight is handed out again as
it was.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.search.arm_study import ArmStudy, Result
from raysearch.storage.states import MAIN_ARM, TrialRole, TrialState


@dataclass(frozen=True)
class Proposal:
    """A trial to run now."""

    plan: TrialPlan
    resumed: bool = False  # handed out before by a driver that died: it goes on from its own checkpoint


class Study:
    """All arms of a search: hands out trials until the budget is met, and takes their results.

    In this order: trials in flight when an earlier driver died; further seeds of configurations that did well on the
    first; new configurations, of all arms in turn so that each is through its share at the same time; and for each arm
    that has all its results, its best configuration on the seeds that confirm it.
    """

    def __init__(
        self,
        search: Search,
        *,
        data: str,
        labels: int | list[str],
        committed: Iterable[Mapping[str, Any]] = (),
        asked: Iterable[TrialPlan] = (),
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Rebuild from `committed` rows of the table of trials and all plans ever `asked`, after `spent` seconds.

        `data` is the folder of prepared splits and `labels` what plans say of them. Raises RunError when a row is not
        of this search.
        """
        self.search, self._data, self._labels = search, data, labels
        self._clock, self._began = clock, clock() - spent
        self._arms = {name: ArmStudy(arm, search) for name, arm in search.arms.items()}
        self._in_flight: dict[str, TrialPlan] = {}
        self._results: dict[str, Result] = {}
        self._to_resume: deque[TrialPlan] = deque()
        self._rebuild(list(committed), list(asked))

    def _rebuild(self, committed: list[Mapping[str, Any]], asked: list[TrialPlan]) -> None:
        plans = {plan.trial_id: plan for plan in asked}
        spent = {row["trial_id"]: float(row.get("seconds") or 0.0) for row in committed}
        for row in committed:
            plans.setdefault(row["trial_id"], TrialPlan.from_json(row["plan"]))
            self._results[row["trial_id"]] = Result(row["state"], row["score"], row["steps"] or 0)
        drawn: dict[tuple[str, int], tuple[TrialPlan, dict[int, Result | None]]] = {}
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
                arm.spent += [spent[trial_id]] if result is not None else []
                drawn.setdefault((plan.arm, plan.number), (plan, {}))[1][plan.seed] = result
        for (name, number), (plan, results) in sorted(drawn.items(), key=lambda item: item[0]):
            self._arms[name].restore(number, plan.params, results)

    # ---- asking ----

    def ask(self) -> Proposal | None:
        """The next trial; None when there is none now, for good if `done`."""
        resumed = bool(self._to_resume)
        plan = self._to_resume.popleft() if resumed else self._next_seed() or self._new() or self._confirm()
        if plan is None:
            return None
        self._in_flight[plan.trial_id] = plan
        return Proposal(plan, resumed)

    def _next_seed(self) -> TrialPlan | None:
        for arm in self._arms.values():
            found = arm.next_seed()
            if found:
                number, seed = found
                configuration = arm.configurations[number]
                configuration.results[seed] = None
                return self._plan(arm, configuration.params, number, seed, TrialRole.SEARCH)
        return None

    def _new(self) -> TrialPlan | None:
        waiting = [arm for arm in self._arms.values() if not self._closed(arm) and not self._awaits_first_cost(arm)]
        if not waiting:
            return None
        arm = min(waiting, key=self._progress)
        return arm.draw(lambda params, number: self._plan(arm, params, number, self.search.seeds[0], TrialRole.SEARCH))

    def _confirm(self) -> TrialPlan | None:
        for arm in self._arms.values():
            for number, seed in self._unconfirmed(arm):
                arm.confirmed[number, seed] = None
                return self._plan(arm, arm.configurations[number].params, number, seed, TrialRole.CONFIRM)
        return None

    def _unconfirmed(self, arm: ArmStudy) -> list[tuple[int, int]]:
        """Number and seeds on which the arm's best configuration is yet to be run again."""
        seeds = self.search.confirm.seeds if self.search.confirm else ()
        if not seeds or not self._closed(arm) or not arm.settled or (number := arm.best()) is None:
            return []
        return [(number, seed) for seed in seeds if (number, seed) not in arm.confirmed]

    def _closed(self, arm: ArmStudy) -> bool:
        """Will there be no new configuration? Of measured compute, an arm gets what its trials come nearest to."""
        if len(arm.configurations) >= arm.size or self._out_of_time:
            return True
        limit, spent = self.search.budget.compute, self._compute(arm)
        return limit is not None and spent > 0 and spent + statistics.fmean(arm.spent or [0.0]) / 2 >= limit

    def _progress(self, arm: ArmStudy) -> tuple[float, int]:
        """How much of its share an arm has had, so that all are through theirs at the same time."""
        tried = len(arm.configurations)
        if self.search.budget.compute is not None:
            return self._compute(arm) / self.search.budget.compute, tried
        longest = max((arm.size for arm in self._arms.values() if arm.size < math.inf), default=1)
        return tried / min(arm.size, longest), tried

    def _compute(self, arm: ArmStudy) -> float:
        """Seconds in training of an arm's configurations, those in flight at their mean."""
        return math.fsum(arm.spent) + self._count_in_flight(arm) * statistics.fmean(arm.spent or [0.0])

    def _awaits_first_cost(self, arm: ArmStudy) -> bool:
        """Has the arm to wait until its first trial has told what one costs?"""
        return self.search.budget.compute is not None and not arm.spent and self._count_in_flight(arm) > 0

    def _count_in_flight(self, arm: ArmStudy) -> int:
        plans = [*self._in_flight.values(), *self._to_resume]
        return sum(plan.arm == arm.arm.name and plan.role == TrialRole.SEARCH for plan in plans)

    @property
    def _out_of_time(self) -> bool:
        limit = self.search.budget.seconds
        return limit is not None and self.seconds >= limit

    def _plan(self, arm: ArmStudy, params: Mapping[str, Any], number: int, seed: int, role: str) -> TrialPlan:
        return self.search.resolve(
            arm.arm.name, params, number=number, seed=seed, role=role, data=self._data, labels=self._labels
        )

    def competes(self, arm: str, role: str, seed: int) -> bool:
        """Says whether the scheduler may stop a trial: only new configurations of the search proper compete."""
        return (arm, role, seed) == (MAIN_ARM, TrialRole.SEARCH, self.search.seeds[0])

    # ---- telling ----

    def tell(self, trial_id: str, state: str, score: float | None, step: int, seconds: float = 0.0) -> None:
        """Take a trial's result, once, and the seconds that it was in training.

        Raises ValueError for a trial that was not asked for, or has been told.
        """
        plan = self._in_flight.pop(trial_id, None)
        if plan is None:
            raise ValueError(f"{trial_id} {'has been told' if trial_id in self._results else 'was not asked for'}")
        result = self._results[trial_id] = Result(state, score, step)
        arm = self._arms[plan.arm]
        if plan.role == TrialRole.CONFIRM:
            arm.confirmed[plan.number, plan.seed] = result
        else:
            arm.spent.append(seconds)
            arm.configurations[plan.number].results[plan.seed] = result
            arm.tell_if_final(plan.number)

    # ---- progress ----

    @property
    def seconds(self) -> float:
        """Time spent on the search, all sessions."""
        return self._clock() - self._began

    @property
    def done(self) -> bool:
        """Is the budget met and every result in?"""
        if self._to_resume or self._in_flight:
            return False
        return all(self._closed(arm) and arm.settled and not self._unconfirmed(arm) for arm in self._arms.values())

    @property
    def counts(self) -> Counter[str]:
        """Trials by state: complete, stopped, failed, and running."""
        return Counter(
            [result.state for result in self._results.values()] + [TrialState.RUNNING] * len(self._in_flight)
        )

    @property
    def expected(self) -> int | None:
        """How many trials there will be if none fails or is stopped; None when only time ends the search."""
        total = len(self._results) + len(self._in_flight) + len(self._to_resume)
        seeds = len(self.search.seeds)
        confirm = len(self.search.confirm.seeds) if self.search.confirm else 0
        for arm in self._arms.values():
            if not self._closed(arm):
                if arm.size == math.inf or (self.search.budget.compute is not None and arm.arm.dimensions):
                    return None
                total += (int(arm.size) - len(arm.configurations)) * seeds
            open_ = [c for c in arm.configurations.values() if c.trial is not None]
            total += sum(seeds - len(c.results) for c in open_)
            total += max(0, confirm - len(arm.confirmed))
        return total
