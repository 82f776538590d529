"""The protocol of a modality, and what the declarations of tasks and models share."""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from raysearch.errors import RunError
from raysearch.models.findings import Finding
from raysearch.models.model_folder import config_findings
from raysearch.objectives.primitive import EXTRA, Taxonomy
from raysearch.schema.fields import NoSettings, Settings, config_key, setting
from raysearch.schema.node import Keys, Node, to_plain

if TYPE_CHECKING:
    from torch import Tensor

    from raysearch.data.pipeline import Preparation
    from raysearch.data.prepared import Split
    from raysearch.modalities.batch import BatchBuilder, OpenSplit
    from raysearch.modalities.drafting import Draft, DraftRequest
    from raysearch.models.network import Network
    from raysearch.objectives.space import Space
    from raysearch.plan import TrialPlan


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """An end task as a search declares it: the keys that all modalities share.

    A relative path is looked for under the data root, then in `base`.
    """

    modality: ClassVar[str]

    name: str = config_key("the name of the task; of a built-in task where there are no files")
    train: str | None = config_key("the file of the training data", default=None)
    dev: str | None = config_key("the file of the dev data", default=None)
    test: str | None = config_key("the file of the test data", default=None)
    metric: str = config_key("the score that is maximised", default="accuracy")
    split: dict[str, float] | None = config_key(
        "shares for dev and test where they have no file of their own", default=None
    )
    meta_dev: float = setting(0.5, "share of dev that meta-gradients look at; the rest selects", low=0, high=0.9)
    base: str = config_key(
        "the folder that relative paths start from; that of the search file, if not given", default=""
    )

    @property
    def has_unlabelled(self) -> bool:
        """Whether it declares unlabelled text of its domain."""
        return False

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the task that a mapping declares, without its key `kind:`. Raises SpecError."""
        task = node.fields_of(cls)
        check_split(task.split, node)
        return task

    def to_plain(self) -> dict[str, Any]:
        """Returns what `loading.read_task` reads."""
        parts = {field.name: to_plain(getattr(self, field.name)) for field in fields(self)}
        return {name: part for name, part in parts.items() if part not in (None, "", {}, [])}

    def missing_packages(self) -> Iterable[tuple[str, Keys]]:
        """Returns a problem for each package that the task needs and this machine lacks, with the key below task."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An encoder as a search declares it."""

    own_keys: ClassVar[tuple[str, ...]]  # a declaration with one of these keys is of this class
    settings: ClassVar[type[Settings]] = NoSettings  # that its trials have besides those of training and methods
    unused_settings: ClassVar[tuple[str, ...]] = ()  # settings of training that have no effect on it
    takes_steps: ClassVar[bool] = True  # its body has parameters; otherwise a trial can only fit its head
    reads_stored: ClassVar[bool] = True  # reads examples as stored for one model, not what they were made from

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the model that a mapping declares. Raises SpecError."""
        return node.fields_of(cls)

    def to_plain(self) -> dict[str, Any]:
        """Returns what `loading.read_model` reads, and what a plan holds."""
        parts = {field.name: to_plain(getattr(self, field.name)) for field in fields(self)}
        return {name: part for name, part in parts.items() if part not in (None, "", {}, [])}

    @property
    def is_pretrained(self) -> bool:
        """Are the parameters of its body loaded, not drawn?"""
        return False

    def missing_packages(self) -> Iterable[tuple[str, Keys]]:
        """Returns a problem for each package that the model needs and this machine lacks, with the key below model."""
        return ()


@dataclass(frozen=True, kw_only=True)
class HuggingFaceModel(ModelConfig):
    """A Hugging Face encoder: built from a config, or loaded from a path or a hub name."""

    own_keys: ClassVar[tuple[str, ...]] = ("config", "path")

    config: dict[str, Any] | None = config_key(
        "the Hugging Face config of a randomly initialised encoder", default=None
    )
    path: str | None = config_key("a folder or hub name to load the encoder from", default=None)
    layers: int = setting(0, "layers kept of a loaded encoder, from the input; 0 all", low=0)

    @classmethod
    def read(cls, node: Node) -> Self:
        """Returns the encoder that a mapping declares. Raises SpecError."""
        model = node.fields_of(cls)
        if sum(source is not None for source in model.sources) != 1:
            raise node.error("must have one of config, path and package")
        if model.config is not None and not isinstance(model.config.get("model_type"), str):
            raise node.error("the key 'model_type' is missing, such as bert or roberta", "config")
        if model.config is not None and model.layers:
            raise node.error("is declared by num_hidden_layers of the config", "layers")
        return model

    @property
    def sources(self) -> tuple[object, ...]:
        """What the encoder is made from; one of them is not None."""
        return self.config, self.path

    @property
    def is_pretrained(self) -> bool:
        """Are the parameters of its body loaded, not drawn?"""
        return self.config is None

    @property
    def model_type(self) -> str:
        """Hugging Face's name of the architecture, such as bert; empty if it is known only once the model is loaded."""
        return str(self.config["model_type"]) if self.config else ""

    def to_plain(self) -> dict[str, Any]:
        """Returns what `read` reads, and what a plan holds."""
        parts = {field.name: to_plain(getattr(self, field.name)) for field in fields(self)}
        return {name: part for name, part in parts.items() if part}


@dataclass(frozen=True)
class CardFacts:
    """The facts that a model card states of an exported model."""

    library: str  # that loads the model, such as transformers
    pipeline: str  # Hugging Face's name of the task, such as text-classification
    task: str  # in words, such as "Sequence classification"
    encoder: str  # in words, such as "bert"
    loaded_from: str | None  # None for an encoder that was randomly initialised
    usage: str  # Python that loads and uses the model
    start: str = ""  # what it is and how it began, in words, where it is no encoder


class OnnxWriter(Protocol):
    """A function that writes an exported model as ONNX too."""

    def __call__(self, folder: Path, split: Split, metadata: Mapping[str, Any]) -> float:
        """Writes model.onnx beside the model that `folder` holds; `metadata` is what data.json holds.

        Returns the largest difference between the logits of both on padded examples of a split. Raises RunError if it
        is too large, or the model cannot be converted.
        """


class Modality(ABC):
    """A modality: everything that raysearch knows about one kind of data.

    An implementation imports torch only within the methods that need it, so that `check`, `ls` and `show` do not.
    """

    name: ClassVar[str]  # `kind:` in YAML
    noun: ClassVar[str]  # its data in messages, such as "images"
    taxonomy: ClassVar[Taxonomy]
    model_example: ClassVar[str] = "{path: NAME}"  # a declaration of a model that is no preset
    hugging_face_types: ClassVar[frozenset[str]] = frozenset()  # `model_type`s that are known to be of this modality
    unused_settings: ClassVar[tuple[str, ...]] = ()  # settings that have no effect on its tasks
    averages_models: ClassVar[bool] = False  # whether several exported models can be one

    # ---- what a search declares ----

    @property
    @abstractmethod
    def task_config(self) -> type[TaskConfig]:
        """The class of its tasks' declarations."""

    @property
    @abstractmethod
    def model_configs(self) -> tuple[type[ModelConfig], ...]:
        """The classes of its models' declarations."""

    def complete_model(self, model: ModelConfig) -> ModelConfig:
        """Returns the model with what is only known once the task's modality is."""
        return model

    def stored_model(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the declaration of a model that a run has stored, as this version reads it."""
        return dict(declared)

    def plan_model(self, model: ModelConfig) -> dict[str, Any]:
        """Returns what a plan holds of the model."""
        return model.to_plain()

    @property
    @abstractmethod
    def task_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of tasks by name, each with `kind:` unless it is the default modality."""

    @property
    @abstractmethod
    def model_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of models by name."""

    def model_findings(self, model: ModelConfig, max_length: int, classes: int | None = None) -> Iterator[Finding]:
        """Yields what the declaration of a model and its files say, without torch: why it cannot be used, and remarks.

        `max_length` is the largest one of the search; `classes` the number of the end task's labels, once it is known.
        """
        del max_length, classes
        if isinstance(model, HuggingFaceModel) and model.config:
            yield from config_findings(model.config, ("config",))

    def config_findings(self, model: ModelConfig) -> Iterator[Finding]:
        """Yields what the libraries that build a declared model say of its configuration, before it is built."""
        if isinstance(model, HuggingFaceModel) and model.config:
            from raysearch.models.huggingface import declared_findings

            yield from declared_findings(model.config)

    def network_findings(self, network: Network, plan: TrialPlan, metadata: Mapping[str, Any]) -> Iterator[Finding]:
        """Yields what a plan's network shows that is built, by small forward passes for instance."""
        del network, plan, metadata
        yield from ()

    def space_problem(self, task: TaskConfig, space: Space) -> str:
        """Returns why the task cannot have the objectives of the space, of the same modality; empty if it can."""
        del task, space
        return ""

    # ---- prepared data ----

    @property
    @abstractmethod
    def preparation(self) -> Preparation[Any, Any]:
        """How its data are read, split, written and opened."""

    def draft(self, request: DraftRequest) -> Draft | str:
        """Returns a search for a user's file, or why the file is none of this modality. Torch-free."""
        del request
        return f"a search on {self.noun} cannot be drafted"

    def label_names(self, task: TaskConfig, splits: Mapping[str, Any]) -> list[str]:
        """Returns the end task's labels in the splits that the preparation has read; torch-free.

        Raises SpecError for what `preparation.write_splits` refuses, such as a held-out row with another label.
        """
        del task, splits
        return []

    def token_lengths(self, model: ModelConfig, splits: Mapping[str, Any]) -> tuple[list[int], bool]:
        """Returns the lengths of train's texts in tokens, or of some of them, and whether they are estimated.

        It is torch-free and takes less than a second. Without texts there are no lengths.
        """
        del model, splits
        return [], False

    # ---- training ----

    @abstractmethod
    def batch_builder(self, plan: TrialPlan, metadata: Mapping[str, Any], open_split: OpenSplit) -> BatchBuilder:
        """Returns the builder of a trial's batches; `metadata` is what data.json holds."""

    @abstractmethod
    def network(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> Network:
        """Returns the plan's network, randomly initialised or loaded."""

    # ---- export ----

    @property
    def no_export(self) -> str:
        """Why models of this modality are not exported; empty if they are."""
        return f"models of {self.noun} are not exported"

    def export(self, network: Network, plan: TrialPlan, metadata: Mapping[str, Any], data: Path, folder: Path) -> None:
        """Writes body and end-task head of `network` to `folder`; `data` is the folder of prepared data."""
        raise NotImplementedError(self.no_export)

    def predict(
        self, folder: Path, split: Split, plan: TrialPlan, metadata: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Returns logits and labels of a split, by the model that `folder` holds, loaded as its users will load it."""
        raise NotImplementedError(self.no_export)

    def onnx_writer(self, plan: TrialPlan) -> OnnxWriter:
        """Returns what writes the exported model of a plan as ONNX too.

        Raises RunError where there is no such form, or a package is missing.
        """
        del plan
        raise RunError(f"a model of {self.noun} has no ONNX form here; export without --onnx")

    def card_facts(self, plan: TrialPlan) -> CardFacts:
        """Returns the facts that a model card states of the plan's model."""
        raise NotImplementedError(self.no_export)


def is_missing(package: str) -> bool:
    """Returns whether the package is not installed."""
    return importlib.util.find_spec(package) is None


def check_split(split: Mapping[str, float] | None, node: Node) -> None:
    """Raises SpecError unless a task's `split` gives dev and test shares that leave some examples to train on."""
    if split is None:
        return
    node["split"].mapping(("dev", "test"))
    for part, share in split.items():
        if not 0 <= share < 1:
            raise node.error(f"must be a share in [0, 1), got {share:g}", "split", part)
    if sum(split.values()) >= 1:
        total = math.fsum(split.values())
        raise node.error(f"nothing is left to train on: the shares sum to {total:g}", "split")


def check_extra(names: Iterable[str], node: Node) -> None:
    """Raises SpecError for names of a task's `extra` data sets that no objective can have."""
    for name in names:
        if not EXTRA.fullmatch(f"extra_{name}"):
            raise node.error("a name has only small letters, digits and _", "extra", name)
