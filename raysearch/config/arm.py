"""An arm of a search: one method, or a choice of methods, and the dimensions that it uses.

The search proper is one arm, each baseline another. An arm says which dimensions a draw asks for, lists its grid,
and turns drawn values into a configuration with every default filled in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysearch.config.dimension import Dimension
from raysearch.config.parameters import DEFAULTS, INCLUDE_PREFIX, WEIGHT_PREFIX, typed_value
from raysearch.config.sections import MethodSpec
from raysearch.errors import did_you_mean
from raysearch.methods import FAMILIES, METHODS
from raysearch.methods.profiles import Profile, bundle
from raysearch.methods.weighting.settings import MetaBatchSettings, MetaGradientSettings
from raysearch.objectives.objective import Objective
from raysearch.objectives.space import Space
from raysearch.schema.fields import Value
from raysearch.training_settings import TrainingSettings

DEFAULT_METHOD = MethodSpec()
AUXILIARY_SETTINGS = (
    "aux_batch_size",
    "select_probability",
    "lm_head",
    "lm_rank",
    "weights_every",
)  # settings of Training that only auxiliary objectives use
BALANCE_SETTINGS = (
    "lambda_e",
    "lambda_form",
    "lr_lambda",
    "eta_prim",
    "eta_prim_form",
)  # settings that weigh the end task against its auxiliaries
PHASE_STEPS = ("steps", "pretrain_steps", "finetune_steps", "retrain_steps")  # of all phases
SEARCHED = "static_searched"  # the weighting whose weights are dimensions
Methods = Mapping[str, str]  # family -> method


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
            f: str(drawn.get(f) or getattr(self.method, f) or getattr(DEFAULT_METHOD, f)) for f in FAMILIES
        }
        return named if has_auxiliaries(named) else {**named, "surgery": DEFAULT_METHOD.surgery}

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
        if problem := _why_not(methods, used, len(objectives)):
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
            weights=_weights(objectives, values) if methods["weighting"] == SEARCHED else (),
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


def is_weighted_by(objective: Objective, name: str) -> bool:
    """Is the weight of that name a factor of this objective's?"""
    stage, dot, primitive = name.removeprefix(WEIGHT_PREFIX).partition(".")
    return getattr(objective, stage, None) == primitive if dot else objective.name == stage


def why_weight_unused(name: str, objectives: list[Objective]) -> str | None:
    """Why the weight of that name is of no objective; None if it is of one."""
    stage, dot, what = name.removeprefix(WEIGHT_PREFIX).partition(".")
    if any(is_weighted_by(objective, name) for objective in objectives):
        return None
    known = dict.fromkeys(getattr(each, stage) if dot else each.name for each in objectives)
    kind, what = (stage, what) if dot else ("objective", stage)
    return f"no objective of the space has the {kind} {what!r}{did_you_mean(what, known)}"


def _weights(objectives: tuple[Objective, ...], values: Mapping[str, Value]) -> tuple[float, ...]:
    """Every objective's product of the weights that it bears. Raises ValueError when all are 0."""
    given = {name: float(value) for name, value in values.items() if name.startswith(WEIGHT_PREFIX)}
    weights = tuple(math.prod(w for name, w in given.items() if is_weighted_by(each, name)) for each in objectives)
    if not any(weights):
        raise ValueError("every objective's weight is 0: use weighting 'end_task_only'")
    return weights


def has_auxiliaries(methods: Methods) -> bool:
    """Does this weighting have auxiliary objectives at all?"""
    return methods["weighting"] != "end_task_only"


def needs_meta_dev(methods: Methods) -> bool:
    """Does this weighting look at the dev set while it trains?"""
    method = METHODS[methods["weighting"]]
    return method.rounds or issubclass(method.settings, MetaBatchSettings)


def uses_setting(methods: Methods, name: str) -> bool:
    """Does a trial of these methods look at the setting, family, space or include of that name?"""
    if name in ("weighting", "schedule"):
        return True
    if name in ("surgery", "space", *AUXILIARY_SETTINGS) or name.startswith(INCLUDE_PREFIX):
        return has_auxiliaries(methods)
    if name.startswith(WEIGHT_PREFIX):
        return methods["weighting"] == SEARCHED
    if name in BALANCE_SETTINGS and methods["schedule"] == "pretrain_then_finetune":
        return False  # never trains them together
    return name in TrainingSettings.__dataclass_fields__ or any(
        name in METHODS[methods[f]].setting_names for f in FAMILIES
    )


def why_incompatible(methods: Methods, settings: Mapping[str, Value]) -> str | None:
    """Why no trial can run with these settings together, as far as they are known; None if it can.

    What is said of methods begins with the family that is at fault.
    """
    if methods["schedule"] == "pretrain_then_finetune" and not has_auxiliaries(methods):
        return (
            "schedule 'pretrain_then_finetune' has nothing to pretrain on: weighting 'end_task_only' has no auxiliaries"
        )
    weighting = methods["weighting"]
    if METHODS[weighting].balances and methods["schedule"] == "pretrain_then_finetune":
        return (
            f"weighting {weighting!r} weighs the end task against its auxiliaries: schedule 'pretrain_then_finetune' "
            "never trains them together"
        )
    if weighting == "famo" and (parts := settings.get("micro_batches", 1)) != 1:
        return f"weighting 'famo' weighs a step by the losses of all its rows: micro_batches is 1, not {parts}"
    if methods["surgery"] == "pcd" and methods["schedule"] == "pretrain_then_finetune":
        return "surgery 'pcd' keeps the end task's gradient: schedule 'pretrain_then_finetune' would not move the body"
    if settings.get("task_clip") and methods["surgery"] not in ("none", "attittud"):
        return f"task_clip cuts gradients that surgery {methods['surgery']!r} compares as they are: leave one out"
    if settings.get("engine") in ("jvp", "difference") and (problem := _why_no_forwards(methods, settings)):
        return f"engine {settings['engine']!r} {problem}"
    if settings.get("batch_split") == "hierarchical" and methods["weighting"] != "aang":
        return f"batch_split 'hierarchical' goes by AANG's factors; weighting {methods['weighting']!r} has none"
    return _why_no_rounds(methods) or _why_no_basis(settings)


def _why_no_rounds(methods: Methods) -> str | None:
    """Why a weighting that mixes branches cannot go with the surgery or the schedule."""
    weighting, surgery, schedule = (methods[family] for family in FAMILIES)
    if not METHODS[weighting].rounds:
        return None
    if surgery != DEFAULT_METHOD.surgery:
        return f"surgery {surgery!r} cuts gradients, and weighting {weighting!r} mixes what branches have learned"
    if schedule == "pretrain_then_finetune":
        return f"schedule {schedule!r} has no end task beside its auxiliaries: weighting {weighting!r} needs both"
    return None


def _why_not(methods: Methods, settings: Mapping[str, Value], objectives: int) -> str | None:
    """Why no trial can run with these settings and so many objectives."""
    return (
        why_incompatible(methods, settings)
        or _why_forgotten(methods, settings, objectives)
        or _why_no_room(methods, settings, objectives)
    )


def _why_no_room(methods: Methods, settings: Mapping[str, Value], objectives: int) -> str | None:
    """Why the steps do not suffice for one round, where it can be told without the data."""
    if not METHODS[methods["weighting"]].rounds or not settings["pass_steps"]:
        return None
    each = max(1, round(float(settings["rho"]) * int(settings["pass_steps"])))
    probes = methods["weighting"] == "probes"
    one_for_each = probes or methods["weighting"] == "alphavil" or settings.get("fork_branches") == "each"
    least = each * (1 + objectives - probes if one_for_each else 1)
    if least > int(settings["steps"]):
        return f"steps {settings['steps']} leave no room for a round, which takes {least}: less rho or pass_steps"
    return None


def _why_no_forwards(methods: Methods, settings: Mapping[str, Value]) -> str | None:
    """Why products with the dev gradient cannot come from forwards alone."""
    if METHODS[methods["weighting"]].looks:
        return f"gives products with a dev head's gradient alone; weighting {methods['weighting']!r} asks for more"
    if methods["surgery"] not in ("none", "attittud"):
        return f"knows no gradients for surgery {methods['surgery']!r} to compare: leave it out"
    if not issubclass(METHODS[methods["weighting"]].settings, MetaGradientSettings):
        return None  # asks for none
    if settings.get("similarity", "dot") != "dot" or settings.get("task_clip"):
        return "knows no norms: similarity: dot and no task_clip, or leave it out"
    if settings["engine"] == "difference" and settings.get("precision") == "bfloat16":
        return "subtracts losses, for which bfloat16 is too coarse: precision: float32, or engine: jvp"
    return None


def _why_no_basis(settings: Mapping[str, Value]) -> str | None:
    """Why ATTITTUD's subspace cannot be had with these settings."""
    k, basis = settings.get("k"), settings.get("basis")
    m, what = settings.get("m"), "m, the examples that span the subspace"
    if settings.get("basis_rows") == "same":
        m, what = settings.get("batch_size"), "batch_size, whose examples span the subspace"
    if basis == "canonical":
        return None if k in (None, DEFAULTS["k"]) else f"k has no meaning with basis 'canonical': leave it out (k {k})"
    if basis == "unit_average":
        return None if k in (None, 1, DEFAULTS["k"]) else f"basis 'unit_average' is one direction: k is 1, not {k}"
    if isinstance(k, int) and isinstance(m, int) and k > m and basis != "random":
        return f"k must be at most {what}: k {k}, {what.split(',')[0]} {m}"
    return None


def _why_forgotten(methods: Methods, settings: Mapping[str, Value], objectives: int) -> str | None:
    """Why a surgery that remembers each objective's gradients cannot go with objectives that come and go."""
    sampled = int(settings.get("objectives_per_step", 0)) or objectives
    if METHODS[methods["surgery"]].memory and settings["conflict_between"] == "objectives" and sampled < objectives:
        return (
            f"surgery {methods['surgery']!r} remembers the gradients of {objectives} objectives, and {sampled} are "
            "sampled a step: objectives_per_step 0, or conflict_between: sum"
        )
    return None


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
