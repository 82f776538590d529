"""The study of one arm: its configurations and their results, and the Optuna study that draws the next one.

It lives in memory and is rebuilt from the ledger, see `study`. The sampler's seed depends on the configuration's number
alone, so that a rebuilt study asks what an undisturbed one would have asked, given the same results.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from raysearch.config.arm import Arm
from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.search.samplers import distribution, draw, draw_again, is_conditional, make_sampler, seed_of
from raysearch.storage.states import TrialState

POSSIBLE_DRAWS = 100  # a draw that no plan can be made of is drawn again, so many times
FRESH_DRAWS = 10  # and one that was tried before, so many times

OptunaResult = tuple[OptunaState, float | None, dict[int, float]]  # state, value, value at the step it was stopped at


@dataclass(frozen=True)
class Result:
    """How a trial ended."""

    state: str  # complete, stopped or failed
    score: float | None
    step: int

    @property
    def ranked(self) -> float | None:
        """The score, if the trial ran to its end with one."""
        sound = self.state == TrialState.COMPLETE and self.score is not None and math.isfinite(self.score)
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

    def optuna_result(self, seeds: tuple[int, ...]) -> OptunaResult | None:
        """What Optuna is to be told; None while there is more to learn.

        A configuration counts with its mean over all seeds; one that fails on any of them has failed.
        """
        first = self.results.get(seeds[0])
        if first is None or (first.ranked is not None and any(self.results.get(seed) is None for seed in seeds)):
            return None
        mean = self.mean(seeds)
        if mean is not None:
            return OptunaState.COMPLETE, mean, {}
        if first.state == TrialState.STOPPED and first.score is not None and math.isfinite(first.score):
            return OptunaState.PRUNED, None, {first.step: first.score}
        return OptunaState.FAIL, None, {}


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

    def restore(self, number: int, params: Mapping[str, Any], results: dict[int, Result | None]) -> None:
        """Take up a configuration of an earlier session, told if all is known of it; numbers come in order."""
        configuration = self.configurations[number] = Configuration(params, None, results)
        optuna_result = configuration.optuna_result(self.seeds)
        if optuna_result is None:
            self.study.enqueue_trial(dict(params))
            configuration.trial = self.study.ask()
            draw_again(configuration.trial, self.arm, params)
            return
        state, value, values = optuna_result
        known = {d.name: distribution(d) for d in self.arm.dimensions.values() if d.name in params}
        told = create_trial(
            state=state, value=value, params=dict(params), distributions=known, intermediate_values=values
        )
        self.study.add_trial(told)
        if state == OptunaState.COMPLETE:
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
                self.study.tell(trial, state=OptunaState.FAIL)
                continue
            if plan.key in self.keys and self.points is None and tries < FRESH_DRAWS:
                self.study.tell(trial, state=OptunaState.FAIL)
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

    def next_seed(self) -> tuple[int, int] | None:
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

    def tell_if_final(self, number: int) -> None:
        """Tell Optuna of a configuration if all is known of it."""
        configuration = self.configurations[number]
        optuna_result = configuration.optuna_result(self.seeds)
        if optuna_result is None or configuration.trial is None:
            return
        state, value, values = optuna_result
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
