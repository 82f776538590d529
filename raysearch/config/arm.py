"""An arm of a search: one method, or a choice of methods, and the dimensions that it uses.

The search proper is one arm, each baseline another. An arm says which dimensions a draw asks for, lists its grid,
and turns drawn values into a configuration with every default filled in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysearch.config.compatibility import has_auxiliaries, uses_setting, why_incompatible
from raysearch.config.dimension import Dimension
from raysearch.config.objective_weights import is_weighted_by, static_weights
from raysearch.config.parameters import DEFAULTS, INCLUDE_PREFIX, WEIGHT_PREFIX, typed_value
from raysearch.config.sections import MethodSpec
from raysearch.errors import did_you_mean
from raysearch.methods import DEFAULT_METHODS, FAMILIES, METHODS
from raysearch.methods.profiles import Profile, bundle
from raysearch.objectives.objective import Objective
from raysearch.objectives.space import Space
from raysearch.schema.fields import Value

PHASE_STEPS = ("steps", "pretrain_steps", "finetune_steps", "retrain_steps")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What is drawn, resolved: a trial less its seed, task and model."""

    methods: dict[str, str]
    objectives: tuple[Objective, ...]
    settings: dict[str, Value]
    params: dict[str, Value]  # the draw
    primitives: dict[str, Any] = field(default_factory=dict)  # of the user's own, as a plan holds them
    weights: tuple[float, ...] = ()  # of the objectives, where the weighting has them from here


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One study: its fixed part and its dimensions, those that others depend on first."""

    name: str
    trials: int | None  # configurations; None when only time ends it
    method: MethodSpec  # an empty word where the family is a dimension
    space: str  # empty where the space is a dimension or not needed
    settings: dict[str, Value]
    dimensions: dict[str, Dimension]
    spaces: dict[str, Space] = field(repr=False)
    profile: Profile | None = None

    def methods(self, drawn: Mapping[str, Any]) -> dict[str, str]:
        """The three methods under these values; without auxiliaries there is nothing to cut."""
        named: dict[str, str] = {
            f: str(drawn.get(f) or getattr(self.method, f) or DEFAULT_METHODS[f]) for f in FAMILIES
        }
        return named if has_auxiliaries(named) else {**named, "surgery": DEFAULT_METHODS["surgery"]}

    def method_combinations(self) -> list[dict[str, str]]:
        """Every triple of methods that a draw can give."""
        searched = {f: self.dimensions[f].choices for f in FAMILIES if f in self.dimensions}
        triples = itertools.product(*(searched.get(f) or (getattr(self.method, f),) for f in FAMILIES))
        named = [self.methods(dict(zip(FAMILIES, triple, strict=True))) for triple in triples]
        return [triple for i, triple in enumerate(named) if triple not in named[:i]]

    def is_active(self, dimension: Dimension, drawn: Mapping[str, Any]) -> bool:
        """Is this dimension drawn, given the values of those before it?"""
        if any(drawn.get(parent) not in values for parent, values in dimension.when.items()):
            return False
        methods = self.methods(drawn)
        if dimension.name.startswith(INCLUDE_PREFIX) and has_auxiliaries(methods):
            stage, primitive = dimension.name.removeprefix(INCLUDE_PREFIX).split(".")
            return primitive in self.spaces[str(drawn.get("space", self.space))].stages[stage]
        if dimension.name.startswith(WEIGHT_PREFIX) and uses_setting(methods, dimension.name):
            return any(
                is_weighted_by(objective, dimension.name) for objective in self._objectives({**self.settings, **drawn})
            )
        return uses_setting(methods, dimension.name)

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every possible draw, the last dimension fastest. Needs dimensions with an end of values."""

        def extend(drawn: dict[str, Value], rest: tuple[Dimension, ...]) -> Iterator[dict[str, Value]]:
            if not rest:
                yield drawn
            elif not self.is_active(rest[0], drawn):
                yield from extend(drawn, rest[1:])
            else:
                for value in rest[0].values or ():
                    yield from extend({**drawn, rest[0].name: value}, rest[1:])

        return (drawn for drawn in extend({}, tuple(self.dimensions.values())) if self._possible(drawn))

    def configure(self, params: Mapping[str, Any]) -> Configuration:
        """The configuration that these values make; those of dimensions that are not asked for are dropped.

        Raises ValueError for a draw that is not complete, not of this arm, or that no trial can run.
        """
        for name in params:
            if name not in self.dimensions:
                raise ValueError(f"{name} is no dimension of arm {self.name!r}{did_you_mean(name, self.dimensions)}")
        drawn: dict[str, Value] = {}
        for dimension in self.dimensions.values():
            if self.is_active(dimension, drawn):
                drawn[dimension.name] = _value_of(dimension, params)
        methods = self.methods(drawn)
        values = {**self.settings, **drawn}
        values = {**DEFAULTS, **bundle(self.profile, methods), **values}
        used = {name: values[name] for name in DEFAULTS if uses_setting(methods, name)}
        objectives = self._objectives(values) if has_auxiliaries(methods) else ()
        if problem := why_incompatible(methods, used, len(objectives)):
            raise ValueError(problem)
        if "objectives_per_step" in used:
            used["objectives_per_step"] = min(int(used["objectives_per_step"]) or len(objectives), len(objectives))
        own = self._space(values).user_primitives if objectives else None
        primitives = own.plan() if own else {}
        return Configuration(
            methods=methods,
            objectives=objectives,
            settings=used,
            params=drawn,
            primitives=primitives,
            weights=static_weights(objectives, values) if METHODS[methods["weighting"]].searches_weights else (),
        )

    def bound(self, name: str, which: Callable[[Iterable[float]], float]) -> float:
        """The least (`min`) or largest (`max`) value that a numeric setting takes in this arm; 0 for other settings."""
        dimension = self.dimensions.get(name)
        usual = [bundle(self.profile, methods).get(name, DEFAULTS[name]) for methods in self.method_combinations()]
        values: tuple[Value, ...] = (self.settings[name],) if name in self.settings else tuple(usual)
        if dimension is not None:
            own = dimension.choices if dimension.kind == "choice" else (dimension.low, dimension.high)
            values = own if not dimension.when else (*own, *usual)
        numbers = [value for value in values if isinstance(value, int | float)]
        return which(numbers) if numbers else 0

    @property
    def max_steps(self) -> float:
        """The most optimizer steps that a trial of this arm can take, all phases."""
        return max(
            sum(self.bound(key, max) for key in PHASE_STEPS if uses_setting(m, key)) for m in self.method_combinations()
        )

    def _possible(self, drawn: Mapping[str, Value]) -> bool:
        try:
            self.configure(drawn)
        except ValueError:
            return False
        return True

    def _space(self, values: Mapping[str, Value]) -> Space:
        return self.spaces[str(values.get("space", self.space))]

    def _objectives(self, values: Mapping[str, Value]) -> tuple[Objective, ...]:
        space = self._space(values)
        include = {
            name.removeprefix(INCLUDE_PREFIX): bool(v) for name, v in values.items() if name.startswith(INCLUDE_PREFIX)
        }
        return space.restrict(include).objectives


def order_dimensions(dimensions: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """Families, space and primitives before settings, and whatever a condition names before what it governs.

    Raises ValueError when conditions go in a circle.
    """

    def rank(name: str) -> int:
        if name in (*FAMILIES, "space"):
            return (*FAMILIES, "space").index(name)
        return 4 if name.startswith(INCLUDE_PREFIX) else 6 if name.startswith(WEIGHT_PREFIX) else 5

    left = sorted(dimensions.values(), key=lambda dimension: rank(dimension.name))
    ordered: dict[str, Dimension] = {}
    while left:
        ready = next((d for d in left if ordered.keys() >= (d.when.keys() & dimensions.keys())), None)
        if ready is None:
            raise ValueError(f"conditions go in a circle: {', '.join(d.name for d in left)}")
        left.remove(ready)
        ordered[ready.name] = ready
    return ordered


def _value_of(dimension: Dimension, params: Mapping[str, Any]) -> Value:
    if dimension.name not in params:
        raise ValueError(f"{dimension.name} has no value")
    value = typed_value(dimension.name, params[dimension.name])
    if not dimension.holds(value):
        raise ValueError(f"{dimension.name} cannot be {value!r} in this search")
    return value
