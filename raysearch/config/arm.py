"""An arm of a search: one method, or a choice of methods, and the dimensions that it uses.

The main arm is the search itself; each baseline is another arm. An arm knows which dimensions a draw has, lists its
grid, and turns drawn values into a configuration with every default filled in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raysearch.config.compatibility import has_auxiliaries, uses_setting, why_incompatible
from raysearch.config.dimension import Dimension
from raysearch.config.objective_weights import is_weighted_by, static_weights
from raysearch.config.parameters import DEFAULTS, INCLUDE_PREFIX, PHASE_LENGTHS, WEIGHT_PREFIX, typed_value
from raysearch.config.sections import Baseline, MethodSpec
from raysearch.errors import did_you_mean
from raysearch.methods import DEFAULT_METHODS, FAMILIES, METHODS
from raysearch.methods.profiles import Profile, bundle
from raysearch.modalities.base import ModelConfig
from raysearch.objectives.objective import Objective
from raysearch.objectives.space import Space
from raysearch.schema.fields import Value


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A resolved draw: a trial without its seed, task and model."""

    methods: dict[str, str]
    objectives: tuple[Objective, ...]
    settings: dict[str, Value]
    params: dict[str, Value]  # the values drawn
    primitives: dict[str, Any] = field(default_factory=dict)  # the user's, as a plan holds them
    weights: tuple[float, ...] = ()  # of the objectives, for a weighting that takes them from the search


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One study: its fixed part, and its dimensions in an order in which each follows those that it depends on."""

    name: str
    trials: int | None  # configurations; None where only time ends the arm
    model: ModelConfig
    method: MethodSpec  # an empty word where the family is a dimension
    space: str  # empty where it is a dimension or not needed
    settings: dict[str, Value]
    dimensions: dict[str, Dimension]
    spaces: dict[str, Space] = field(repr=False)
    profile: Profile | None = None

    def methods(self, drawn: Mapping[str, Any]) -> dict[str, str]:
        """Returns the three methods under these values; without auxiliaries there is no surgery."""
        named: dict[str, str] = {
            f: str(drawn.get(f) or getattr(self.method, f) or DEFAULT_METHODS[f]) for f in FAMILIES
        }
        return named if has_auxiliaries(named) else {**named, "surgery": DEFAULT_METHODS["surgery"]}

    def method_combinations(self) -> list[dict[str, str]]:
        """Returns every combination of methods that a draw can have."""
        searched = {f: self.dimensions[f].choices for f in FAMILIES if f in self.dimensions}
        combinations = itertools.product(*(searched.get(f) or (getattr(self.method, f),) for f in FAMILIES))
        named = [self.methods(dict(zip(FAMILIES, triple, strict=True))) for triple in combinations]
        return [methods for i, methods in enumerate(named) if methods not in named[:i]]

    def uses(self, methods: Mapping[str, str], name: str) -> bool:
        """Returns whether a trial of these methods uses the setting, family, space or include of that name."""
        return uses_setting(methods, name, self.model)

    def is_active(self, dimension: Dimension, drawn: Mapping[str, Any]) -> bool:
        """Returns whether this dimension is drawn, given the values of the dimensions before it."""
        if any(drawn.get(parent) not in values for parent, values in dimension.when.items()):
            return False
        methods = self.methods(drawn)
        if dimension.name.startswith(INCLUDE_PREFIX) and has_auxiliaries(methods):
            stage, primitive = dimension.name.removeprefix(INCLUDE_PREFIX).split(".")
            return primitive in self.spaces[str(drawn.get("space", self.space))].stages[stage]
        if dimension.name.startswith(WEIGHT_PREFIX) and self.uses(methods, dimension.name):
            return any(
                is_weighted_by(objective, dimension.name) for objective in self._objectives({**self.settings, **drawn})
            )
        return self.uses(methods, dimension.name)

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yields every possible draw, the last dimension changing fastest. No dimension may be continuous."""

        def extend(drawn: dict[str, Value], rest: tuple[Dimension, ...]) -> Iterator[dict[str, Value]]:
            if not rest:
                yield drawn
            elif not self.is_active(rest[0], drawn):
                yield from extend(drawn, rest[1:])
            else:
                for value in rest[0].values or ():
                    yield from extend({**drawn, rest[0].name: value}, rest[1:])

        return (drawn for drawn in extend({}, tuple(self.dimensions.values())) if self._is_possible(drawn))

    def configure(self, params: Mapping[str, Any]) -> Configuration:
        """Returns the configuration of these values; values of dimensions that are not drawn are dropped.

        Raises ValueError for a draw that is incomplete, that is not of this arm, or that no trial can run.
        """
        for name in params:
            if name not in self.dimensions:
                raise ValueError(f"{name} is not a dimension of arm {self.name!r}{did_you_mean(name, self.dimensions)}")
        drawn: dict[str, Value] = {}
        for dimension in self.dimensions.values():
            if self.is_active(dimension, drawn):
                drawn[dimension.name] = _value_of(dimension, params)
        methods = self.methods(drawn)
        values = {**self.settings, **drawn}
        values = {**DEFAULTS, **bundle(self.profile, methods), **values}
        used = {name: values[name] for name in DEFAULTS if self.uses(methods, name)}
        objectives = self._objectives(values) if has_auxiliaries(methods) else ()
        if problem := why_incompatible(methods, used, len(objectives)):
            raise ValueError(problem)
        if "objectives_per_step" in used:
            used["objectives_per_step"] = min(int(used["objectives_per_step"]) or len(objectives), len(objectives))
        user_primitives = self._space(values).user_primitives if objectives else None
        primitives = user_primitives.to_plan() if user_primitives else {}
        return Configuration(
            methods=methods,
            objectives=objectives,
            settings=used,
            params=drawn,
            primitives=primitives,
            weights=static_weights(objectives, values) if METHODS[methods["weighting"]].searches_weights else (),
        )

    def bound(self, name: str, extreme: Callable[[Iterable[float]], float]) -> float:
        """Returns the least (`min`) or largest (`max`) value of a numeric setting in this arm; 0 for other settings."""
        dimension = self.dimensions.get(name)
        defaults = [bundle(self.profile, methods).get(name, DEFAULTS[name]) for methods in self.method_combinations()]
        values: tuple[Value, ...] = (self.settings[name],) if name in self.settings else tuple(defaults)
        if dimension is not None:
            drawn = dimension.choices if dimension.type == "choice" else (dimension.low, dimension.high)
            values = drawn if not dimension.when else (*drawn, *defaults)
        numbers = [value for value in values if isinstance(value, int | float)]
        return extreme(numbers) if numbers else 0

    @property
    def max_steps(self) -> float:
        """The largest number of optimizer steps of a trial of this arm, over all phases."""
        return max(
            sum(self.bound(key, max) for key in PHASE_LENGTHS if self.uses(m, key)) for m in self.method_combinations()
        )

    def _is_possible(self, drawn: Mapping[str, Value]) -> bool:
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


def baseline_arm(name: str, baseline: Baseline, main: Arm) -> Arm:
    """Returns a baseline's arm: it shares those settings and dimensions of the main arm that it uses.

    One with dimensions of its own searches these alone, and the settings of its own profile come before the main arm's,
    but for the steps of its phases: these say how much a trial of this search may cost.
    """
    methods, model = baseline.method.fixed, baseline.model or main.model
    searched = [family for family in FAMILIES if family not in methods]
    possible = [methods | dict(zip(searched, values, strict=True)) for values in _choices_of(baseline, searched)]
    ours = [bundle(baseline.profile, each) for each in possible] if baseline.dimensions else []
    barred = {*baseline.dimensions, *(key for settings in ours for key in settings if key not in PHASE_LENGTHS)}
    used = {key for key in main.settings if any(uses_setting(each, key, model) for each in possible)}
    settings = {key: main.settings[key] for key in main.settings if key in used - barred} | baseline.settings
    fixed = settings | methods | ({"space": baseline.space} if baseline.space else {})
    dimensions = order_dimensions(baseline.dimensions) or _shared_dimensions(main, methods, model, fixed)
    return Arm(
        name=name,
        trials=baseline.trials if baseline.trials is not None or dimensions else 1,
        model=model,
        method=baseline.method,
        space="" if "space" in baseline.dimensions else baseline.space or main.space,
        settings=settings,
        dimensions=dimensions,
        spaces=main.spaces,
        profile=baseline.profile or main.profile,
    )


def _choices_of(baseline: Baseline, families: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yields every combination of methods of the families that are dimensions of the baseline."""
    return itertools.product(*(map(str, baseline.dimensions[family].choices) for family in families))


def _shared_dimensions(
    main: Arm, methods: Mapping[str, str], model: ModelConfig, fixed: Mapping[str, Value]
) -> dict[str, Dimension]:
    """Returns the dimensions of the main arm that these methods and model use and that are not fixed."""
    dimensions: dict[str, Dimension] = {}
    for dimension in main.dimensions.values():
        if dimension.name in fixed or dimension.name in FAMILIES or not uses_setting(methods, dimension.name, model):
            continue
        is_met = all(fixed[parent] in values for parent, values in dimension.when.items() if parent in fixed)
        unmet = {parent: values for parent, values in dimension.when.items() if parent not in fixed}
        if is_met and dimensions.keys() >= unmet.keys():
            dimensions[dimension.name] = replace(dimension, when=unmet)
    return dimensions


def order_dimensions(dimensions: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """Returns families, space and primitives before settings, and each dimension after those that its condition names.

    Raises ValueError for conditions that depend on each other in a circle.
    """

    def rank(name: str) -> int:
        if name in (*FAMILIES, "space"):
            return (*FAMILIES, "space").index(name)
        return 4 if name.startswith(INCLUDE_PREFIX) else 6 if name.startswith(WEIGHT_PREFIX) else 5

    remaining = sorted(dimensions.values(), key=lambda dimension: rank(dimension.name))
    ordered: dict[str, Dimension] = {}
    while remaining:
        ready = next((d for d in remaining if ordered.keys() >= (d.when.keys() & dimensions.keys())), None)
        if ready is None:
            raise ValueError(f"conditions depend on each other in a circle: {', '.join(d.name for d in remaining)}")
        remaining.remove(ready)
        ordered[ready.name] = ready
    return ordered


def _value_of(dimension: Dimension, params: Mapping[str, Any]) -> Value:
    if dimension.name not in params:
        raise ValueError(f"{dimension.name} has no value")
    value = typed_value(dimension.name, params[dimension.name])
    if not dimension.holds(value):
        raise ValueError(f"{dimension.name} cannot be {value!r} in this search")
    return value
