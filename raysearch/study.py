"""Study: what to try next, asked of Optuna and told to it. Knows no Ray and writes nothing.

The ledger is the record. The Optuna studies, one per arm, live in memory and are rebuilt from it: every configuration
that was handed out takes its place, what was committed is told, what was in flight is handed out again as it was.
The sampler's seed depends on the configuration's number alone, so that a rebuilt study asks what an undisturbed one
would have asked, given the same results.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from raysearch.arms import Arm
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.samplers import distribution, draw, draw_again, is_conditional, make_sampler, seed_of
from raysearch.spec import Search

POSSIBLE_DRAWS = 100  # a draw that no plan can be made of is drawn again, so many times
FRESH_DRAWS = 10  # and one that was tried before, so many times

Verdict = tuple[TrialState, float | None, dict[int, float]]  # state, value, value at the step it was stopped at


@dataclass(frozen=True)
class Proposal:
    """A trial to run now."""

    plan: TrialPlan
    resumed: bool = False  # handed out before by a driver that died: it goes on from its own checkpoint


@dataclass(frozen=True)
class Result:
    """How a trial ended."""

    state: str  # complete, stopped or failed
    score: float | None
    step: int

    @property
    def ranked(self) -> float | None:
        """The score, if the trial ran to its end with one."""
        sound = self.state == "complete" and self.score is not None and math.isfinite(self.score)
        return self.score if sound else None


@dataclass
class Configuration:
    """A point of the search and its trials by seed; a trial in flight has no result."""

    params: Mapping[str, Any]
    trial: optuna.Trial | None  # while Optuna has not been told
    results: dict[int, Result | None] = field(default_factory=dict)

    def mean(self, seeds: Iterable[int]) -> float | None:
        """The mean score over the seeds; None unless every one of them ran to its end."""
        scores = [result.ranked if (result := self.results.get(seed)) else None for seed in seeds]
        known = [score for score in scores if score is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(scores) else None

    def verdict(self, seeds: tuple[int, ...]) -> Verdict | None:
        """What Optuna is to be told; None while there is more to learn.

        A configuration counts with its mean over all seeds; one that fails on any of them has failed.
        """
        first = self.results.get(seeds[0])
        if first is None or (first.ranked is not None and any(self.results.get(seed) is None for seed in seeds)):
            return None
        mean = self.mean(seeds)
        if mean is not None:
            return TrialState.COMPLETE, mean, {}
        if first.state == "stopped" and first.score is not None and math.isfinite(first.score):
            return TrialState.PRUNED, None, {first.step: first.score}
        return TrialState.FAIL, None, {}


class ArmStudy:
    """One arm's configurations, and the Optuna study that they are drawn from."""

    def __init__(self, arm: Arm, search: Search) -> None:
        self.arm, self.seeds, self.sampler, self.seed = arm, search.seeds, search.sampler, search.sampler_seed
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        self.configurations: dict[int, Configuration] = {}
        self.confirmed: dict[tuple[int, int], Result | None] = {}  # by number and seed
        self.keys: set[str] = set()
        self.earlier: list[FrozenTrial] = []  # told when the study was rebuilt
        self.spent: list[float] = []  # seconds in training of every trial that has ended, repetitions aside
        self.points: list[dict[str, Any]] | None = None
        if self.sampler == "grid":
            self.points = list(arm.grid())
            random.Random(seed_of(self.seed, arm.name)).shuffle(self.points)

    @property
    def size(self) -> float:
        """How many configurations there may be."""
        size = math.inf if self.arm.trials is None else self.arm.trials
        if self.points is not None:
            size = min(size, len(self.points))
        return size if self.arm.dimensions else min(size, 1)

    # ---- rebuilding ----

    def place(self, number: int, params: Mapping[str, Any], results: dict[int, Result | None]) -> None:
        """Take up a configuration of an earlier session, told if all is known of it; numbers come in order."""
        configuration = self.configurations[number] = Configuration(params, None, results)
        verdict = configuration.verdict(self.seeds)
        if verdict is None:
            self.study.enqueue_trial(dict(params))
            configuration.trial = self.study.ask()
            draw_again(configuration.trial, self.arm, params)
            return
        state, value, values = verdict
        known = {d.name: distribution(d) for d in self.arm.dimensions.values() if d.name in params}
        told = create_trial(
            state=state, value=value, params=dict(params), distributions=known, intermediate_values=values
        )
        self.study.add_trial(told)
        if state == TrialState.COMPLETE:
            self.earlier.append(told)

    # ---- asking ----

    def draw(self, resolve: Callable[[Mapping[str, Any], int], TrialPlan]) -> TrialPlan:
        """The plan of the next configuration, on the first seed.

        Raises RunError when all that is drawn is refused by `resolve`, with ValueError.
        """
        number = len(self.configurations)
        refused: ValueError | None = None
        for tries in range(POSSIBLE_DRAWS):
            trial = self._ask(number, tries)
            try:
                plan = resolve(draw(trial, self.arm), number)
            except ValueError as error:
                refused = error
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            if plan.key in self.keys and self.points is None and tries < FRESH_DRAWS:
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            self.configurations[number] = Configuration(plan.params, trial, {plan.seed: None})
            self.keys.add(plan.key)
            return plan
        raise RunError(f"arm {self.arm.name}: {POSSIBLE_DRAWS} impossible draws in a row; the last: {refused}")

    def _ask(self, number: int, tries: int) -> optuna.Trial:
        shared = self.sampler == "random"  # one draw of a dimension for all arms that have it
        seed = seed_of(self.seed, *([] if shared else [self.arm.name]), number, tries)
        if self.points is not None:
            self.study.enqueue_trial(self.points[number])
        self.study.sampler = make_sampler(
            self.sampler, seed, conditional=is_conditional(self.arm), earlier=self.earlier
        )
        return self.study.ask()

    def further(self) -> tuple[int, int] | None:
        """The number of a configuration that did well on its first seed, and the seed that it is to run on next."""
        for number, configuration in self.configurations.items():
            first = configuration.results.get(self.seeds[0])
            if configuration.trial is None or first is None or first.ranked is None:
                continue
            for seed in self.seeds[1:]:
                if seed not in configuration.results:
                    return number, seed
        return None

    # ---- telling ----

    def settle(self, number: int) -> None:
        """Tell Optuna of a configuration if all is known of it."""
        configuration = self.configurations[number]
        verdict = configuration.verdict(self.seeds)
        if verdict is None or configuration.trial is None:
            return
        state, value, values = verdict
        for step, score in values.items():
            configuration.trial.report(score, step)
        self.study.tell(configuration.trial, value, state=state)
        configuration.trial = None

    @property
    def settled(self) -> bool:
        """Is Optuna told of every configuration?"""
        return all(configuration.trial is None for configuration in self.configurations.values())

    def best(self) -> int | None:
        """The number of the configuration with the highest mean score; the earlier one of equals."""
        means = {number: c.mean(self.seeds) for number, c in self.configurations.items()}
        ranked = [(mean, -number) for number, mean in means.items() if mean is not None]
        return -max(ranked)[1] if ranked else None


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
        self._flying: dict[str, TrialPlan] = {}
        self._told: dict[str, Result] = {}
        self._again: deque[TrialPlan] = deque()
        self._rebuild(list(committed), list(asked))

    def _rebuild(self, committed: list[Mapping[str, Any]], asked: list[TrialPlan]) -> None:
        plans = {plan.trial_id: plan for plan in asked}
        spent = {row["trial_id"]: float(row.get("seconds") or 0.0) for row in committed}
        for row in committed:
            plans.setdefault(row["trial_id"], TrialPlan.from_json(row["plan"]))
            self._told[row["trial_id"]] = Result(row["state"], row["score"], row["steps"] or 0)
        drawn: dict[tuple[str, int], tuple[TrialPlan, dict[int, Result | None]]] = {}
        for trial_id, plan in plans.items():
            if plan.arm not in self._arms:
                raise RunError(f"{trial_id} belongs to an arm that the search does not have")
            arm, result = self._arms[plan.arm], self._told.get(trial_id)
            arm.keys.add(plan.key)
            if result is None:
                self._again.append(replace(plan, task={**plan.task, "data": self._data}))
            if plan.role == "confirm":
                arm.confirmed[plan.number, plan.seed] = result
            else:
                arm.spent += [spent[trial_id]] if result is not None else []
                drawn.setdefault((plan.arm, plan.number), (plan, {}))[1][plan.seed] = result
        for (name, number), (plan, results) in sorted(drawn.items(), key=lambda item: item[0]):
            self._arms[name].place(number, plan.params, results)

    # ---- asking ----

    def ask(self) -> Proposal | None:
        """The next trial; None when there is none now, for good if `done`."""
        resumed = bool(self._again)
        plan = self._again.popleft() if resumed else self._further() or self._new() or self._confirm()
        if plan is None:
            return None
        self._flying[plan.trial_id] = plan
        return Proposal(plan, resumed)

    def _further(self) -> TrialPlan | None:
        for arm in self._arms.values():
            found = arm.further()
            if found:
                number, seed = found
                configuration = arm.configurations[number]
                configuration.results[seed] = None
                return self._plan(arm, configuration.params, number, seed, "search")
        return None

    def _new(self) -> TrialPlan | None:
        waiting = [arm for arm in self._arms.values() if not self._closed(arm) and not self._unknown(arm)]
        if not waiting:
            return None
        arm = min(waiting, key=self._progress)
        return arm.draw(lambda params, number: self._plan(arm, params, number, self.search.seeds[0], "search"))

    def _confirm(self) -> TrialPlan | None:
        for arm in self._arms.values():
            for number, seed in self._unconfirmed(arm):
                arm.confirmed[number, seed] = None
                return self._plan(arm, arm.configurations[number].params, number, seed, "confirm")
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
        return math.fsum(arm.spent) + self._in_flight(arm) * statistics.fmean(arm.spent or [0.0])

    def _unknown(self, arm: ArmStudy) -> bool:
        """Has the arm to wait until its first trial has told what one costs?"""
        return self.search.budget.compute is not None and not arm.spent and self._in_flight(arm) > 0

    def _in_flight(self, arm: ArmStudy) -> int:
        plans = [*self._flying.values(), *self._again]
        return sum(plan.arm == arm.arm.name and plan.role == "search" for plan in plans)

    @property
    def _out_of_time(self) -> bool:
        limit = self.search.budget.seconds
        return limit is not None and self.seconds >= limit

    def _plan(self, arm: ArmStudy, params: Mapping[str, Any], number: int, seed: int, role: str) -> TrialPlan:
        return self.search.resolve(
            arm.arm.name, params, number=number, seed=seed, role=role, data=self._data, labels=self._labels
        )

    # ---- telling ----

    def tell(self, trial_id: str, state: str, score: float | None, step: int, seconds: float = 0.0) -> None:
        """Take a trial's result, once, and the seconds that it was in training.

        Raises ValueError for a trial that was not asked for, or has been told.
        """
        plan = self._flying.pop(trial_id, None)
        if plan is None:
            raise ValueError(f"{trial_id} {'has been told' if trial_id in self._told else 'was not asked for'}")
        result = self._told[trial_id] = Result(state, score, step)
        arm = self._arms[plan.arm]
        if plan.role == "confirm":
            arm.confirmed[plan.number, plan.seed] = result
        else:
            arm.spent.append(seconds)
            arm.configurations[plan.number].results[plan.seed] = result
            arm.settle(plan.number)

    # ---- standing ----

    @property
    def seconds(self) -> float:
        """Time spent on the search, all sessions."""
        return self._clock() - self._began

    @property
    def done(self) -> bool:
        """Is the budget met and every result in?"""
        if self._again or self._flying:
            return False
        return all(self._closed(arm) and arm.settled and not self._unconfirmed(arm) for arm in self._arms.values())

    @property
    def counts(self) -> Counter[str]:
        """Trials by state: complete, stopped, failed, and running."""
        return Counter([result.state for result in self._told.values()] + ["running"] * len(self._flying))

    @property
    def expected(self) -> int | None:
        """How many trials there will be if none fails or is stopped; None when only time ends the search."""
        total = len(self._told) + len(self._flying) + len(self._again)
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
