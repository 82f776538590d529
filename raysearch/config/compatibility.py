"""Which settings three methods use together, and why three methods cannot run together.

The methods declare both (`methods.method`); nothing here names one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from raysearch.config.parameters import INCLUDE_PREFIX, MODEL_SETTINGS, SETTINGS, WEIGHT_PREFIX
from raysearch.methods import FAMILIES, METHODS
from raysearch.methods.method import Combination, Method
from raysearch.modalities.base import ModelConfig
from raysearch.schema.fields import Value
from raysearch.training_settings import AUXILIARIES, JOINT_PHASE, MAIN_PHASE, OPTIMIZER_STEPS, TrainingSettings

Methods = Mapping[str, str]  # family -> method


def has_auxiliaries(methods: Methods) -> bool:
    """Returns whether the weighting trains auxiliary objectives at all."""
    return METHODS[methods["weighting"]].trains_auxiliaries


def needs_meta_dev(methods: Methods) -> bool:
    """Returns whether the weighting uses the dev set during training."""
    return METHODS[methods["weighting"]].needs_meta_dev


def has_needed_phase(schedule: Method, needs: str) -> bool:
    """Returns whether the schedule has the phase that a setting with these `needs` is for, if it is for one."""
    phases = {
        JOINT_PHASE: schedule.trains_jointly,
        MAIN_PHASE: schedule.has_main_phase,
        OPTIMIZER_STEPS: schedule.takes_steps,
    }
    return phases.get(needs, True)


def uses_setting(methods: Methods, name: str, model: ModelConfig) -> bool:
    """Returns whether a trial of these methods and model uses the setting, family, space or include of that name."""
    if name in MODEL_SETTINGS:
        return name in model.settings.__dataclass_fields__
    if name in model.unused_settings:
        return False
    if name in ("weighting", "schedule"):
        return True
    if name in ("surgery", "space") or name.startswith(INCLUDE_PREFIX):
        return has_auxiliaries(methods)
    if name.startswith(WEIGHT_PREFIX):
        return METHODS[methods["weighting"]].searches_weights
    needs = SETTINGS[name].metadata["needs"]
    if needs == AUXILIARIES and not has_auxiliaries(methods):
        return False
    if not has_needed_phase(METHODS[methods["schedule"]], needs):
        return False
    return name in TrainingSettings.__dataclass_fields__ or any(
        name in METHODS[methods[family]].setting_names for family in FAMILIES
    )


def why_incompatible(methods: Methods, settings: Mapping[str, Value], objectives: int | None = None) -> str | None:
    """Returns why no trial can run with these methods, settings and number of objectives, as far as these are known.

    Returns None if one can. A reason that lies in the methods alone begins with the family that declares it.
    """
    named = {family: METHODS[methods[family]] for family in FAMILIES}
    trial = Combination(**named, settings=settings, objectives=objectives)
    problems = (constraint(method, trial) for method in named.values() for constraint in method.constraints)
    return next((problem for problem in problems if problem), None)


def quoted_choice(words: Iterable[str]) -> str:
    """Returns the distinct words in quotes, with `or` between them."""
    return " or ".join(repr(word) for word in dict.fromkeys(words))
