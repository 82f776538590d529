"""Static weights of objectives: the product of the weights that a search gives to an objective and its primitives.

`weight.<stage>.<primitive>` is a factor of every objective with that primitive, `weight.<objective>` of that objective.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from raysearch.config.parameters import WEIGHT_PREFIX
from raysearch.errors import did_you_mean
from raysearch.objectives.objective import Objective
from raysearch.schema.fields import Value


def is_weighted_by(objective: Objective, name: str) -> bool:
    """Returns whether the weight of that name is a factor of this objective's weight."""
    stage, dot, primitive = name.removeprefix(WEIGHT_PREFIX).partition(".")
    return getattr(objective, stage, None) == primitive if dot else objective.name == stage


def why_weight_unused(name: str, objectives: Iterable[Objective]) -> str | None:
    """Returns why the weight of that name belongs to no objective; None if it belongs to one."""
    objectives = list(objectives)
    if any(is_weighted_by(objective, name) for objective in objectives):
        return None
    stage, dot, primitive = name.removeprefix(WEIGHT_PREFIX).partition(".")
    known = dict.fromkeys(getattr(objective, stage) if dot else objective.name for objective in objectives)
    part, word = (stage, primitive) if dot else ("objective", stage)
    return f"no objective of the space has the {part} {word!r}{did_you_mean(word, known)}"


def static_weights(objectives: tuple[Objective, ...], values: Mapping[str, Value]) -> tuple[float, ...]:
    """Returns the weight of every objective. Raises ValueError if all are 0."""
    factors = {name: float(value) for name, value in values.items() if name.startswith(WEIGHT_PREFIX)}
    weights = tuple(
        math.prod(factor for name, factor in factors.items() if is_weighted_by(objective, name))
        for objective in objectives
    )
    if not any(weights):
        raise ValueError("every objective's weight is 0: no auxiliary objective would be trained")
    return weights
