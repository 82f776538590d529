"""Optuna's samplers by name, and how an arm's dimensions are asked of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from raysearch.config.arm import Arm
from raysearch.config.dimension import Dimension
from raysearch.config.parameters import INCLUDE_PREFIX, WEIGHT_PREFIX
from raysearch.methods import FAMILIES

WARM_TRIALS = 10  # warm-starting CMA-ES looks at the best tenth

optuna.logging.set_verbosity(optuna.logging.WARNING)


def make_sampler(name: str, seed: int, *, conditional: bool, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """The sampler of one question, of a space with or without `conditional` dimensions.

    CMA-ES keeps its state in the study, not in the ledger: trials of `earlier` sessions warm it up.
    """
    with warnings.catch_warnings():  # `group` and `source_trials` have been marked experimental for years
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return TPESampler(seed=seed, multivariate=True, group=True) if conditional else TPESampler(seed=seed)
        if name == "cmaes":
            enough = list(earlier) if len(earlier) >= WARM_TRIALS else None
            return CmaEsSampler(seed=seed, warn_independent_sampling=False, source_trials=enough)
        if name == "gp":
            return GPSampler(seed=seed)
        return Shared(seed)


class Shared(RandomSampler):
    """Random draws that depend on the dimension's name and the seed alone, whatever else is drawn or left out."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._own = seed

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, among: BaseDistribution) -> Any:
        """One value of one dimension."""
        return RandomSampler(seed_of(self._own, name)).sample_independent(study, trial, name, among)


def seed_of(*what: object) -> int:
    """A seed in [0, 2^32) that depends on `what` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def is_conditional(arm: Arm) -> bool:
    """May a draw leave a dimension out? Also a weight, of objectives that another dimension leaves out."""
    names = arm.dimensions.keys()
    gone = any(n.startswith(INCLUDE_PREFIX) for n in names) and any(n.startswith(WEIGHT_PREFIX) for n in names)
    return gone or any(dimension.when or name in (*FAMILIES, "space") for name, dimension in arm.dimensions.items())


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's word for a dimension."""
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def draw(trial: Trial, arm: Arm) -> dict[str, Any]:
    """The values that the sampler gives to the dimensions that the arm asks for."""
    drawn: dict[str, Any] = {}
    for dimension in arm.dimensions.values():
        if arm.is_active(dimension, drawn):
            drawn[dimension.name] = _suggest(trial, dimension)
    return drawn


def draw_again(trial: Trial, arm: Arm, drawn: Mapping[str, Any]) -> None:
    """Give `drawn`, which the trial was enqueued with, its place in the study."""
    for dimension in arm.dimensions.values():
        if dimension.name in drawn:
            _suggest(trial, dimension)


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    name, low, high, log = dimension.name, dimension.low, dimension.high, dimension.log
    if dimension.kind == "choice":
        return trial.suggest_categorical(name, dimension.choices)
    if dimension.kind == "int":
        return trial.suggest_int(name, int(low), int(high), log=log)
    return trial.suggest_float(name, low, high, log=log)
