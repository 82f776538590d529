"""Checks of a whole search that hold on any machine: its sections fit together.

Every function raises SpecError with the line of the key that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raysearch.config.arm import Arm, order_dimensions
from raysearch.config.compatibility import (
    has_auxiliaries,
    needs_meta_dev,
    quoted_choice,
)
from raysearch.config.method_validation import check_methods, check_profiles, check_settings_are_used, check_values
from raysearch.config.objective_weights import why_weight_unused
from raysearch.config.parameters import DEFAULTS, INCLUDE_PREFIX, WEIGHT_PREFIX
from raysearch.config.run_validation import check_budget, check_executor, check_runs_folder, check_sampler, check_seeds
from raysearch.config.selection_rules import check_selection
from raysearch.config.trained_part import check_class_settings, check_trained_part
from raysearch.errors import did_you_mean
from raysearch.formatting import describe_value
from raysearch.methods import METHODS, methods_of
from raysearch.modalities import all_modalities, load_modality
from raysearch.modalities.loading import accepts_model, differing_sources
from raysearch.schema.fields import Value
from raysearch.schema.node import Keys, Node
from raysearch.storage.names import LONGEST_NAME
from raysearch.storage.states import ENSEMBLE_ARM, MAIN_ARM

if TYPE_CHECKING:
    from raysearch.config.search_config import Search
    from raysearch.config.sections import Baseline

UNAVERAGED_METRICS = ("r2", "mean_auc")  # of tasks that have no single label
_ARM_NAME = re.compile(r"[a-z][a-z0-9_]*")


def validate_search(search: Search, node: Node) -> None:
    """Raises SpecError for what could not work on any machine."""
    for check in (
        _check_dimensions,
        _check_names,
        check_methods,
        check_settings_are_used,
        check_trained_part,
        check_class_settings,
        check_profiles,
        _check_modalities,
        _check_spaces,
        _check_primitives,
        _check_includes,
        check_values,
        check_budget,
        check_seeds,
        check_selection,
        _check_ensemble,
        check_sampler,
        check_executor,
        check_runs_folder,
        _check_data,
    ):
        check(search, node)


def _check_dimensions(search: Search, node: Node) -> None:
    """Checks that conditions name other dimensions of their arm and values of theirs."""
    _check_dimensions_of(search, node, ())
    for name, baseline in search.baselines.items():
        _check_dimensions_of(baseline, node, ("baselines", name))


def _check_dimensions_of(section: Search | Baseline, node: Node, keys: Keys) -> None:
    """Checks the dimensions that `section`, which stands below `keys`, declares."""
    for name, dimension in section.dimensions.items():
        if name in section.settings:
            raise node.error("is also fixed under `settings:`; leave one out", *keys, "dimensions", name)
        for parent, values in dimension.when.items():
            _check_condition(section, node, (*keys, "dimensions", name, "when", parent), parent, values)
    space = section.dimensions.get("space")
    if space is not None and section.space is not None:
        raise node.error("is also fixed by `space:`; leave one out", *keys, "dimensions", "space")
    if space is not None and space.when:
        problem = "cannot have a condition: every trial with auxiliary objectives needs a space"
        raise node.error(problem, *keys, "dimensions", "space", "when")
    try:
        order_dimensions(section.dimensions)
    except ValueError as error:
        raise node.error(str(error), *keys, "dimensions") from None


def _check_condition(section: Search | Baseline, node: Node, keys: Keys, parent: str, values: Iterable[Value]) -> None:
    """Checks that `parent` is a discrete dimension with these values."""
    if parent not in section.dimensions:
        fixed = getattr(section.method, parent, None) or section.settings.get(parent)
        is_fixed = f"; it is fixed to {fixed!r}" if fixed is not None else ""
        near = is_fixed or did_you_mean(parent, section.dimensions)
        raise node.error(f"is not a dimension of this search{near}", *keys)
    if section.dimensions[parent].type == "float":
        raise node.error("is continuous; `when:` needs a discrete dimension (choice or int)", *keys)
    for value in values:
        if not section.dimensions[parent].holds(value):
            raise node.error(f"{value!r} is not one of the values of {parent}", *keys)


def _check_ensemble(search: Search, node: Node) -> None:
    """Checks that arms can be averaged: there are several, repeated on fresh seeds, and they classify texts."""
    if not search.ensemble:
        return
    if not search.baselines:
        raise node.error("averages the models of several arms, and this search has no baselines", "ensemble")
    if ENSEMBLE_ARM in search.baselines:
        raise node.error("is the name of the ensemble; name the baseline otherwise", "baselines", ENSEMBLE_ARM)
    if search.confirm is None:
        raise node.error("is scored on the fresh seeds of `confirm:`, which is not there", "ensemble")
    if not load_modality(search.task.modality).averages_models or search.task.metric in UNAVERAGED_METRICS:
        raise node.error("averages classifiers of texts with one label, which this task does not have", "ensemble")


def _check_names(search: Search, node: Node) -> None:
    """Checks that baselines have valid names, and that a paper's scores belong to arms and values of this search."""
    for name in search.baselines:
        if not _ARM_NAME.fullmatch(name) or name == MAIN_ARM:
            raise node.error(
                f"the name of a baseline has small letters, digits and _, and is not {MAIN_ARM!r}", "baselines", name
            )
        if len(name) > LONGEST_NAME:
            raise node.error(f"the name of a baseline has at most {LONGEST_NAME} characters", "baselines", name)
    if search.paper is None:
        return
    for arm in search.paper.scores:
        if arm not in (arms := (MAIN_ARM, *search.baselines)):
            raise node.error(f"unknown arm {arm!r}{did_you_mean(arm, arms)}", "paper", "scores", arm)
    for name, printed in search.paper.values.items():
        if name not in search.dimensions:
            raise node.error(f"is not a dimension{did_you_mean(name, search.dimensions)}", "paper", "values", name)
        if (values := search.dimensions[name].values) is None:
            raise node.error(
                "is continuous; scores of single values need a discrete dimension (choice or int)",
                "paper",
                "values",
                name,
            )
        known = [describe_value(value).strip("'") for value in values]
        for value in printed:
            if value not in known:
                raise node.error(
                    f"{value} is not one of the values of {name}{did_you_mean(value, known)}",
                    "paper",
                    "values",
                    name,
                    value,
                )


def _check_modalities(search: Search, node: Node) -> None:
    """Checks that space, model and settings fit the modality of the task."""
    modality = load_modality(search.task.modality)
    for name, space in search.spaces.items():
        if space.modality != modality.name:
            noun = load_modality(space.modality).noun
            problem = f"{name} has objectives on {noun}, and the task is of {modality.noun}"
            raise node.error(problem, *_space_location(search, name))
        if problem := modality.space_problem(search.task, space):
            raise node.error(f"{problem} ({name})", *_space_location(search, name))
    _check_models(search, node)
    for name in modality.unused_settings:
        for under in ("settings", "dimensions"):
            if getattr(search, under).get(name, DEFAULTS[name]) != DEFAULTS[name]:
                raise node.error(f"has no effect on {modality.noun}", under, name)


def _check_models(search: Search, node: Node) -> None:
    """Checks that every model is one for the task, can be trained as its arm asks, and reads the data of the run."""
    modality = load_modality(search.task.modality)
    for keys, model in search.models.items():
        if not accepts_model(modality, model):
            presets = ", ".join(sorted(modality.model_presets))
            problem = f"is no model for {modality.noun}; such as {presets}, or {modality.model_example}"
            raise node.error(problem, *keys)
        if model is search.stored_for or not model.reads_stored:
            continue  # what it reads is there, so nothing has to be imported to find out
        if differing := differing_sources(search.task, search.stored_for, model):
            problem = f"has another {differing} than the model that the run's data are prepared for"
            raise node.error(f"{problem}; compare it in a search of its own", *keys)
    for name, arm in search.arms.items():
        schedules = {methods["schedule"] for methods in arm.method_combinations()}
        if not arm.model.takes_steps and (wrong := sorted(each for each in schedules if METHODS[each].takes_steps)):
            fitting = quoted_choice(each for each, method in methods_of("schedule").items() if not method.takes_steps)
            problem = f"{wrong[0]!r} takes optimizer steps, and this model has nothing to train; use {fitting}"
            raise node.error(problem, *(("baselines", name) if name != MAIN_ARM else ()), "method", "schedule")


def _space_location(search: Search, space: str) -> Keys:
    """Returns where a space is named."""
    if search.space == space:
        return ("space",)
    for name, baseline in search.baselines.items():
        if baseline.space == space:
            return "baselines", name, "space"
        if "space" in baseline.dimensions and space in baseline.dimensions["space"].choices:
            return "baselines", name, "dimensions", "space"
    return "dimensions", "space"


def _check_spaces(search: Search, node: Node) -> None:
    """Checks that every arm with auxiliary objectives has a space, and that every space is used."""
    names = [name for name, arm in search.arms.items() if any(map(has_auxiliaries, arm.method_combinations()))]
    for name in names:
        if not search.arms[name].space and "space" not in search.arms[name].dimensions:
            where: Keys = ("baselines", name) if name != MAIN_ARM else ()
            weightings = quoted_choice(
                m["weighting"] for m in search.arms[name].method_combinations() if has_auxiliaries(m)
            )
            raise node.error(f"weighting {weightings} needs auxiliary objectives: name a space", *where)
    if search.space and not any(search.arms[name].space == search.space for name in names):
        raise node.error(f"no arm uses it: {_without_auxiliaries(search.arms.values())}", "space")
    for name, baseline in search.baselines.items():
        if baseline.space and name not in names:
            unused = f"is not used: {_without_auxiliaries([search.arms[name]])}"
            raise node.error(unused, "baselines", name, "space")


def _without_auxiliaries(arms: Iterable[Arm]) -> str:
    weightings = (methods["weighting"] for arm in arms for methods in arm.method_combinations())
    return f"weighting {quoted_choice(weightings)} has no auxiliaries"


def _check_primitives(search: Search, node: Node) -> None:
    """Checks that every primitive or objective with a weight or an include is in a space."""
    objectives = [each for space in search.spaces.values() for each in space.objectives]
    declared: dict[Keys, str] = {("dimensions", name): name for name in search.dimensions}
    declared |= {("settings", name): name for name in search.settings}
    for arm, baseline in search.baselines.items():
        declared |= {("baselines", arm, "dimensions", name): name for name in baseline.dimensions}
    for keys, name in declared.items():
        if name.startswith(WEIGHT_PREFIX) and (problem := why_weight_unused(name, objectives)):
            raise node.error(problem, *keys)
        stage, _, primitive = name.removeprefix(INCLUDE_PREFIX).partition(".")
        known = sorted({p for space in search.spaces.values() for p in space.stages.get(stage, ())})
        if name.startswith(INCLUDE_PREFIX) and primitive not in known:
            every = {*known, *(p for modality in all_modalities() for p in modality.taxonomy.stages.get(stage, ()))}
            if primitive not in every:
                raise node.error(f"unknown primitive {primitive!r}{did_you_mean(primitive, every)}", *keys)
            raise node.error(f"{primitive!r} is not in the space{did_you_mean('', known)}", *keys)


def _check_includes(search: Search, node: Node) -> None:
    """Checks that fixed includes leave at least one objective."""
    for name, arm in search.arms.items():
        include = {
            k.removeprefix(INCLUDE_PREFIX): bool(v) for k, v in arm.settings.items() if k.startswith(INCLUDE_PREFIX)
        }
        if include and arm.space in search.spaces:
            try:
                search.spaces[arm.space].restrict(include)
            except ValueError as error:
                raise node.error(str(error), *(("baselines", name) if name != MAIN_ARM else ()), "settings") from None


def _check_data(search: Search, node: Node) -> None:
    """Checks that there are dev examples for what needs them."""
    meta = [m["weighting"] for arm in search.arms.values() for m in arm.method_combinations() if needs_meta_dev(m)]
    if meta and search.task.meta_dev == 0:
        problem = f"weighting {meta[0]!r} needs dev examples of its own: give a share above 0"
        raise node.error(problem, "task", "meta_dev")
    split = search.task.split
    if split is not None and split.get("dev") == 0 and search.task.dev is None:
        raise node.error(
            "leaves no dev examples for model selection: give a share above 0, or a `dev:` file", "task", "split", "dev"
        )
