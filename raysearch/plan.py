"""TrialPlan: everything that a worker knows about a trial.

A plan is frozen and complete (every default is filled in), and it is written to JSON and read back, so that it can be
stored, sent, compared and run again years later. Two plans with the same `key` do the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

from raysearch.errors import RunError, shorten
from raysearch.methods import FAMILIES, METHODS
from raysearch.objectives.objective import Objective
from raysearch.schema.fields import Settings, Value, late_defaults
from raysearch.storage.cells import NO_FOLD, Cell
from raysearch.storage.names import is_plain
from raysearch.training_settings import TrainingSettings

S = TypeVar("S", bound=Settings)

# The types of a plan's fields as JSON holds them.
_TYPES: dict[type, tuple[str, ...]] = {
    int: ("number", "seed", "workers", "folds", "fold", "score_step"),
    str: ("arm", "role", "weighting", "surgery", "schedule"),
    dict: ("settings", "params", "task", "model", "primitives"),
    list: ("objectives", "weights"),
}

SHORT_KEY = 6  # digits of a plan's key in the name of its trial

# Keys of a model that earlier versions lack, at the values that mean what those versions did.
MODEL_BEFORE: dict[str, Any] = {"pooling": "head"}


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """A configuration and a seed, resolved."""

    number: int  # of the configuration in its arm, from 0
    seed: int
    arm: str  # MAIN_ARM, or the name of a baseline
    role: str  # a TrialRole
    weighting: str
    surgery: str
    schedule: str
    objectives: tuple[Objective, ...]
    settings: dict[str, Value]  # every setting that the three methods and the training use
    params: dict[str, Any]  # the values drawn for this trial, as the search names them (for people and Optuna)
    task: dict[str, Any]  # name, data (the folder of prepared splits), metric, labels
    model: dict[str, Any]  # as declared: {"config": {...}} or {"path": ...}, "layers"
    workers: int = 1  # data-parallel ranks
    primitives: dict[str, Any] = field(default_factory=dict)  # of the user's own: file, sha256, heads of its outputs
    weights: tuple[float, ...] = ()  # of the objectives, where they are searched
    folds: int = 0  # parts of the labelled rows; 0: the splits are those that were prepared
    fold: int = NO_FOLD  # the part that scores, counted over partitions; without one, all labelled rows train
    score_step: int = 0  # the step whose evaluation scores the trial; 0: the best one, or on a fold the last

    def settings_group(self, group: type[S]) -> S:
        """Returns the settings of one group, for instance `plan.settings_group(TrainingSettings)`."""
        return group(**{f.name: self.settings[f.name] for f in fields(group) if f.name in self.settings})

    @property
    def training(self) -> TrainingSettings:
        """The settings that every trial has."""
        return self.settings_group(TrainingSettings)

    def method_settings(self, family: str) -> Any:
        """Returns the settings of the plan's weighting, surgery or schedule."""
        return self.settings_group(METHODS[getattr(self, family)].settings)

    @cached_property
    def key(self) -> str:
        """Twelve hex digits that name what the trial does: all fields but number, arm, role and where files lie."""
        content = asdict(self)
        for name in ("number", "arm", "role", "params"):
            del content[name]
        late = self._late_defaults()
        content["settings"] = {name: value for name, value in self.settings.items() if late.get(name) != value}
        primitives = content.pop("primitives")
        if primitives:
            content["primitives"] = primitives["sha256"]
        if not self.weights:
            del content["weights"]
        if not self.folds:
            del content["folds"], content["fold"]
        if not self.score_step:
            del content["score_step"]
        content["model"] = model_identity(self.model)
        content["task"] = {name: value for name, value in content["task"].items() if name != "data"}
        return hashlib.sha256(_canonical(content).encode()).hexdigest()[:12]

    def _late_defaults(self) -> dict[str, Any]:
        """The defaults of all settings that earlier versions lack."""
        defaults = late_defaults(TrainingSettings)
        for family in FAMILIES:
            defaults |= late_defaults(METHODS[getattr(self, family)].settings)
        return defaults

    @cached_property
    def trial_id(self) -> str:
        """A name that stays the same over restarts and sorts by arm, number, seed, fold and key."""
        fold = f"f{self.fold}-" if self.fold != NO_FOLD else "all-" if self.folds else ""
        return f"{self.arm}-{self.number:04d}-s{self.seed}-{fold}{self.short_key}"

    @property
    def short_key(self) -> str:
        """The first digits of the key, with which the trial's name ends."""
        return self.key[:SHORT_KEY]

    @property
    def cell(self) -> Cell:
        """What the trial is to its configuration."""
        return Cell(self.seed, self.fold)

    @property
    def is_refit(self) -> bool:
        """Says whether the trial trains on all labelled rows, so that no row is left to score it."""
        return self.folds > 0 and self.fold == NO_FOLD

    def to_json(self) -> str:
        """Returns one line of JSON; `from_json` gives the same plan back."""
        return _canonical(asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Returns the values that JSON can hold; `from_dict` gives the same plan back."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    @classmethod
    def from_json(cls, text: str) -> TrialPlan:
        """Returns the plan that `to_json` wrote. Raises RunError as `from_dict`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], trial_id: str = "") -> TrialPlan:
        """Returns the plan that `to_dict` wrote; `trial_id` is its name where that is known and need not be derived.

        Raises RunError for a plan with fields that this version lacks, and for one that raysearch cannot have written:
        it may be a stranger's, and its words become paths and names of functions.
        """
        if unknown := sorted(plain.keys() - {f.name for f in fields(cls)}):
            raise RunError(
                f"a trial was planned with {', '.join(unknown)}, which this version of raysearch does not know: "
                "use the version that the run was made with, or a later one"
            )
        if problem := _plan_problem(plain):
            raise RunError(f"a plan of this run is damaged, or not one of raysearch: {problem}")
        objectives = tuple(Objective(**objective) for objective in plain["objectives"])
        plan = cls(**{**plain, "objectives": objectives, "weights": tuple(plain.get("weights", ()))})
        if trial_id:
            vars(plan)["trial_id"] = trial_id  # what cached_property would keep
        return plan


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a declared model without the keys that only say what earlier versions did as well."""
    return {name: value for name, value in model.items() if MODEL_BEFORE.get(name) != value}


def _plan_problem(plain: Mapping[str, Any]) -> str:
    """Returns why a stored mapping is no plan; empty if it is one, as far as types and names tell."""
    for name in (f.name for f in fields(TrialPlan) if f.default is MISSING and f.default_factory is MISSING):
        if name not in plain:
            return f"it lacks {name}"
    for kind, names in _TYPES.items():
        for name in names:
            if name in plain and type(plain[name]) is not kind:
                return f"{name} is {shorten(repr(plain[name]))}"
    stages = {f.name for f in fields(Objective)}
    objectives = plain["objectives"]
    words = [plain["arm"], plain["role"], *(plain[family] for family in FAMILIES)]
    for objective in objectives:
        if not isinstance(objective, Mapping) or objective.keys() != stages:
            return f"an objective is {shorten(repr(objective))}"
        words += objective.values()
    for word in words:
        if not is_plain(word):
            return f"{shorten(repr(word))} is no name"
    unknown = [plain[family] for family in FAMILIES if plain[family] not in METHODS]
    return f"{unknown[0]!r} is no method of this version" if unknown else ""


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
