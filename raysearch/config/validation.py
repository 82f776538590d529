"""What a search is refused for on any machine, before anything starts: parts that do not fit together.

Every function raises SpecError at the line of the key that is wrong.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from raysearch.config.arm import PHASE_STEPS, Arm, order_dimensions
from raysearch.config.compatibility import Methods, has_auxiliaries, needs_meta_dev, uses_setting, why_incompatible
from raysearch.config.dimension import Dimension
from raysearch.config.objective_weights import why_weight_unused
from raysearch.config.parameters import DEFAULTS, INCLUDE_PREFIX, SETTINGS, WEIGHT_PREFIX
from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.errors import did_you_mean
from raysearch.formatting import describe_value
from raysearch.methods import DEFAULT_METHODS, FAMILIES, METHODS
from raysearch.methods.profiles import BUNDLES, bundle
from raysearch.modalities import all_modalities, load_modality
from raysearch.modalities.loading import accepts_model
from raysearch.schema.fields import Value
from raysearch.schema.node import Keys, Node
from raysearch.storage.states import MAIN_ARM
from raysearch.training_settings import JOINT_PHASE

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

MATCHED = ("engine", "task_clip", "batch_split", "similarity", "precision")  # settings that go by the methods
_ARM_NAME = re.compile(r"[a-z][a-z0-9_]*")


def validate_search(search: Search, node: Node) -> None:
    """Refuse what could not work on any machine."""
    for check in (
        _dimensions,
        _names,
        _methods,
        _used,
        _profiles,
        _modalities,
        _spaces,
        _values,
        _budget,
        _sampler,
        _running,
        _data,
    ):
        check(search, node)


def _dimensions(search: Search, node: Node) -> None:
    """Conditions are on other dimensions and on values that these take; a family's dimension has methods."""
    for name, dimension in search.dimensions.items():
        if name in search.settings:
            raise node.error("is also fixed under `settings:`; leave one out", "dimensions", name)
        for parent, values in dimension.when.items():
            at: Keys = ("dimensions", name, "when", parent)
            if parent not in search.dimensions:
                fixed = getattr(search.method, parent, None) or search.settings.get(parent)
                is_fixed = f"; it is fixed to {fixed!r}" if fixed is not None else ""
                raise node.error(
                    f"is not a dimension of this search{is_fixed or did_you_mean(parent, search.dimensions)}", *at
                )
            if search.dimensions[parent].kind == "float":
                raise node.error("is drawn from a range; a condition needs values one by one: choice or int", *at)
            for value in values:
                if not search.dimensions[parent].holds(value):
                    raise node.error(f"{parent} never is {value!r} in this search", *at)
    space = search.dimensions.get("space")
    if space is not None and search.space is not None:
        raise node.error("is also fixed by `space:`; leave one out", "dimensions", "space")
    if space is not None and space.when:
        raise node.error(
            "cannot be conditional: every trial with auxiliaries has a space", "dimensions", "space", "when"
        )
    try:
        order_dimensions(search.dimensions)
    except ValueError as error:
        raise node.error(str(error), "dimensions") from None


def _names(search: Search, node: Node) -> None:
    """Baselines have sound names; a paper's scores are of arms and values of this search."""
    for name in search.baselines:
        if not _ARM_NAME.fullmatch(name) or name == MAIN_ARM:
            raise node.error("a baseline's name is small letters, digits and _, and not 'search'", "baselines", name)
    if search.paper is None:
        return
    for arm in search.paper.scores:
        if arm not in (arms := (MAIN_ARM, *search.baselines)):
            raise node.error(f"unknown arm {arm!r}{did_you_mean(arm, arms)}", "paper", "scores", arm)
    for name, printed in search.paper.values.items():
        if name not in search.dimensions:
            raise node.error(f"is no dimension{did_you_mean(name, search.dimensions)}", "paper", "values", name)
        if (values := search.dimensions[name].values) is None:
            raise node.error("is drawn from a range; a value of its own has no trials", "paper", "values", name)
        known = [describe_value(value).strip("'") for value in values]
        for value in printed:
            if value not in known:
                raise node.error(f"{name} never is {value}{did_you_mean(value, known)}", "paper", "values", name, value)


def _methods(search: Search, node: Node) -> None:
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


def _used(search: Search, node: Node) -> None:
    """Every setting and dimension is looked at by a method that a trial can have."""
    arm = search.arms[MAIN_ARM]
    for name in (*search.dimensions, *search.settings):
        under = "dimensions" if name in search.dimensions else "settings"
        if not any(uses_setting(methods, name) for methods in arm.method_combinations()):
            raise node.error(_unused(name, arm.method_combinations(), "this search"), under, name)
    for name, dimension in search.dimensions.items():
        if not any(uses_setting(methods, name) for methods in _under(dimension, arm)):
            conditions = ", ".join(f"{key} {' or '.join(map(str, values))}" for key, values in dimension.when.items())
            raise node.error(f"is never drawn: {_unused(name, _under(dimension, arm), conditions)}", "dimensions", name)
    for baseline in search.baselines:
        other = search.arms[baseline]
        for name in search.baselines[baseline].settings:
            if not any(uses_setting(methods, name) for methods in other.method_combinations()):
                problem = _unused(name, other.method_combinations(), "this baseline")
                raise node.error(problem, "baselines", baseline, "settings", name)


def _profiles(search: Search, node: Node) -> None:
    """A profile says something of a method of its arm; settings of profiles and files go with the methods."""
    for name, arm in search.arms.items():
        own = search.baselines[name].profile if name != MAIN_ARM else None
        if own is not None and not any(bundle(own, methods) for methods in arm.method_combinations()):
            raise node.error(_no_bundle(own), "baselines", name, "profile")
        for methods in arm.method_combinations():
            given = {**bundle(arm.profile, methods), **arm.settings}
            names = [key for key in given if key in MATCHED and uses_setting(methods, key)]
            values = {key: given[key] for key in names}
            if "engine" in values and uses_setting(methods, "similarity") and "similarity" not in arm.dimensions:
                values.setdefault("similarity", DEFAULTS["similarity"])
            if values and (problem := _why_values_incompatible(methods, values)):
                where = _place(search, arm, *values)
                raise node.error(problem, *(where if where[-1] in arm.settings else ("profile",)))
    arms = [arm for name, arm in search.arms.items() if name == MAIN_ARM or not search.baselines[name].profile]
    if search.profile and not any(bundle(search.profile, m) for arm in arms for m in arm.method_combinations()):
        raise node.error(_no_bundle(search.profile), "profile")


def _no_bundle(profile: str) -> str:
    return f"{profile!r} says nothing of these methods: it is about {', '.join(BUNDLES)}"


def _under(dimension: Dimension, arm: Arm) -> list[dict[str, str]]:
    """The triples of methods that the dimension's conditions on families leave."""
    choices = [
        [value for value in arm.dimensions[f].choices if value in dimension.when.get(f, arm.dimensions[f].choices)]
        if f in arm.dimensions
        else [getattr(arm.method, f)]
        for f in FAMILIES
    ]
    return [arm.methods(dict(zip(FAMILIES, triple, strict=True))) for triple in itertools.product(*choices)]


def _unused(name: str, reachable: list[dict[str, str]], who: str) -> str:
    """Says whose setting it is, and what is used instead."""
    if all(not has_auxiliaries(methods) for methods in reachable):
        weightings = _quoted_choice(methods["weighting"] for methods in reachable)
        return f"concerns auxiliary objectives; {who} uses weighting {weightings}"
    needs_joint_phase = name in SETTINGS and SETTINGS[name].metadata["needs"] == JOINT_PHASE
    if needs_joint_phase and all(name in METHODS[methods["weighting"]].setting_names for methods in reachable):
        schedules = _quoted_choice(methods["schedule"] for methods in reachable)
        return f"weighs the end task against its auxiliaries; schedule {schedules} never trains them together"
    owners = [(method.family, key) for key, method in METHODS.items() if name in method.setting_names]
    if name.startswith(WEIGHT_PREFIX):
        owners += [(method.family, key) for key, method in METHODS.items() if method.searches_weights]
    families = {family for family, _ in owners}
    of = " and ".join(
        f"{family} {_quoted_choice(key for f, key in owners if f == family)}" for family in sorted(families)
    )
    instead = " and ".join(f"{f} {_quoted_choice(methods[f] for methods in reachable)}" for f in sorted(families))
    return f"is a setting of {of}; {who} uses {instead}"


def _quoted_choice(words: Iterable[str]) -> str:
    return " or ".join(repr(word) for word in dict.fromkeys(words))


def _without_auxiliaries(arms: Iterable[Arm]) -> str:
    weightings = (methods["weighting"] for arm in arms for methods in arm.method_combinations())
    return f"weighting {_quoted_choice(weightings)} has no auxiliaries"


def _modalities(search: Search, node: Node) -> None:
    """Space, model and settings are of the task's modality."""
    modality = load_modality(search.task.modality)
    for name, space in search.spaces.items():
        if space.modality != modality.name:
            noun = load_modality(space.modality).noun
            problem = f"{name} has objectives on {noun}, and the task is of {modality.noun}"
            raise node.error(problem, *_named_at(search, name))
        if problem := modality.space_problem(search.task, space):
            raise node.error(f"{problem} ({name})", *_named_at(search, name))
    if not accepts_model(modality, search.model):
        presets = ", ".join(sorted(modality.model_presets))
        raise node.error(f"is no model for {modality.noun}; such as {presets}, or {modality.model_example}", "model")
    for name in modality.unused_settings:
        for under in ("settings", "dimensions"):
            if getattr(search, under).get(name, DEFAULTS[name]) != DEFAULTS[name]:
                raise node.error(f"has no effect on {modality.noun}", under, name)


def _named_at(search: Search, space: str) -> Keys:
    """Returns where a space is named."""
    if search.space == space:
        return ("space",)
    named = [name for name, baseline in search.baselines.items() if baseline.space == space]
    return ("baselines", named[0], "space") if named else ("dimensions", "space")


def _spaces(search: Search, node: Node) -> None:
    """Arms with auxiliaries have a space, with text for it, and a primitive to leave out is there."""
    needing = [name for name, arm in search.arms.items() if any(map(has_auxiliaries, arm.method_combinations()))]
    for name in needing:
        if not search.arms[name].space and "space" not in search.arms[name].dimensions:
            where: Keys = ("baselines", name) if name != MAIN_ARM else ()
            weightings = _quoted_choice(
                m["weighting"] for m in search.arms[name].method_combinations() if has_auxiliaries(m)
            )
            raise node.error(f"weighting {weightings} needs auxiliary objectives: name a space", *where)
    if search.space and not any(search.arms[name].space == search.space for name in needing):
        raise node.error(f"no arm uses it: {_without_auxiliaries(search.arms.values())}", "space")
    for name, baseline in search.baselines.items():
        if baseline.space and name not in needing:
            unused = f"is not used: {_without_auxiliaries([search.arms[name]])}"
            raise node.error(unused, "baselines", name, "space")
    for name in (*search.dimensions, *search.settings):
        objectives = [each for space in search.spaces.values() for each in space.objectives]
        if name.startswith(WEIGHT_PREFIX) and (problem := why_weight_unused(name, objectives)):
            raise node.error(problem, "dimensions" if name in search.dimensions else "settings", name)
        stage, _, primitive = name.removeprefix(INCLUDE_PREFIX).partition(".")
        known = sorted({p for space in search.spaces.values() for p in space.stages.get(stage, ())})
        if name.startswith(INCLUDE_PREFIX) and primitive not in known:
            under = "dimensions" if name in search.dimensions else "settings"
            every = {*known, *(p for modality in all_modalities() for p in modality.taxonomy.stages.get(stage, ()))}
            if primitive not in every:
                raise node.error(f"unknown primitive {primitive!r}{did_you_mean(primitive, every)}", under, name)
            raise node.error(f"{primitive!r} is not in the space{did_you_mean('', known)}", under, name)
    for name, arm in search.arms.items():
        include = {
            k.removeprefix(INCLUDE_PREFIX): bool(v) for k, v in arm.settings.items() if k.startswith(INCLUDE_PREFIX)
        }
        if include and arm.space in search.spaces:
            try:
                search.spaces[arm.space].restrict(include)
            except ValueError as error:
                raise node.error(str(error), *(("baselines", name) if name != MAIN_ARM else ()), "settings") from None


def _values(search: Search, node: Node) -> None:
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
                raise node.error(problem, *_place(search, arm, "k", "m"))
            if (batch := low["batch_size"]) < search.resources.workers:
                problem = f"{batch:g} examples cannot be shared by {search.resources.workers} workers"
                raise node.error(problem, *_place(search, arm, "batch_size"))
            steps = sum(high[key] for key in PHASE_STEPS if key in high)
            if arm.name == MAIN_ARM and search.scheduler.stops_trials and search.scheduler.grace >= steps:
                problem = (
                    f"grace {search.scheduler.grace} is not below a trial's {steps:g} steps: none would be stopped"
                )
                raise node.error(problem, "scheduler", search.scheduler.name, "grace")


def _why_values_incompatible(methods: Methods, values: Mapping[str, Value]) -> str | None:
    """Returns why these values cannot be used with the methods; None where the methods alone cannot run together."""
    return None if why_incompatible(methods, {}) else why_incompatible(methods, values)


def _place(search: Search, arm: Arm, *names: str) -> Keys:
    """Where the first of these settings that is given at all is given."""
    baseline = search.baselines.get(arm.name)
    for name in names:
        if baseline and name in baseline.settings:
            return "baselines", arm.name, "settings", name
        for under in ("dimensions", "settings"):
            if name in getattr(search, under):
                return under, name
    return "settings", names[0]


def _budget(search: Search, node: Node) -> None:
    """There is an end, seeds are different ones, and there is something to search."""
    if search.budget.trials is search.budget.seconds is search.budget.compute is None:
        raise node.error("must say trials, seconds or compute", "budget")
    if not search.dimensions and search.budget.trials != 1:
        raise node.error("there are no dimensions: the search has one configuration, trials: 1", "budget", "trials")
    for name, arm in search.arms.items():
        if name == MAIN_ARM:
            continue
        if arm.trials is None and search.budget.compute is None:
            problem = f"say how many configurations to try, trials: N; its dimensions: {', '.join(arm.dimensions)}"
            raise node.error(problem, "baselines", name)
        if not arm.dimensions and arm.trials is not None and arm.trials > 1:
            problem = "it has no dimensions of its own: one configuration, trials: 1"
            raise node.error(problem, "baselines", name, "trials")
    fresh = search.confirm.seeds if search.confirm else ()
    for seeds, keys in ((search.seeds, ("seeds",)), (fresh, ("confirm", "seeds"))):
        if len(set(seeds)) < len(seeds):
            raise node.error("a seed is given twice", *keys)
        if any(not 0 <= seed < 2**31 for seed in seeds):
            raise node.error("a seed is a whole number in [0, 2^31)", *keys)
    if not search.seeds or (search.confirm and not fresh):
        raise node.error("is empty: give at least one seed", *(("confirm", "seeds") if search.seeds else ("seeds",)))
    if both := sorted(set(search.seeds) & set(fresh)):
        problem = f"seed {both[0]} is one of `seeds:`; a confirmation needs fresh ones"
        raise node.error(problem, "confirm", "seeds")


def _sampler(search: Search, node: Node) -> None:
    """The sampler can draw every dimension, and has as many points as the search asks for."""
    sampler = DECLARED_SAMPLERS[search.sampler]
    for name, dimension in search.dimensions.items():
        if sampler.numbers_only and dimension.kind == "choice":
            problem = f"sampler {search.sampler!r} draws numbers only; use tpe, or int and float"
            raise node.error(problem, "dimensions", name)
        if sampler.lists_values and dimension.values is None:
            problem = f"sampler {search.sampler!r} needs values one by one; use choice: [...]"
            raise node.error(problem, "dimensions", name)
    if not sampler.lists_values:
        return
    for name, arm in search.arms.items():
        if arm.trials is None:
            continue
        points = sum(1 for _ in itertools.islice(arm.grid(), arm.trials))
        if points < arm.trials:
            keys: Keys = ("budget", "trials") if name == MAIN_ARM else ("baselines", name, "trials")
            raise node.error(f"asks for {arm.trials} configurations; the grid has {points}", *keys)


def _running(search: Search, node: Node) -> None:
    """Executor, scheduler and resources go together."""
    if search.executor == "in_process" and search.scheduler.stops_trials:
        raise node.error("executor 'in_process' stops no trial; use scheduler: fifo", "scheduler")
    if search.executor == "in_process" and search.resources.workers > 1:
        raise node.error("executor 'in_process' has one worker", "resources", "workers")
    if search.resources.cpus == search.resources.gpus == 0:
        raise node.error("a rank needs a share of a CPU or GPU", "resources", "cpus")


def _data(search: Search, node: Node) -> None:
    """Meta-gradients have a dev set of their own."""
    meta = [m["weighting"] for arm in search.arms.values() for m in arm.method_combinations() if needs_meta_dev(m)]
    if meta and search.task.meta_dev == 0:
        problem = f"weighting {meta[0]!r} needs dev rows for its meta-gradients: a share above 0"
        raise node.error(problem, "task", "meta_dev")
    split = search.task.split
    if split is not None and split.get("dev") == 0 and search.task.dev is None:
        raise node.error("no dev rows to select on: a share above 0, or a `dev:` file", "task", "split", "dev")
