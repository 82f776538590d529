"""A declared search: end task, model, space, methods, dimensions, budget, and how it runs.

`Search.to_dict` is the declaration, resolved and with its spaces. A run stores it, `from_dict` reads it back as equal,
and it may itself be launched. `loading` reads a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raysearch.config.arm import Arm, baseline_arm, order_dimensions
from raysearch.config.dimension import Dimension
from raysearch.config.expansion import expand_weights, load_spaces
from raysearch.config.incumbents import read_baselines
from raysearch.config.parameters import INCLUDE_PREFIX, WEIGHT_PREFIX, fixed_settings
from raysearch.config.sections import (
    DECLARED_SAMPLERS,
    Baseline,
    Budget,
    Confirm,
    Executor,
    Logging,
    MethodSpec,
    Paper,
    Resources,
    Scheduler,
)
from raysearch.config.selection import Selection
from raysearch.config.synonyms import refuse_synonyms
from raysearch.formatting import html_page, html_table
from raysearch.methods import FAMILIES
from raysearch.methods.profiles import Profile
from raysearch.modalities import load_modality
from raysearch.modalities.base import ModelConfig, TaskConfig
from raysearch.modalities.loading import read_model, read_task
from raysearch.objectives.primitive import DEFAULT_MODALITY
from raysearch.objectives.space import Space
from raysearch.objectives.trust import trust
from raysearch.plan import TrialPlan, model_identity
from raysearch.schema.fields import Value, config_key, late_defaults
from raysearch.schema.node import Keys, Node, to_plain
from raysearch.storage.cells import NO_FOLD, Cell
from raysearch.storage.states import MAIN_ARM, TrialRole


@dataclass(frozen=True, kw_only=True)
class Search:
    """A declared search. `loading` also validates it; `launch` does so for a search that was built in Python."""

    name: str = config_key("the name of the run; the file's name, if not given")
    task: TaskConfig = config_key("the end task: the name of a built-in task, or files")
    model: ModelConfig = config_key("the encoder: the name of a built-in model, or where it comes from")
    method: MethodSpec = config_key(
        "weighting x surgery x schedule; a family that is a dimension is left out", default_factory=MethodSpec
    )
    space: str | None = config_key("the space of auxiliary objectives, by name or path", default=None)
    spaces: dict[str, Space] = config_key("spaces declared within the search, by name", default_factory=dict)
    profile: Profile | None = config_key(
        "settings as a paper's text or its authors' code has them, or those of a recipe, where the search gives none",
        default=None,
    )
    settings: dict[str, Value] = config_key("fixed settings, by name", default_factory=dict)
    dimensions: dict[str, Dimension] = config_key(
        "what is searched: settings, methods, primitives or weights, and their values", default_factory=dict
    )
    baselines: dict[str, Baseline] = config_key(
        "further arms by name, each a method to compare with; names of shipped ones, or incumbents for all that fit",
        default_factory=dict,
    )
    budget: Budget = config_key("when the main arm ends", default_factory=Budget)
    seeds: tuple[int, ...] = config_key("seeds that every configuration is trained with", default=(0,))
    selection: Selection = config_key(
        "what scores a configuration: select_dev (none), folds of all labelled rows, or either by their number (auto)",
        default=Selection(),
        is_late=True,
    )
    confirm: Confirm | None = config_key("train the best configuration of every arm again on fresh seeds", default=None)
    ensemble: bool = config_key(
        "also average the models of all arms, by weights that held-out rows give", default=False, is_late=True
    )
    sampler: str = config_key("how configurations are drawn", default="tpe", choices=tuple(DECLARED_SAMPLERS))
    sampler_seed: int = config_key("the sampler's seed", default=0)
    scheduler: Scheduler = config_key("which trials are stopped early", default_factory=Scheduler)
    resources: Resources = config_key("what a trial gets, and how many run at a time", default_factory=Resources)
    executor: Executor = config_key(
        "where trials run: in long-lived worker groups (fleet), in a Ray Train run each (train_run), or one after "
        "another in this process without Ray (in_process)",
        default="fleet",
    )
    runs: str = config_key("the folder of runs, relative to the current folder", default="runs")
    keep: int = config_key("trained models that are kept, the best ones; -1 keeps all", default=3, low=-1)
    paper: Paper | None = config_key("what a paper printed of the same comparison, for the reports", default=None)
    logging: Logging | None = config_key(
        "trackers that get a copy of scores and weights while the search runs", default=None, is_late=True
    )

    @classmethod
    def read(cls, node: Node, folder: Path = Path()) -> Search:
        """Reads the search that a mapping declares; a space file may be relative to `folder`.

        Raises SpecError for the first section that is wrong. `validation` checks what concerns several sections.
        """
        refuse_synonyms(node, cls)
        settings = fixed_settings(node["settings"]) if "settings" in node else {}
        readers: dict[str, Callable[[Node], Any]] = {"task": read_task, "model": read_model}
        sections = {name: read(node[name]) for name, read in readers.items() if name in node}
        if "baselines" in node and sections.keys() >= {"task", "model"}:
            sections["baselines"] = read_baselines(node["baselines"], sections["task"], sections["model"])
        search = node.fields_of(cls, {**sections, "settings": settings, "spaces": {}})
        if "name" not in node:
            raise node.error("the key 'name' is missing")
        searched = {family: "" for family in FAMILIES if family in search.dimensions}
        for family in searched:
            if "method" in node and family in node["method"]:
                raise node.error(f"{family} is also fixed under `method:`; leave one out", "dimensions", family)
        search = replace(
            search,
            model=load_modality(search.task.modality).complete_model(search.model),
            method=replace(search.method, **searched),
            spaces=load_spaces(node, search.space, search.dimensions, search.baselines, folder),
        )
        baselines = {
            name: replace(each, dimensions=dict(expand_weights(each.dimensions, each.settings, search.spaces)))
            for name, each in search.baselines.items()
        }
        dimensions = dict(expand_weights(search.dimensions, search.settings, search.spaces))
        search = replace(search, dimensions=dimensions, baselines=baselines)
        if not search.dimensions and search.budget.trials is None:
            search = replace(search, budget=replace(search.budget, trials=1))
        return search

    @classmethod
    def from_dict(cls, declared: Mapping[str, Any]) -> Search:
        """Returns the search that `to_dict` wrote, or that a program declares with the keys of a file."""
        return cls.read(Node(dict(declared)))

    @classmethod
    def from_stored(cls, declared: Mapping[str, Any]) -> Search:
        """Returns the search that a run has stored, perhaps by an earlier version."""
        kind = declared["task"].get("kind", DEFAULT_MODALITY)
        return cls.from_dict({**declared, "model": load_modality(kind).stored_model(declared["model"])}).as_stored()

    def as_stored(self) -> Search:
        """Returns the search as one that a run's folder declares: no Python file that it names is the user's choice."""
        spaces = {
            name: replace(
                space, user_primitives=space.user_primitives and replace(space.user_primitives, is_named=False)
            )
            for name, space in self.spaces.items()
        }
        return replace(self, spaces=spaces)

    def trust_named_files(self) -> None:
        """Lets the Python files of primitives run that the user's own files declare by their paths."""
        primitives = [space.user_primitives for space in self.spaces.values()]
        trust(each.sha256 for each in primitives if each is not None and each.is_named)

    def to_dict(self) -> dict[str, Any]:
        """Returns the declaration, resolved, in values that JSON can hold."""
        declared: dict[str, Any] = to_plain(self)
        return declared

    @property
    def fingerprint(self) -> str:
        """The sha256 of what the search does: of everything but its name, folders, trackers and a paper's scores."""
        text = json.dumps(self._fingerprint_fields(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Search) -> list[str]:
        """Returns a line for every key that differs in `other`, such as `budget.trials: 16 -> 32`."""
        before, after = dict(_leaves(self._fingerprint_fields())), dict(_leaves(other._fingerprint_fields()))
        keys = sorted({*before, *after})
        absent = "not there"
        return [
            f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
            for key in keys
            if before.get(key) != after.get(key)
        ]

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The main arm, then the baselines."""
        main = Arm(
            name=MAIN_ARM,
            trials=self.budget.trials,
            model=self.model,
            method=self.method,
            space=self.space or "",
            settings=self.settings,
            dimensions=order_dimensions(self.dimensions),
            spaces=self.spaces,
            profile=self.profile,
        )
        return {MAIN_ARM: main} | {name: baseline_arm(name, each, main) for name, each in self.baselines.items()}

    @property
    def models(self) -> dict[Keys, ModelConfig]:
        """Every model that is declared, by where it is: that of the search, then those of baselines."""
        models: dict[Keys, ModelConfig] = {("model",): self.model}
        of_baselines = {("baselines", name, "model"): each.model for name, each in self.baselines.items()}
        return models | {keys: model for keys, model in of_baselines.items() if model is not None}

    @property
    def stored_for(self) -> ModelConfig:
        """The model that the run's data are prepared for: the first that reads examples as they are stored."""
        return next((model for model in self.models.values() if model.reads_stored), self.model)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The trainings by which every configuration is scored, in the order in which it earns them."""
        return self.selection.cells(self.seeds)

    @property
    def scores_at_found_step(self) -> bool:
        """Whether a fresh seed is scored at the step where the search found the configuration best."""
        return self.confirm is not None and self.confirm.score_at == "found_step"

    @property
    def final_cells(self) -> tuple[tuple[str, Cell], ...]:
        """The trainings of an arm's best configuration, with their roles: on fresh seeds, and on all labelled rows.

        With selection a fresh seed is a fresh partition, all folds of which confirm.
        """
        fresh = self.selection.fresh_cells(self.confirm.seeds if self.confirm else ())
        refits = self.selection.folds > 0 and self.keep != 0
        refit = [(TrialRole.REFIT, Cell(self.seeds[0]))] if refits else []
        return (*((TrialRole.CONFIRM, cell) for cell in fresh), *refit)

    def resolve(
        self,
        arm: str,
        params: Mapping[str, Any],
        *,
        number: int,
        seed: int,
        role: str = TrialRole.SEARCH,
        fold: int = NO_FOLD,
        data: str = "",
        labels: int | list[str] = 0,
    ) -> TrialPlan:
        """Returns the plan of a draw: every default filled in, and no setting that its methods do not use.

        With selection, a trial of no fold trains on all labelled rows.

        Raises ValueError for an impossible draw: incomplete, k > m, or without an objective.
        """
        configuration = self.arms[arm].configure(params)
        return TrialPlan(
            number=number,
            seed=seed,
            arm=arm,
            role=role,
            **configuration.methods,
            objectives=configuration.objectives,
            settings=configuration.settings,
            params=configuration.params,
            task={"name": self.task.name, "data": data, "metric": self.task.metric, "labels": labels},
            model=load_modality(self.task.modality).plan_model(self.arms[arm].model),
            workers=self.resources.workers,
            primitives=configuration.primitives,
            weights=configuration.weights,
            folds=self.selection.folds,
            fold=fold,
            score_step=0,
        )

    def single_trial(self, arm: str, params: Mapping[str, Any], *, seed: int, name: str = "") -> Search:
        """Returns the search that trains one configuration of this search once; an export contains it."""
        source = self.arms[arm]
        configuration = source.configure(params)
        space = str(configuration.params.get("space", source.space)) if configuration.objectives else ""
        values = {**source.settings, **configuration.params}
        of_space = {key: value for key, value in values.items() if key.startswith((INCLUDE_PREFIX, WEIGHT_PREFIX))}
        return replace(
            self,
            name=name or self.name,
            model=source.model,
            method=MethodSpec(**configuration.methods),
            space=space or None,
            spaces={space: self.spaces[space]} if space else {},
            profile=None,
            settings=configuration.settings | (of_space if space else {}),
            dimensions={},
            baselines={},
            budget=Budget(trials=1),
            seeds=(seed,),
            confirm=None,
            paper=None,
            logging=None,
            sampler="tpe",
            scheduler=Scheduler(),
        )

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the arms with their methods and counts, and the dimensions."""
        arms = [
            {
                "arm": arm.name,
                "method": " or ".join(" x ".join(each.values()) for each in arm.method_combinations()),
                "configurations": arm.trials,
                "dimensions": ", ".join(arm.dimensions),
            }
            for arm in self.arms.values()
        ]
        dimensions = [{"dimension": name, **each.to_plain()} for name, each in self.dimensions.items()]
        return html_page(
            f"search {self.name}",
            [f"{self.task.name}, {self.task.metric}; sampler {self.sampler}"],
            html_table(arms),
            html_table(dimensions),
        )

    def _fingerprint_fields(self) -> dict[str, Any]:
        declared = {key: value for key, value in self.to_dict().items() if key not in _NOT_DONE}
        declared["model"] = model_identity(declared["model"])
        declared["task"] = {key: value for key, value in declared["task"].items() if key != "base"}
        late = late_defaults(type(self))
        declared = {key: value for key, value in declared.items() if key not in late or value != to_plain(late[key])}
        if confirm := declared.get("confirm"):
            late = late_defaults(Confirm)
            declared["confirm"] = {key: value for key, value in confirm.items() if late.get(key) != value}
        for space in declared.get("spaces", {}).values():
            if "primitives" in space:  # the same file may lie elsewhere
                space["primitives"] = {key: value for key, value in space["primitives"].items() if key != "file"}
        return declared


_NOT_DONE = ("name", "runs", "paper", "logging")  # keys that change nothing that the search does


def _leaves(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yields the dotted key of every value in a tree of mappings, and the value as JSON."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))
    else:
        yield ".".join(keys), json.dumps(tree, ensure_ascii=False)
