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
from raysearch.plan import TrialPlan
from raysearch.search.arm_study import ArmStudy, Result
from raysearch.search.budget_use import (
    awaits_first_cost,
    expected_trials,
    is_full,
    remaining_trials,
    used_share,
    why_held_back,
)
from raysearch.search.race import Drop
from raysearch.search.restoring import restore_arms
from raysearch.storage.cells import Cell
from raysearch.storage.states import MAIN_ARM, TrialRole, TrialState


@dataclass(frozen=True)
class Proposal:
    """A trial to run now."""

    plan: TrialPlan
    resumed: bool = False  # handed out before, by a driver that was lost; resumes from its own checkpoint


class Study:
    """All arms of a search. Hands out trials until the budget is met, and takes their results.

    Trials are handed out in this order: those in flight when an earlier driver was lost; further seeds or folds of
    configurations that have earned them; new configurations, of the arm that has used least of its share; and, for each
    arm that has all its results, its best configuration on the seeds that confirm it, and on all labelled rows.
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
        restored = restore_arms(self._arms, list(committed), list(planned))
        self._results, self._drops = restored.results, restored.drops
        self._to_resume = deque(replace(plan, task={**plan.task, "data": data}) for plan in restored.unfinished)

    # ---- asking ----

    def ask(self) -> Proposal | None:
        """Returns the next trial; None when there is none now, which is for good if `done`."""
        resumed = bool(self._to_resume)
        plan = self._to_resume.popleft() if resumed else self._next_cell() or self._new() or self._next_final()
        if plan is None:
            return None
        self._in_flight[plan.trial_id] = plan
        return Proposal(plan, resumed)

    def competes(self, arm: str, role: str, cell: Cell) -> bool:
        """Says whether the scheduler may stop a trial: only new configurations of the search proper compete."""
        return (arm, role, cell) == (MAIN_ARM, TrialRole.SEARCH, self.search.cells[0])

    def drop_after(self, trial_id: str) -> Drop | None:
        """Returns what the race decided on the trial's result, if it dropped its configuration."""
        return self._drops.get(trial_id)

    def _next_cell(self) -> TrialPlan | None:
        for arm in self._arms.values():
            pair = arm.next_cell()
            if pair:
                number, cell = pair
                configuration = arm.configurations[number]
                configuration.results[cell] = None
                return self._plan(arm, configuration.params, number, cell, TrialRole.SEARCH)
        return None

    def _new(self) -> TrialPlan | None:
        arms = self._arms.values()
        open_arms = [arm for arm in arms if not self._is_full(arm) and not awaits_first_cost(arm, self.search)]
        if not open_arms:
            return None
        arm = min(open_arms, key=lambda arm: used_share(arm, self.search, arms))
        return arm.draw(lambda params, number: self._plan(arm, params, number, self.search.cells[0], TrialRole.SEARCH))

    def _next_final(self) -> TrialPlan | None:
        for arm in self._arms.values():
            for number, role, cell in self._pending_finals(arm):
                arm.finals[number, role, cell] = None
                return self._plan(arm, arm.configurations[number].params, number, cell, role)
        return None

    def _pending_finals(self, arm: ArmStudy) -> list[tuple[int, str, Cell]]:
        """Returns the trainings of the arm's best configuration, once it is chosen, that are not handed out yet."""
        finals = self.search.final_cells
        if not finals or not self._is_full(arm) or not arm.is_settled or (number := arm.best()) is None:
            return []
        return [(number, role, cell) for role, cell in finals if (number, role, cell) not in arm.finals]

    def _is_full(self, arm: ArmStudy) -> bool:
        return is_full(arm, self.search, self.seconds)

    def _plan(self, arm: ArmStudy, params: Mapping[str, Any], number: int, cell: Cell, role: str) -> TrialPlan:
        data, labels, (seed, fold) = self._data, self._labels, cell
        plan = self.search.resolve(
            arm.arm.name, params, number=number, seed=seed, fold=fold, role=role, data=data, labels=labels
        )
        return replace(plan, score_step=arm.score_step(number)) if role == TrialRole.CONFIRM else plan

    # ---- telling ----

    def tell(
        self, trial_id: str, state: str, score: float | None, step: int, seconds: float = 0.0, best_step: int = 0
    ) -> None:
        """Takes a trial's result, once; `seconds` is its time in training, `best_step` the step of its score.

        Raises ValueError for a trial that is not in flight.
        """
        plan = self._in_flight.pop(trial_id, None)
        if plan is None:
            problem = "has a result already" if trial_id in self._results else "was not asked for"
            raise ValueError(f"{trial_id} {problem}")
        result = self._results[trial_id] = Result(state, score, step, best_step)
        arm = self._arms[plan.arm]
        if plan.role != TrialRole.SEARCH:
            arm.finals[plan.number, plan.role, plan.cell] = result
        else:
            arm.trial_seconds.append(seconds)
            if drop := arm.take(plan.number, plan.cell, result):
                self._drops[trial_id] = drop

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
        return all(self._is_full(a) and a.is_settled and not self._pending_finals(a) for a in self._arms.values())

    @property
    def held_back(self) -> str:
        """What has to happen before the next trial is handed out; empty if none is to come."""
        return why_held_back(self._arms.values(), self.search, self.seconds)

    @property
    def counts(self) -> Counter[str]:
        """Trials by state: complete, stopped, failed, and running."""
        return Counter([r.state for r in self._results.values()] + [TrialState.RUNNING] * len(self._in_flight))

    @property
    def to_come(self) -> dict[str, int] | None:
        """About how many trials of each arm are still to be handed out; None while that cannot be said."""
        counts = Counter(plan.arm for plan in self._to_resume)
        for arm in self._arms.values():
            to_come = expected_trials(arm, self.search, is_full=self._is_full(arm))
            if to_come is None:
                return None
            counts[arm.arm.name] += to_come
        return dict(counts)

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
