"""Methods, and the settings that they use, go together.

Every function raises SpecError at the line of the key that is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raysearch.config.arm import PHASE_STEPS, Arm
from raysearch.config.compatibility import (
    Methods,
    has_auxiliaries,
    quoted_choice,
    uses_setting,
    why_incompatible,
)
from raysearch.config.dimension import Dimension
from raysearch.config.parameters import DEFAULTS, SETTINGS, WEIGHT_PREFIX
from raysearch.methods import DEFAULT_METHODS, FAMILIES, METHODS
from raysearch.methods.profiles import BUNDLES, bundle
from raysearch.schema.fields import Value
from raysearch.schema.node import Keys, Node
from raysearch.storage.states import MAIN_ARM
from raysearch.training_settings import JOINT_PHASE

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

MATCHED = ("engine", "task_clip", "batch_split", "similarity", "precision")  # settings that go by the methods


def check_methods(search: Search, node: Node) -> None:
    """Methods that are fixed go together."""
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
    """Every setting and dimension is looked at by a method that a trial can have."""
    arm = search.arms[MAIN_ARM]
    for name in (*search.dimensions, *search.settings):
        under = "dimensions" if name in search.dimensions else "settings"
        if not any(uses_setting(methods, name) for methods in arm.method_combinations()):
            raise node.error(_why_unused(name, arm.method_combinations(), "this search"), under, name)
    for name, dimension in search.dimensions.items():
        if not any(uses_setting(methods, name) for methods in _combinations_of(dimension, arm)):
            conditions = ", ".join(f"{key} {' or '.join(map(str, values))}" for key, values in dimension.when.items())
            raise node.error(
                f"is never drawn: {_why_unused(name, _combinations_of(dimension, arm), conditions)}", "dimensions", name
            )
    for baseline in search.baselines:
        other = search.arms[baseline]
        for name in search.baselines[baseline].settings:
            if not any(uses_setting(methods, name) for methods in other.method_combinations()):
                problem = _why_unused(name, other.method_combinations(), "this baseline")
                raise node.error(problem, "baselines", baseline, "settings", name)


def check_profiles(search: Search, node: Node) -> None:
    """A profile says something of a method of its arm; settings of profiles and files go with the methods."""
    for name, arm in search.arms.items():
        own = search.baselines[name].profile if name != MAIN_ARM else None
        if own is not None and not any(bundle(own, methods) for methods in arm.method_combinations()):
            raise node.error(_no_profile(own), "baselines", name, "profile")
        for methods in arm.method_combinations():
            given = {**bundle(arm.profile, methods), **arm.settings}
            names = [key for key in given if key in MATCHED and uses_setting(methods, key)]
            values = {key: given[key] for key in names}
            if "engine" in values and uses_setting(methods, "similarity") and "similarity" not in arm.dimensions:
                values.setdefault("similarity", DEFAULTS["similarity"])
            if values and (problem := _why_values_incompatible(methods, values)):
                where = _setting_location(search, arm, *values)
                raise node.error(problem, *(where if where[-1] in arm.settings else ("profile",)))
    arms = [arm for name, arm in search.arms.items() if name == MAIN_ARM or not search.baselines[name].profile]
    if search.profile and not any(bundle(search.profile, m) for arm in arms for m in arm.method_combinations()):
        raise node.error(_no_profile(search.profile), "profile")


def check_values(search: Search, node: Node) -> None:
    """Values that are known beforehand go together: k and m, grace and steps, batch and ranks."""
    for arm in search.arms.values():
        for methods in arm.method_combinations():
            low = {key: arm.bound(key, min) for key in DEFAULTS if uses_setting(methods, key)}
            high = {key: arm.bound(key, max) for key in DEFAULTS if uses_setting(methods, key)}
            worst: dict[str, Value] = {key: high[key] for key in ("k", "m", "batch_size") if key in high}
            if "m" in arm.dimensions:
                worst = {"k": low.get("k", 0), "m": high.get("m", 0)}
            worst |= {key: arm.settings[key] for key in ("basis", "basis_rows") if key in arm.settings and key in low}
            if problem := _why_values_incompatible(methods, worst):
                raise node.error(problem, *_setting_location(search, arm, "k", "m"))
            if (batch := low["batch_size"]) < search.resources.workers:
                problem = f"{batch:g} examples cannot be shared by {search.resources.workers} workers"
                raise node.error(problem, *_setting_location(search, arm, "batch_size"))
            steps = sum(high[key] for key in PHASE_STEPS if key in high)
            if arm.name == MAIN_ARM and search.scheduler.stops_trials and search.scheduler.grace >= steps:
                problem = (
                    f"grace {search.scheduler.grace} is not below a trial's {steps:g} steps: none would be stopped"
                )
                raise node.error(problem, "scheduler", search.scheduler.name, "grace")


def _no_profile(profile: str) -> str:
    return f"{profile!r} says nothing of these methods: it is about {', '.join(BUNDLES)}"


def _combinations_of(dimension: Dimension, arm: Arm) -> list[dict[str, str]]:
    """The triples of methods that the dimension's conditions on families leave."""
    choices = [
        [value for value in arm.dimensions[f].choices if value in dimension.when.get(f, arm.dimensions[f].choices)]
        if f in arm.dimensions
        else [getattr(arm.method, f)]
        for f in FAMILIES
    ]
    return [arm.methods(dict(zip(FAMILIES, triple, strict=True))) for triple in itertools.product(*choices)]


def _why_unused(name: str, reachable: list[dict[str, str]], who: str) -> str:
    """Says whose setting it is, and what is used instead."""
    if all(not has_auxiliaries(methods) for methods in reachable):
        weightings = quoted_choice(methods["weighting"] for methods in reachable)
        return f"concerns auxiliary objectives; {who} uses weighting {weightings}"
    needs_joint_phase = name in SETTINGS and SETTINGS[name].metadata["needs"] == JOINT_PHASE
    if needs_joint_phase and all(name in METHODS[methods["weighting"]].setting_names for methods in reachable):
        schedules = quoted_choice(methods["schedule"] for methods in reachable)
        return f"weighs the end task against its auxiliaries; schedule {schedules} never trains them together"
    owners = [(method.family, key) for key, method in METHODS.items() if name in method.setting_names]
    if name.startswith(WEIGHT_PREFIX):
        owners += [(method.family, key) for key, method in METHODS.items() if method.searches_weights]
    families = {family for family, _ in owners}
    of = " and ".join(
        f"{family} {quoted_choice(key for f, key in owners if f == family)}" for family in sorted(families)
    )
    instead = " and ".join(f"{f} {quoted_choice(methods[f] for methods in reachable)}" for f in sorted(families))
    return f"is a setting of {of}; {who} uses {instead}"


def _why_values_incompatible(methods: Methods, values: Mapping[str, Value]) -> str | None:
    """Returns why these values cannot be used with the methods; None where the methods alone cannot run together."""
    return None if why_incompatible(methods, {}) else why_incompatible(methods, values)


def _setting_location(search: Search, arm: Arm, *names: str) -> Keys:
    """Where the first of these settings that is given at all is given."""
    baseline = search.baselines.get(arm.name)
    for name in names:
        if baseline and name in baseline.settings:
            return "baselines", arm.name, "settings", name
        for under in ("dimensions", "settings"):
            if name in getattr(search, under):
                return under, name
    return "settings", names[0]
