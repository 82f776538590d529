"""The study of one arm: its configurations, their results, and the Optuna study that draws the next one.

It lives in memory and is rebuilt from the ledger, see `study`. The sampler's seed depends on the configuration's number
alone, so that a rebuilt study draws what an undisturbed one would have drawn, given the same results.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from raysearch.config.arm import Arm
from raysearch.config.search_config import Search
from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.search.race import Drop, Race
from raysearch.search.samplers import (
    derive_seed,
    make_sampler,
    replay_dimensions,
    suggest_dimensions,
    to_distribution,
)
from raysearch.storage.best import ArmRanking, RankedConfiguration
from raysearch.storage.cells import Cell, has_folds
from raysearch.storage.states import TrialState

POSSIBLE_DRAWS = 100  # times that a draw is repeated while no plan can be made of it
FRESH_DRAWS = 10  # times that a draw is repeated while its plan was tried before

OptunaResult = tuple[OptunaState, float | None, dict[int, float]]  # state, value, scores by step of a stopped trial


@dataclass(frozen=True)
class Result:
    """How a trial ended."""

    state: str  # complete, stopped or failed
    score: float | None
    step: int  # the last
    best_step: int = 0  # that of the score; 0 without

    @property
    def is_complete(self) -> bool:
        """Says whether the trial ran to its end with a score."""
        return self.counted is not None

    @property
    def counted(self) -> float | None:
        """The score of a trial that ran to its end; None for others."""
        is_finite = self.score is not None and math.isfinite(self.score)
        return self.score if self.state == TrialState.COMPLETE and is_finite else None


@dataclass
class Configuration:
    """A point of the search and its trials by cell; a trial in flight has no result."""

    number: int
    params: Mapping[str, Any]
    trial: optuna.Trial | None  # until Optuna has the result
    results: dict[Cell, Result | None] = field(default_factory=dict)

    def ranked(self, cells: tuple[Cell, ...]) -> RankedConfiguration | None:
        """Returns the configuration as `storage.best` ranks it; None while no trial has ended."""
        ranking = ArmRanking(cells)
        for cell, result in self.results.items():
            if result is not None:
                row = {"number": self.number, "seed": cell.seed, "state": result.state, "score": result.score}
                ranking.add(row | {"plan": {"fold": cell.fold}})
        return next(iter(ranking), None)

    def complete_scores(self, cells: tuple[Cell, ...]) -> list[float]:
        """Returns the scores of the first cells, up to the first that is not complete."""
        scores = (result.counted if (result := self.results.get(cell)) else None for cell in cells)
        return [score for score in takewhile(lambda score: score is not None, scores) if score is not None]

    def optuna_result(self, cells: tuple[Cell, ...], drop: Drop | None) -> OptunaResult | None:
        """Returns what to report to Optuna; None while there is more to learn.

        A configuration counts with its mean over all cells; one that fails on any of them has failed. One that the race
        has dropped is pruned: its intermediate values are its means over the first m cells, at step m.
        """
        if drop is not None:
            scores = self.complete_scores(cells)
            means = {m: math.fsum(scores[:m]) / m for m in range(1, len(scores) + 1)}
            return OptunaState.PRUNED, None, means
        first = self.results.get(cells[0])
        if first is None or (first.is_complete and self.awaits_results(cells)):
            return None
        ranked = self.ranked(cells)
        if ranked is not None and ranked.is_complete:
            return OptunaState.COMPLETE, ranked.score, {}
        if first.state == TrialState.STOPPED and first.score is not None and math.isfinite(first.score):
            return OptunaState.PRUNED, None, {0 if has_folds(cells) else first.step: first.score}
        return OptunaState.FAIL, None, {}

    def awaits_results(self, cells: tuple[Cell, ...]) -> bool:
        """Says whether trials are missing or in flight; of cells that come one at a time, a failure is the last."""
        if has_folds(cells) and any(result and not result.is_complete for result in self.results.values()):
            return any(result is None for result in self.results.values())
        return any(self.results.get(cell) is None for cell in cells)


class ArmStudy:
    """One arm's configurations, and the Optuna study that draws them."""

    def __init__(self, arm: Arm, search: Search) -> None:
        self.arm, self.cells, self.sampler, self.seed = arm, search.cells, search.sampler, search.sampler_seed
        self.scores_at_found_step = search.scores_at_found_step
        self.race = Race(arm.name, len(self.cells), drops=search.selection.folds > 0)
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        self.configurations: dict[int, Configuration] = {}
        self._unsettled: dict[int, Configuration] = {}  # those whose result Optuna does not have yet
        self.finals: dict[tuple[int, str, Cell], Result | None] = {}  # of chosen configurations, by number and role
        self.keys: set[str] = set()  # of all plans so far, as in the names of trials
        self.earlier_trials: list[FrozenTrial] = []  # complete ones that the study was rebuilt with
        self.trial_seconds: list[float] = []  # in training, of every trial of role search that has ended
        self.grid_points: list[dict[str, Any]] | None = None
        if DECLARED_SAMPLERS[self.sampler].lists_values:
            self.grid_points = list(arm.grid())
            random.Random(derive_seed(self.seed, arm.name)).shuffle(self.grid_points)

    @property
    def size(self) -> float:
        """How many configurations there may be."""
        size = math.inf if self.arm.trials is None else self.arm.trials
        if self.grid_points is not None:
            size = min(size, len(self.grid_points))
        return size if self.arm.dimensions else min(size, 1)

    @property
    def in_flight(self) -> int:
        """How many trials of role search have no result yet."""
        return sum(result is None for c in self._unsettled.values() for result in c.results.values())

    def restore(self, number: int, params: Mapping[str, Any], results: dict[Cell, Result | None]) -> None:
        """Adds a configuration of an earlier session; reports it to Optuna if its result is final.

        Configurations are restored in the order of their numbers, after the race has all results.
        """
        configuration = self.configurations[number] = Configuration(number, params, None, results)
        optuna_result = configuration.optuna_result(self.cells, self.race.dropped.get(number))
        if optuna_result is None:
            self.study.enqueue_trial(dict(params))
            self._unsettled[number] = configuration
            configuration.trial = self.study.ask()
            replay_dimensions(configuration.trial, self.arm, params)
            return
        state, value, scores = optuna_result
        distributions = {d.name: to_distribution(d) for d in self.arm.dimensions.values() if d.name in params}
        trial = create_trial(
            state=state, value=value, params=dict(params), distributions=distributions, intermediate_values=scores
        )
        self.study.add_trial(trial)
        if state == OptunaState.COMPLETE:
            self.earlier_trials.append(trial)

    def draw(self, resolve: Callable[[Mapping[str, Any], int], TrialPlan]) -> TrialPlan:
        """Draws the next configuration and returns its plan on the first seed.

        `resolve` makes a plan of values and number, and raises ValueError for values that it cannot use. Raises
        RunError when it cannot use any draw.
        """
        number = len(self.configurations)
        problem: ValueError | None = None
        for attempt in range(POSSIBLE_DRAWS):
            trial = self._ask_optuna(number, attempt)
            try:
                plan = resolve(suggest_dimensions(trial, self.arm), number)
            except ValueError as error:
                problem = error
                self.study.tell(trial, state=OptunaState.FAIL)
                continue
            if plan.short_key in self.keys and self.grid_points is None and attempt < FRESH_DRAWS:
                self.study.tell(trial, state=OptunaState.FAIL)
                continue
            configuration = Configuration(number, plan.params, trial, {plan.cell: None})
            self.configurations[number] = self._unsettled[number] = configuration
            self.keys.add(plan.short_key)
            return plan
        raise RunError(f"arm {self.arm.name}: {POSSIBLE_DRAWS} impossible draws in a row; the last: {problem}")

    def _ask_optuna(self, number: int, attempt: int) -> optuna.Trial:
        names = [] if DECLARED_SAMPLERS[self.sampler].shares_draws else [self.arm.name]
        seed = derive_seed(self.seed, *names, number, attempt)
        if self.grid_points is not None:
            self.study.enqueue_trial(self.grid_points[number])
        self.study.sampler = make_sampler(self.sampler, seed, self.arm, self.earlier_trials)
        return self.study.ask()

    def next_cell(self) -> tuple[int, Cell] | None:
        """Returns a configuration that has earned a further training, and which it is; None if there is none now.

        A configuration that is complete on its first seed earns all other seeds. With selection each cell is earned by
        those before it.
        """
        for number, configuration in self._unsettled.items():
            done = len(configuration.complete_scores(self.cells))
            if not done or number in self.race.dropped:
                continue
            for cell in self.cells[done : done + 1] if self.race.drops else self.cells[1:]:
                if cell not in configuration.results:
                    return number, cell
        return None

    def take(self, number: int, cell: Cell, result: Result) -> Drop | None:
        """Takes the result of a configuration's trial; reports the configuration to Optuna if this is final."""
        self.configurations[number].results[cell] = result
        drop = self.race.take(number, result.counted)
        self._tell_if_final(number)
        return drop

    def _tell_if_final(self, number: int) -> None:
        configuration = self.configurations[number]
        optuna_result = configuration.optuna_result(self.cells, self.race.dropped.get(number))
        if optuna_result is None or configuration.trial is None:
            return
        state, value, scores = optuna_result
        for step, score in scores.items():
            configuration.trial.report(score, step)
        self.study.tell(configuration.trial, value, state=state)
        configuration.trial = None
        del self._unsettled[number]

    def score_step(self, number: int) -> int:
        """Returns the step that scores a configuration on fresh seeds: where it was best, the median over seeds.

        It is 0 for the best of each seed's own.
        """
        if not self.scores_at_found_step or has_folds(self.cells):
            return 0
        results = self.configurations[number].results.values()
        steps = [result.best_step for result in results if result and result.is_complete and result.best_step]
        return statistics.median_low(steps) if steps else 0

    @property
    def is_settled(self) -> bool:
        """Says whether Optuna has the result of every configuration."""
        return not self._unsettled

    def best(self) -> int | None:
        """Returns the number of the best configuration that is complete on every cell, as `storage.best` ranks them."""
        ranked = [c for c in (c.ranked(self.cells) for c in self.configurations.values()) if c and c.is_complete]
        return min(ranked, key=lambda configuration: configuration.order).number if ranked else None
