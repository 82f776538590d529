"""Checks of methods and the settings that they use.

Every function raises SpecError with the line of the key that is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from raysearch.config.arm import Arm
from raysearch.config.compatibility import (
    Methods,
    has_auxiliaries,
    needs_meta_dev,
    quoted_choice,
    why_incompatible,
)
from raysearch.config.dimension import Dimension
from raysearch.config.parameters import DEFAULTS, MODEL_SETTINGS, PHASE_LENGTHS, SETTINGS, WEIGHT_PREFIX
from raysearch.methods import DEFAULT_METHODS, FAMILIES, METHODS
from raysearch.methods.profiles import BUNDLES, bundle
from raysearch.schema.fields import Value
from raysearch.schema.node import Keys, Node
from raysearch.storage.states import MAIN_ARM
from raysearch.training_settings import JOINT_PHASE, MAIN_PHASE, OPTIMIZER_STEPS

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

# settings whose values some methods cannot be combined with
METHOD_DEPENDENT = ("engine", "task_clip", "batch_split", "similarity", "precision", "trained_layers")


def check_methods(search: Search, node: Node) -> None:
    """Checks that fixed methods can be combined."""
    places: list[tuple[Keys, Mapping[str, str]]] = [(("method",), search.method.fixed)]
    places += [(("baselines", name, "method"), b.method.fixed) for name, b in search.baselines.items()]
    for keys, fixed in places:
        if len(fixed) < len(FAMILIES):
            continue
        if not has_auxiliaries(fixed) and fixed["surgery"] != DEFAULT_METHODS["surgery"]:
            weighting, surgery = fixed["weighting"], fixed["surgery"]
            problem = f"surgery {surgery!r} changes auxiliary gradients, and weighting {weighting!r} has none"
            raise node.error(problem, *keys, "surgery")
        micro_batches = {k: v for k, v in search.settings.items() if k == "micro_batches"}
        if reason := why_incompatible(fixed, micro_batches):
            raise node.error(reason, *keys, reason.split()[0])


def check_settings_are_used(search: Search, node: Node) -> None:
    """Checks that every setting and dimension is used by a method that a trial can have."""
    arm = search.arms[MAIN_ARM]
    for name in (*search.dimensions, *search.settings):
        under = "dimensions" if name in search.dimensions else "settings"
        if not any(arm.uses(methods, name) for methods in arm.method_combinations()):
            raise node.error(_why_unused(name, arm, arm.method_combinations(), "this search"), under, name)
    _check_dimensions_are_drawn(arm, search.dimensions, node, ())
    for baseline, declared in search.baselines.items():
        other, keys = search.arms[baseline], ("baselines", baseline)
        for name in (*declared.dimensions, *declared.settings):
            under = "dimensions" if name in declared.dimensions else "settings"
            if not any(other.uses(methods, name) for methods in other.method_combinations()):
                problem = _why_unused(name, other, other.method_combinations(), "this baseline")
                raise node.error(problem, *keys, under, name)
        _check_dimensions_are_drawn(other, declared.dimensions, node, keys)


def _check_dimensions_are_drawn(arm: Arm, dimensions: Mapping[str, Dimension], node: Node, keys: Keys) -> None:
    """Checks that a draw can fulfil the conditions of every dimension that is declared below `keys`."""
    for name, dimension in dimensions.items():
        if not any(arm.uses(methods, name) for methods in _combinations_of(dimension, arm)):
            conditions = ", ".join(f"{key} {' or '.join(map(str, values))}" for key, values in dimension.when.items())
            reason = _why_unused(name, arm, _combinations_of(dimension, arm), conditions)
            raise node.error(f"is never drawn: {reason}", *keys, "dimensions", name)


def check_profiles(search: Search, node: Node) -> None:
    """Checks that a profile has settings for a method of its arm, and that settings fit the methods."""
    for name, arm in search.arms.items():
        profile = search.baselines[name].profile if name != MAIN_ARM else None
        if profile is not None and not any(bundle(profile, methods) for methods in arm.method_combinations()):
            raise node.error(_no_profile(profile), "baselines", name, "profile")
        for methods in arm.method_combinations():
            fixed = {**bundle(arm.profile, methods), **arm.settings}
            names = [key for key in fixed if key in METHOD_DEPENDENT and arm.uses(methods, key)]
            values = {key: fixed[key] for key in names}
            if "engine" in values and arm.uses(methods, "similarity") and "similarity" not in arm.dimensions:
                values.setdefault("similarity", DEFAULTS["similarity"])
            if values and (problem := _why_values_incompatible(methods, values)):
                keys = setting_location(search, arm, *values)
                raise node.error(problem, *(keys if keys[-1] in arm.settings else ("profile",)))
    arms = [arm for name, arm in search.arms.items() if name == MAIN_ARM or not search.baselines[name].profile]
    if search.profile and not any(bundle(search.profile, m) for arm in arms for m in arm.method_combinations()):
        raise node.error(_no_profile(search.profile), "profile")


def check_values(search: Search, node: Node) -> None:
    """Checks values that are known beforehand against each other: k and m, grace and steps, batch and ranks."""
    for arm in search.arms.values():
        for methods in arm.method_combinations():
            low = {key: arm.bound(key, min) for key in DEFAULTS if arm.uses(methods, key)}
            high = {key: arm.bound(key, max) for key in DEFAULTS if arm.uses(methods, key)}
            worst: dict[str, Value] = {key: high[key] for key in ("k", "m", "batch_size") if key in high}
            if "m" in arm.dimensions:
                worst = {"k": low.get("k", 0), "m": high.get("m", 0)}
            worst |= {key: arm.settings[key] for key in ("basis", "basis_rows") if key in arm.settings and key in low}
            if problem := _why_values_incompatible(methods, worst):
                names = ("m", "k") if problem.startswith("m ") else ("k", "m")
                raise node.error(problem, *setting_location(search, arm, *names))
            if (batch := low.get("batch_size", search.resources.workers)) < search.resources.workers:
                problem = f"{batch:g} examples cannot be split over {search.resources.workers} workers"
                raise node.error(problem, *setting_location(search, arm, "batch_size"))
            steps = sum(high[key] for key in PHASE_LENGTHS if key in high)
            if arm.name == MAIN_ARM and search.scheduler.stops_trials and search.scheduler.grace >= steps:
                grace = search.scheduler.grace
                problem = f"grace {grace} is not below the {steps:g} steps of a trial: no trial would be stopped"
                raise node.error(problem, "scheduler", search.scheduler.name, "grace")


def check_examples(search: Search, node: Node, sizes: Mapping[str, int], folds: int) -> None:
    """Checks that the methods can do with the training examples of data of these sizes, or of a fold of them."""
    labelled = sum(sizes.get(name, 0) for name in ("train", "meta_dev", "select_dev"))
    for arm in search.arms.values():
        for methods in arm.method_combinations():
            left_out = 1 + needs_meta_dev(methods)  # the parts that score and that the weighting learns from
            examples = labelled * (folds - left_out) // folds if folds else sizes["train"]
            for why_too_few in (METHODS[methods[family]].why_too_few_examples for family in FAMILIES):
                for settings in _extreme_settings(arm, methods) if why_too_few else ():
                    if problem := why_too_few(settings, examples) if why_too_few else None:
                        raise node.error(problem, *setting_location(search, arm, problem.split()[0]))


def _extreme_settings(arm: Arm, methods: Methods) -> Iterator[dict[str, Value]]:
    """Yields complete settings with the largest numbers that the arm can draw, and each word of each dimension."""
    settings: dict[str, Value] = {**DEFAULTS, **bundle(arm.profile, methods), **arm.settings}
    used = [dimension for name, dimension in arm.dimensions.items() if name in DEFAULTS and arm.uses(methods, name)]
    words = {d.name: d.choices for d in used if any(isinstance(choice, str) for choice in d.choices)}
    settings |= {d.name: arm.bound(d.name, max) for d in used if d.name not in words}
    settings |= {name: choices[0] for name, choices in words.items()}
    yield settings
    yield from (settings | {name: choice} for name, choices in words.items() for choice in choices[1:])


def _no_profile(profile: str) -> str:
    return f"{profile!r} has no settings for these methods; it has some for {', '.join(BUNDLES)}"


def _combinations_of(dimension: Dimension, arm: Arm) -> list[dict[str, str]]:
    """Returns the combinations of methods under which the dimension may be drawn."""
    choices = [
        [value for value in arm.dimensions[f].choices if value in dimension.when.get(f, arm.dimensions[f].choices)]
        if f in arm.dimensions
        else [getattr(arm.method, f)]
        for f in FAMILIES
    ]
    return [arm.methods(dict(zip(FAMILIES, triple, strict=True))) for triple in itertools.product(*choices)]


def _why_unused(name: str, arm: Arm, combinations: list[dict[str, str]], subject: str) -> str:
    """Returns which methods use the setting, and which methods are used in their place."""
    if name in MODEL_SETTINGS:
        return "is a setting of another kind of model"
    if name in arm.model.unused_settings:
        return "has no effect on this model"
    needs = SETTINGS[name].metadata["needs"] if name in SETTINGS else ""
    if needs in (MAIN_PHASE, OPTIMIZER_STEPS):
        schedules = quoted_choice(methods["schedule"] for methods in combinations)
        return f"is used in {needs}; {subject} uses schedule {schedules}, which has none"
    if all(not has_auxiliaries(methods) for methods in combinations):
        weightings = quoted_choice(methods["weighting"] for methods in combinations)
        return f"is used with auxiliary objectives alone; {subject} uses weighting {weightings}"
    if needs == JOINT_PHASE and all(name in METHODS[methods["weighting"]].setting_names for methods in combinations):
        schedules = quoted_choice(methods["schedule"] for methods in combinations)
        return f"weighs the end task against its auxiliaries; schedule {schedules} never trains them together"
    owners = [(method.family, key) for key, method in METHODS.items() if name in method.setting_names]
    if name.startswith(WEIGHT_PREFIX):
        owners += [(method.family, key) for key, method in METHODS.items() if method.searches_weights]
    families = {family for family, _ in owners}
    users = " and ".join(
        f"{family} {quoted_choice(key for f, key in owners if f == family)}" for family in sorted(families)
    )
    instead = " and ".join(f"{f} {quoted_choice(methods[f] for methods in combinations)}" for f in sorted(families))
    return f"is a setting of {users}; {subject} uses {instead}"


def _why_values_incompatible(methods: Methods, values: Mapping[str, Value]) -> str | None:
    """Returns why these values cannot be used with the methods; None where the methods alone cannot run together."""
    return None if why_incompatible(methods, {}) else why_incompatible(methods, values)


def setting_location(search: Search, arm: Arm, *names: str) -> Keys:
    """Returns the keys of the first of these settings that the search sets."""
    baseline = search.baselines.get(arm.name)
    for name in names:
        for under in ("dimensions", "settings") if baseline else ():
            if name in getattr(baseline, under):
                return "baselines", arm.name, under, name
        for under in ("dimensions", "settings"):
            if name in getattr(search, under):
                return under, name
    return "settings", names[0]
