"""A search as declared: end task, model, space, method, dimensions, budget, and how it runs.

`load_search` reads a file of the catalog or a user's own and refuses what cannot work, before anything starts.
`Search.to_dict` is the same declaration resolved and self-contained (its spaces included): what a run stores, what
`from_dict` reads back as equal, and what may itself be launched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raysearch.config.arm import Arm, order_dimensions
from raysearch.config.compatibility import uses_setting
from raysearch.config.dimension import Dimension
from raysearch.config.expansion import expand_weights, load_spaces
from raysearch.config.parameters import INCLUDE_PREFIX, WEIGHT_PREFIX, fixed_settings
from raysearch.config.sections import (
    DECLARED_SAMPLERS,
    Baseline,
    Budget,
    Confirm,
    Executor,
    MethodSpec,
    Paper,
    Resources,
    Scheduler,
)
from raysearch.methods import FAMILIES
from raysearch.methods.profiles import Profile
from raysearch.modalities.base import ModelConfig, TaskConfig
from raysearch.modalities.loading import read_model, read_task
from raysearch.objectives.space import Space
from raysearch.plan import TrialPlan
from raysearch.schema.fields import Value, config_key
from raysearch.schema.node import Node, to_plain
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
        "settings as a paper's text or its authors' code has them, where the search gives none", default=None
    )
    settings: dict[str, Value] = config_key("fixed settings, by name", default_factory=dict)
    dimensions: dict[str, Dimension] = config_key(
        "what is searched: settings, methods, primitives or weights, and their values", default_factory=dict
    )
    baselines: dict[str, Baseline] = config_key(
        "further arms by name, each a method to compare with", default_factory=dict
    )
    budget: Budget = config_key("when the main arm ends", default_factory=Budget)
    seeds: tuple[int, ...] = config_key("seeds that every configuration is trained with", default=(0,))
    confirm: Confirm | None = config_key("train the best configuration of every arm again on fresh seeds", default=None)
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

    @classmethod
    def read(cls, node: Node, folder: Path = Path()) -> Search:
        """The search that a mapping declares, space files looked for in `folder` too.

        SpecError for the first thing that is wrong with it.
        """
        settings = fixed_settings(node["settings"]) if "settings" in node else {}
        readers: dict[str, Callable[[Node], Any]] = {"task": read_task, "model": read_model}
        sections = {name: read(node[name]) for name, read in readers.items() if name in node}
        search = node.fields_of(cls, {**sections, "settings": settings, "spaces": {}})
        if "name" not in node:
            raise node.error("the key 'name' is missing")
        searched = {family: "" for family in FAMILIES if family in search.dimensions}
        for family in searched:
            if "method" in node and family in node["method"]:
                raise node.error(f"{family} is also fixed under `method:`; leave one out", "dimensions", family)
        search = replace(
            search,
            method=replace(search.method, **searched),
            spaces=load_spaces(node, search.space, search.dimensions, search.baselines, folder),
        )
        search = replace(search, dimensions=dict(expand_weights(search.dimensions, search.settings, search.spaces)))
        if not search.dimensions and search.budget.trials is None:
            search = replace(search, budget=replace(search.budget, trials=1))
        return search

    @classmethod
    def from_dict(cls, declared: Mapping[str, Any]) -> Search:
        """The search that `to_dict` wrote, or that a program declares in the words of a file."""
        return cls.read(Node(dict(declared)))

    def to_dict(self) -> dict[str, Any]:
        """The declaration, resolved and JSON-able."""
        declared: dict[str, Any] = to_plain(self)
        return declared

    @property
    def fingerprint(self) -> str:
        """The sha256 of what the search does: all but its name, its folders and what a paper found."""
        text = json.dumps(self._fingerprint_fields(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Search) -> list[str]:
        """One line for every key that `other` has otherwise: `budget.trials: 16 -> 32`; empty if the same search."""
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
        """The search proper under "search", then the baselines."""
        ordered = order_dimensions(self.dimensions)
        proper = Arm(
            name=MAIN_ARM,
            trials=self.budget.trials,
            method=self.method,
            space=self.space or "",
            settings=self.settings,
            dimensions=ordered,
            spaces=self.spaces,
            profile=self.profile,
        )
        return {MAIN_ARM: proper} | {name: self._baseline(name, ordered) for name in self.baselines}

    def resolve(
        self,
        arm: str,
        params: Mapping[str, Any],
        *,
        number: int,
        seed: int,
        role: str = TrialRole.SEARCH,
        data: str = "",
        labels: int | list[str] = 0,
    ) -> TrialPlan:
        """The plan of a draw: every default filled in, what its methods do not use left out.

        Raises ValueError for an impossible draw: incomplete, k > m, no objective left.
        """
        drawn = self.arms[arm].configure(params)
        return TrialPlan(
            number=number,
            seed=seed,
            arm=arm,
            role=role,
            **drawn.methods,
            objectives=drawn.objectives,
            settings=drawn.settings,
            params=drawn.params,
            task={"name": self.task.name, "data": data, "metric": self.task.metric, "labels": labels},
            model=self.model.to_plain(),
            workers=self.resources.workers,
            primitives=drawn.primitives,
            weights=drawn.weights,
        )

    def single_trial(self, arm: str, params: Mapping[str, Any], *, seed: int, name: str = "") -> Search:
        """The search that trains one configuration of this one, once: what an export gives to others."""
        of, drawn = self.arms[arm], self.arms[arm].configure(params)
        space = str(drawn.params.get("space", of.space)) if drawn.objectives else ""
        named = {**of.settings, **drawn.params}.items()
        include = {key: value for key, value in named if key.startswith((INCLUDE_PREFIX, WEIGHT_PREFIX))}
        return replace(
            self,
            name=name or self.name,
            method=MethodSpec(**drawn.methods),
            space=space or None,
            spaces={space: self.spaces[space]} if space else {},
            profile=None,
            settings=drawn.settings | (include if space else {}),
            dimensions={},
            baselines={},
            budget=Budget(trials=1),
            seeds=(seed,),
            confirm=None,
            paper=None,
            sampler="tpe",
            scheduler=Scheduler(),
        )

    def _baseline(self, name: str, ordered: Mapping[str, Dimension]) -> Arm:
        """A baseline with what it shares with the search: fixed settings and dimensions that its method uses."""
        own = self.baselines[name]
        methods = own.method.fixed
        shared = {key: value for key, value in self.settings.items() if uses_setting(methods, key)}
        settings = shared | own.settings
        kept: dict[str, Dimension] = {}
        for dimension in ordered.values():
            fixed = (
                dimension.name in settings or dimension.name in FAMILIES or (dimension.name == "space" and own.space)
            )
            known = settings | methods | ({"space": own.space} if own.space else {})
            met = {parent: known[parent] in values for parent, values in dimension.when.items() if parent in known}
            open_ = {parent: values for parent, values in dimension.when.items() if parent not in known}
            if (
                not fixed
                and all(met.values())
                and uses_setting(methods, dimension.name)
                and kept.keys() >= open_.keys()
            ):
                kept[dimension.name] = replace(dimension, when=open_)
        return Arm(
            name=name,
            trials=own.trials if own.trials is not None or kept else 1,
            method=own.method,
            space=own.space or self.space or "",
            settings=settings,
            dimensions=kept,
            spaces=self.spaces,
            profile=own.profile or self.profile,
        )

    def _fingerprint_fields(self) -> dict[str, Any]:
        essence = {key: value for key, value in self.to_dict().items() if key not in ("name", "runs", "paper")}
        essence["task"] = {key: value for key, value in essence["task"].items() if key != "base"}
        for space in essence.get("spaces", {}).values():
            if "primitives" in space:  # wherever the file lies
                space["primitives"] = {key: value for key, value in space["primitives"].items() if key != "file"}
        return essence


def _leaves(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Dotted key and value, as JSON, of everything in a tree of mappings."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))
    else:
        yield ".".join(keys), json.dumps(tree, ensure_ascii=False)
