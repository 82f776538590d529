"""Optuna's samplers by name, and how an arm's dimensions are drawn with them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
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

WARM_START_TRIALS = 10  # CMA-ES is warm-started from the best tenth of at least so many

optuna.logging.set_verbosity(optuna.logging.WARNING)


class SharedRandomSampler(RandomSampler):
    """A sampler whose draw of a dimension depends on the seed and the dimension's name alone."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._seed = seed

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Draws one value of one dimension."""
        return RandomSampler(derive_seed(self._seed, name)).sample_independent(study, trial, name, distribution)


def _tpe(seed: int, arm: Arm, earlier: Sequence[FrozenTrial]) -> BaseSampler:  # noqa: ARG001 - one signature for all
    return TPESampler(seed=seed, multivariate=True, group=True) if is_conditional(arm) else TPESampler(seed=seed)


def _cmaes(seed: int, arm: Arm, earlier: Sequence[FrozenTrial]) -> BaseSampler:  # noqa: ARG001 - one signature for all
    """CMA-ES keeps its state in the study and not in the ledger, so trials of earlier sessions warm it up."""
    enough = list(earlier) if len(earlier) >= WARM_START_TRIALS else None
    return CmaEsSampler(seed=seed, warn_independent_sampling=False, source_trials=enough)


# Name in `sampler:` -> the sampler of one draw, given its seed, the arm, and the complete trials of earlier sessions.
# A sampler is built again for every draw and remembers nothing: what it draws depends on the seed, which follows from
# the number of the draw, and on the trials that have ended.
# The points of a sampler that lists all values are enqueued by `arm_study`; it is not asked itself.
SAMPLERS: dict[str, Callable[[int, Arm, Sequence[FrozenTrial]], BaseSampler]] = {
    "tpe": _tpe,
    "cmaes": _cmaes,
    "gp": lambda seed, _arm, _earlier: GPSampler(seed=seed),
    "random": lambda seed, _arm, _earlier: SharedRandomSampler(seed),
    "grid": lambda seed, _arm, _earlier: SharedRandomSampler(seed),
}


def make_sampler(name: str, seed: int, arm: Arm, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """Returns the sampler of one draw; `earlier` are complete trials of earlier sessions."""
    with warnings.catch_warnings():  # `group` and `source_trials` have been marked experimental for years
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed, arm, earlier)


def derive_seed(*parts: object) -> int:
    """Returns a seed in [0, 2^32) that depends on `parts` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def is_conditional(arm: Arm) -> bool:
    """Says whether a draw may leave a dimension out, for instance the weight of an objective that is not included."""
    names = arm.dimensions.keys()
    excludes_weights = any(n.startswith(INCLUDE_PREFIX) for n in names) and any(
        n.startswith(WEIGHT_PREFIX) for n in names
    )
    return excludes_weights or any(d.when or name in (*FAMILIES, "space") for name, d in arm.dimensions.items())


def to_distribution(dimension: Dimension) -> BaseDistribution:
    """Returns Optuna's form of a dimension."""
    if dimension.type == "choice":
        return CategoricalDistribution(dimension.choices)
    if dimension.type == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def suggest_dimensions(trial: Trial, arm: Arm) -> dict[str, Any]:
    """Draws a value for each dimension that the arm needs, given the values before it."""
    values: dict[str, Any] = {}
    for dimension in arm.dimensions.values():
        if arm.is_active(dimension, values):
            values[dimension.name] = _suggest(trial, dimension)
    return values


def replay_dimensions(trial: Trial, arm: Arm, values: Mapping[str, Any]) -> None:
    """Takes `values`, with which the trial was enqueued, into the study."""
    for dimension in arm.dimensions.values():
        if dimension.name in values:
            _suggest(trial, dimension)


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    name, low, high, log = dimension.name, dimension.low, dimension.high, dimension.log
    if dimension.type == "choice":
        return trial.suggest_categorical(name, dimension.choices)
    if dimension.type == "int":
        return trial.suggest_int(name, int(low), int(high), log=log)
    return trial.suggest_float(name, low, high, log=log)
