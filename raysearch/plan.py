"""TrialPlan: all that a worker ever gets to know of a trial.

A plan is frozen, complete (every default filled in) and JSON both ways, so that it can be stored, sent, compared
and run again years later. Two plans with the same `key` do the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from raysearch.errors import RunError
from raysearch.methods import METHODS
from raysearch.objectives.objective import Objective
from raysearch.schema.fields import Settings, Value
from raysearch.training_settings import TrainingSettings

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One configuration and one seed, resolved."""

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

    def group(self, kind: type[S]) -> S:
        """The settings of one group, e.g. `plan.group(Training)`."""
        return kind(**{f.name: self.settings[f.name] for f in fields(kind) if f.name in self.settings})

    @property
    def training(self) -> TrainingSettings:
        """What every trial has."""
        return self.group(TrainingSettings)

    def method(self, family: str) -> Any:
        """The settings of the plan's weighting, surgery or schedule."""
        return self.group(METHODS[getattr(self, family)].settings)

    @property
    def key(self) -> str:
        """Twelve hex digits that name what this trial does: all fields but number, arm, role and where files lie."""
        what = asdict(self)
        for name in ("number", "arm", "role", "params"):
            del what[name]
        primitives = what.pop("primitives")
        if primitives:
            what["primitives"] = primitives["sha256"]
        if not self.weights:
            del what["weights"]
        what["task"] = {name: value for name, value in what["task"].items() if name != "data"}
        return hashlib.sha256(_canonical(what).encode()).hexdigest()[:12]

    @property
    def trial_id(self) -> str:
        """Stable over restarts, and sortable: arm, number, seed, key."""
        return f"{self.arm}-{self.number:04d}-s{self.seed}-{self.key[:6]}"

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives the same plan back."""
        return _canonical(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialPlan:
        """The plan that `to_json` wrote. Raises RunError for one that has what this version does not know."""
        raw = json.loads(text)
        if unknown := sorted(raw.keys() - {f.name for f in fields(cls)}):
            raise RunError(
                f"a trial was planned with {', '.join(unknown)}, which this version of raysearch does not know: "
                "use the one that the run was made with, or a later one"
            )
        raw["objectives"] = tuple(Objective(**objective) for objective in raw["objectives"])
        raw["weights"] = tuple(raw.get("weights", ()))
        return cls(**raw)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
