"""The sections of a declared search: method, baselines, budget, confirmation, paper, sampler, scheduler, resources.

Each is a frozen dataclass that `Node.read` fills from a file and `to_plain` writes back. A key declares its meaning,
range and default. A section rejects what concerns it alone; `validation` rejects what concerns several.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from raysearch.config.dimension import Dimension
from raysearch.config.parameters import check_method, fixed_settings
from raysearch.errors import did_you_mean
from raysearch.formatting import describe_value
from raysearch.methods import DEFAULT_METHODS, FAMILIES
from raysearch.methods.profiles import Profile
from raysearch.modalities.base import ModelConfig
from raysearch.modalities.loading import read_model
from raysearch.schema.fields import Settings, Value, config_key, setting
from raysearch.schema.node import Node

Executor = Literal["fleet", "train_run", "in_process"]


@dataclass(frozen=True)
class SamplerInfo:
    """What a sampler does and what it needs."""

    meaning: str
    numbers_only: bool = False  # draws no choices
    lists_values: bool = False  # goes through all values, so that every dimension has finitely many
    shares_draws: bool = False  # no draw depends on earlier ones, so all arms draw the same values of a dimension
    package: str = ""  # of the extra raysearch[samplers]


DECLARED_SAMPLERS = {
    "tpe": SamplerInfo("the tree-structured Parzen estimator"),
    "random": SamplerInfo("independent draws", shares_draws=True),
    "grid": SamplerInfo("every combination of values once", lists_values=True),
    "cmaes": SamplerInfo("CMA-ES, for numbers", numbers_only=True, package="cmaes"),
    "gp": SamplerInfo("a Gaussian process"),
}

DECLARED_SCHEDULERS: dict[str, tuple[str, ...]] = {  # name -> the fields of `Scheduler` that it uses
    "fifo": (),
    "asha": ("grace", "reduction"),
}


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A combination weighting x surgery x schedule; an empty word where the family is a dimension."""

    weighting: str = config_key("how the losses of the tasks are weighted", default=DEFAULT_METHODS["weighting"])
    surgery: str = config_key("how gradients are changed before they are added", default=DEFAULT_METHODS["surgery"])
    schedule: str = config_key("which tasks train when", default=DEFAULT_METHODS["schedule"])

    @classmethod
    def read(cls, node: Node) -> MethodSpec:
        """Reads the three names, each of its own family."""
        method = node.fields_of(cls)
        for family in FAMILIES:
            if family in node:
                check_method(node[family], family, getattr(method, family))
        return method

    @property
    def fixed(self) -> dict[str, str]:
        """The methods by family, without the families that are dimensions."""
        return {family: getattr(self, family) for family in FAMILIES if getattr(self, family)}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A further arm with a method of its own; it searches its dimensions, or those of the search that it uses."""

    method: MethodSpec = config_key("weighting, surgery and schedule; a family that is left out has its default")
    model: ModelConfig | None = config_key("the model, if not that of the search", default=None)
    settings: dict[str, Value] = config_key(
        "settings of this arm alone; all others are those of the search", default_factory=dict
    )
    dimensions: dict[str, Dimension] = config_key(
        "what this arm searches, in place of the search's dimensions", default_factory=dict
    )
    space: str | None = config_key("the space of objectives, if not that of the search", default=None)
    profile: Profile | None = config_key("the profile, if not that of the search", default=None)
    trials: int | None = config_key("configurations to try; 1 for an arm without dimensions", default=None, low=1)

    @classmethod
    def read(cls, node: Node) -> Baseline:
        """Reads a baseline; families that it leaves out have their defaults, not the methods of the search."""
        node.mapping([each.name for each in fields(cls)])
        if "method" not in node:
            raise node.error("the key 'method' is missing")
        values: dict[str, Any] = {"settings": fixed_settings(node["settings"])} if "settings" in node else {}
        values |= {"model": read_model(node["model"])} if "model" in node else {}
        baseline = node.fields_of(cls, values)
        searched = {family: "" for family in FAMILIES if family in baseline.dimensions}
        for family in searched:
            if family in node["method"]:
                raise node.error(f"{family} is also fixed under `method:`; leave one out", "dimensions", family)
        return replace(baseline, method=replace(baseline.method, **searched))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When the main arm ends: after so many configurations, seconds, or seconds of training; whichever is first."""

    trials: int | None = config_key("configurations of the main arm", default=None, low=1)
    seconds: float | None = config_key(
        "time after which no new configuration starts", default=None, low=0, open_low=True, unit="s"
    )
    compute: float | None = config_key(
        "measured training time that every arm has for its configurations", default=None, low=0, open_low=True, unit="s"
    )


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """After the search, the best configuration of every arm is trained again on fresh seeds."""

    seeds: tuple[int, ...] = config_key("the fresh seeds, none of which is in `seeds`")
    keep: bool = config_key("keep these trained models in the run, for `analyze --final`", default=False)
    score_at: Literal["found_step", "best"] = config_key(
        "the evaluation that scores a fresh seed: found_step, that at the step where the search found the "
        "configuration best; best, the best of the seed's own, which is the more too high the more there are",
        default="found_step",
        is_late=True,
    )


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What a paper printed of the same comparison. Reports show it beside the results; the search does not use it."""

    source: str = config_key("the paper, with the number of its table")
    metric: str = config_key("the metric in the paper's words")
    scores: dict[str, str] = config_key("the printed score of each arm, as quoted text", default_factory=dict)
    values: dict[str, dict[str, str]] = config_key(
        "the printed score of each value of a dimension, as quoted text", default_factory=dict
    )

    @classmethod
    def read(cls, node: Node) -> Paper:
        """Reads source, metric and scores. A score is text, so that no digit is lost."""
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
class Logging:
    """Where scores and weights are copied to while the search runs. The run's tables have them in any case."""

    tensorboard: str | None = config_key("a folder for TensorBoard's event files", default=None)
    mlflow: str | None = config_key("the address of an MLflow tracking server or store", default=None)

    @classmethod
    def read(cls, node: Node) -> Logging:
        """Reads `{tensorboard: FOLDER, mlflow: ADDRESS}`, one of them or both."""
        logging = node.fields_of(cls)
        if not logging.options:
            raise node.error("must have tensorboard: FOLDER, mlflow: ADDRESS, or both")
        return logging

    @property
    def options(self) -> list[str]:
        """The options of `raysearch export-logs` that say the same."""
        named = {"--tensorboard": self.tensorboard, "--mlflow": self.mlflow}
        return [word for option, value in named.items() if value for word in (option, value)]


@dataclass(frozen=True, kw_only=True)
class Scheduler(Settings):
    """Which trials are stopped early: none, or the worst of each rung of successive halving."""

    name: str = setting("fifo", "fifo stops no trial; asha stops the worst", choices=tuple(DECLARED_SCHEDULERS))
    grace: int = setting(20, "steps before a trial may be stopped", low=1, unit="step")
    reduction: int = setting(3, "one trial in so many goes on to the next rung, which is so many times longer", low=2)

    @property
    def stops_trials(self) -> bool:
        """Whether the scheduler may stop a trial early."""
        return self.name != "fifo"

    @classmethod
    def read(cls, node: Node) -> Scheduler:
        """Reads `fifo`, `asha`, or `asha: {grace: 20, reduction: 3}`."""
        if isinstance(node.value, str):
            if node.value not in DECLARED_SCHEDULERS:
                raise node.error(f"unknown scheduler {node.value!r}{did_you_mean(node.value, DECLARED_SCHEDULERS)}")
            return cls(name=node.value)
        node.mapping([name for name, names in DECLARED_SCHEDULERS.items() if names])
        if len(node.value) != 1:
            raise node.error("must be fifo, asha, or asha: {grace: ..., reduction: ...}")
        (name,) = node.value
        node[name].mapping(DECLARED_SCHEDULERS[name])
        return node[name].fields_of(cls, {"name": name})

    def to_plain(self) -> object:
        """Returns the short form that `read` reads."""
        names = DECLARED_SCHEDULERS[self.name]
        return {self.name: {name: getattr(self, name) for name in names}} if names else self.name


@dataclass(frozen=True, kw_only=True)
class Resources(Settings):
    """What a trial gets, and how many trials run at a time."""

    workers: int = setting(1, "data-parallel ranks of a trial", low=1)
    cpus: float = setting(1.0, "CPU cores of a rank", low=0)
    gpus: float = setting(0.0, "GPUs of a rank", low=0)
    groups: int = setting(0, "trials at a time; 0: as many as fit", low=0)
