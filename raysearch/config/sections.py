"""The parts of a declared search: method, dimensions, baselines, budget, scheduler, resources.

Each is a frozen dataclass that `Node.read` fills from a file and `to_plain` writes back; a field's range is its
`setting`. What concerns one section alone is refused here; what concerns several, in `validation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from raysearch.config.parameters import (
    check_method,
    fixed_settings,
)
from raysearch.errors import did_you_mean
from raysearch.formatting import describe_value
from raysearch.methods import DEFAULT_METHODS, FAMILIES
from raysearch.methods.profiles import Profile
from raysearch.schema.fields import Settings, Value, setting
from raysearch.schema.node import Node

Sampler = Literal["tpe", "random", "grid", "cmaes", "gp"]
Executor = Literal["fleet", "train_run", "in_process"]


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A point weighting x surgery x schedule; an empty word where it is a dimension."""

    weighting: str = DEFAULT_METHODS["weighting"]
    surgery: str = DEFAULT_METHODS["surgery"]
    schedule: str = DEFAULT_METHODS["schedule"]

    @classmethod
    def read(cls, node: Node) -> MethodSpec:
        """The three names, each of its own family."""
        method = node.fields_of(cls)
        for family in FAMILIES:
            if family in node:
                check_method(node[family], family, getattr(method, family))
        return method

    def to_plain(self) -> dict[str, str]:
        """What `read` reads; families that are dimensions are left out."""
        return {family: getattr(self, family) for family in FAMILIES if getattr(self, family)}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A further arm: a method of its own, a study of its own over the dimensions that it uses."""

    method: MethodSpec
    settings: dict[str, Value] = field(default_factory=dict)
    space: str | None = None  # the search's, unless said
    profile: Profile | None = None  # likewise
    trials: int | None = None  # 1 if it has no dimensions

    @classmethod
    def read(cls, node: Node) -> Baseline:
        """A baseline as declared; families that it leaves out are the plainest, not the search's."""
        node.mapping([about.name for about in fields(cls)])
        if "method" not in node:
            raise node.error("the key 'method' is missing")
        fixed = fixed_settings(node["settings"]) if "settings" in node else {}
        baseline = node.fields_of(cls, {"settings": fixed})
        if baseline.trials is not None and baseline.trials < 1:
            raise node.error(f"must be at least 1, got {baseline.trials}", "trials")
        return baseline


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When the search arm ends: after so many configurations, so much time, or so much work; whichever is first."""

    trials: int | None = None
    seconds: float | None = None  # after these no new configuration starts
    compute: float | None = None  # seconds in training, measured, that every arm has for its configurations

    @classmethod
    def read(cls, node: Node) -> Budget:
        """One of them at least."""
        budget = node.fields_of(cls)
        for name in ("trials", "seconds", "compute"):
            value = getattr(budget, name)
            if value is not None and value <= 0:
                raise node.error(f"must be above 0, got {value}", name)
        return budget


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """After the search, the best configuration of every arm again on fresh seeds."""

    seeds: tuple[int, ...]
    keep: bool = False  # their trained models stay in the run, for `analyze --final`


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What a paper printed of the same comparison: it stands beside what is found here, and changes nothing of it."""

    source: str  # with the number of its table
    metric: str  # in the paper's words
    scores: dict[str, str] = field(default_factory=dict)  # of arms, as printed
    values: dict[str, dict[str, str]] = field(default_factory=dict)  # of the values of dimensions, as printed

    @classmethod
    def read(cls, node: Node) -> Paper:
        """Source, metric, and scores of arms or of values; a score is text, so that no digit is lost."""
        printed = list(node["scores"].mapping()) if "scores" in node.mapping() else []
        for dimension in node["values"].mapping() if "values" in node else ():
            printed += dimension.mapping()
        for score in printed:
            if not isinstance(score.value, str):
                raise score.error(f"must be text, as printed, got {describe_value(score.value)}; put it in quotes")
        if not printed:
            raise node.error("has neither scores: {ARM: TEXT} nor values: {DIMENSION: {VALUE: TEXT}}")
        return node.fields_of(cls)


@dataclass(frozen=True, kw_only=True)
class Scheduler(Settings):
    """Which trials are stopped early: none, or the losers of each rung of successive halving."""

    name: str = setting("fifo", "fifo stops none, asha the losers", choices=("fifo", "asha"))
    grace: int = setting(20, "steps that every trial gets", low=1, unit="step")
    reduction: int = setting(3, "one in so many goes on to the next rung, which is so many times longer", low=2)

    @classmethod
    def read(cls, node: Node) -> Scheduler:
        """`fifo`, `asha`, or `asha: {grace: 20, reduction: 3}`."""
        if isinstance(node.value, str):
            if node.value not in ("fifo", "asha"):
                raise node.error(f"unknown scheduler {node.value!r}{did_you_mean(node.value, ('fifo', 'asha'))}")
            return cls(name=node.value)
        asha = node.mapping(["asha"])
        if "asha" not in asha:
            raise node.error("must be fifo, asha, or asha: {grace: ..., reduction: ...}")
        asha["asha"].mapping(("grace", "reduction"))
        return asha["asha"].fields_of(cls, {"name": "asha"})

    def to_plain(self) -> object:
        """What `read` reads."""
        return "fifo" if self.name == "fifo" else {"asha": {"grace": self.grace, "reduction": self.reduction}}


@dataclass(frozen=True, kw_only=True)
class Resources(Settings):
    """What a trial gets, and how many run at a time."""

    workers: int = setting(1, "data-parallel ranks of a trial", low=1)
    cpus: float = setting(1.0, "CPU cores of a rank", low=0)
    gpus: float = setting(0.0, "GPUs of a rank", low=0)
    groups: int = setting(0, "trials at a time; 0 as many as fit", low=0)
