"""What a method declares: its code, its settings, its paper, what it needs and what it cannot be combined with."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from raysearch.schema.fields import Settings, Value

Family = Literal["weighting", "surgery", "schedule"]
FAMILIES: tuple[Family, ...] = ("weighting", "surgery", "schedule")


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Three methods, the settings that are known, and the number of objectives where it is known."""

    weighting: Method
    surgery: Method
    schedule: Method
    settings: Mapping[str, Value]
    objectives: int | None = None


Constraint = Callable[["Method", Combination], str | None]  # why the method cannot run so; None if it can


@dataclass(frozen=True)
class Method:
    """A weighting, a surgery or a schedule."""

    name: str
    target: str  # module:attribute under raysearch.methods
    settings: type[Settings]
    meaning: str
    paper: str
    family: Family = field(kw_only=True)
    packages: tuple[str, ...] = ()  # of the extra raysearch[torchjd]
    constraints: tuple[Constraint, ...] = ()
    # what a weighting needs
    trains_auxiliaries: bool = True
    searches_weights: bool = False  # its weights are settings `weight.*`
    needs_meta_dev: bool = False
    merges_branches: bool = False  # trains branches by themselves in rounds and merges them
    # what a surgery needs
    remembers_gradients: bool = False  # of each objective from step to step, so all of them take part in every step
    # of any family: why so many training examples are too few with complete settings; None if they are enough
    why_too_few_examples: Callable[[Mapping[str, Value], int], str | None] | None = None
    # what a schedule does
    trains_jointly: bool = True  # has a phase that trains the end task and its auxiliaries together
    has_main_phase: bool = True  # has a phase of `steps` steps
    takes_steps: bool = True  # has a phase that takes optimizer steps
    needs_classes: bool = False  # of the end task, whose labels are then not numbers

    @cached_property
    def setting_names(self) -> tuple[str, ...]:
        """The names of the settings that this method uses."""
        return tuple(each.name for each in fields(self.settings))

    def __str__(self) -> str:
        return f"{self.family} {self.name!r}"

    def why_missing(self) -> str | None:
        """Returns what to install before it can be loaded; None if nothing is missing."""
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{self} needs the package {missing[0]}; pip install 'raysearch[torchjd]'" if missing else None

    def load(self) -> Any:
        """Imports torch and returns the method's class or function. ModuleNotFoundError says what to install."""
        if problem := self.why_missing():
            raise ModuleNotFoundError(problem)
        module, attribute = self.target.split(":")
        return getattr(importlib.import_module(f"raysearch.methods.{module}"), attribute)


# ---- constraints ----


def requires_value(setting: str, value: Value, reason: str) -> Constraint:
    """The method runs only with this value of a setting that every trial may have."""

    def check(method: Method, trial: Combination) -> str | None:
        actual = trial.settings.get(setting, value)
        if actual == value:
            return None
        required_text, actual_text = (f"{each:g}" if isinstance(each, float) else each for each in (value, actual))
        return f"{method} {reason}: {setting} must be {required_text}, not {actual_text}"

    return check


def excludes_values(setting: str, values: tuple[Value, ...], reason: str) -> Constraint:
    """The method does not run with these values of a setting."""

    def check(method: Method, trial: Combination) -> str | None:
        actual = trial.settings.get(setting)
        return f"{method} {reason}: {setting} cannot be {actual!r}" if actual in values else None

    return check


def excludes(family: Family, is_excluded: Callable[[Method], bool], reason: str) -> Constraint:
    """The method cannot be combined with some methods of a family; `{other}` in the reason names the other method."""

    def check(method: Method, trial: Combination) -> str | None:
        other: Method = getattr(trial, family)
        return f"{method} {reason.format(other=other)}" if is_excluded(other) else None

    return check


def requires_joint_phase(reason: str) -> Constraint:
    """The method needs a schedule that trains the end task and its auxiliaries together."""
    return excludes("schedule", lambda schedule: not schedule.trains_jointly, reason)


def requires_settings(why_not: Callable[[Mapping[str, Value]], str | None]) -> Constraint:
    """The method runs only with settings for which `why_not` returns None."""
    return lambda _, trial: why_not(trial.settings)


def requires_steps_for_a_round(count_branches: Callable[[Mapping[str, Value], int], int]) -> Constraint:
    """The steps are enough for one round of `count_branches(settings, objectives)` branches.

    Checked where the settings say how many steps a pass over the data has.
    """

    def check(_: Method, trial: Combination) -> str | None:
        settings = trial.settings
        if trial.objectives is None or not settings["pass_steps"]:
            return None
        branch_steps = max(1, round(float(settings["rho"]) * int(settings["pass_steps"])))
        round_steps = branch_steps * count_branches(settings, trial.objectives)
        if round_steps <= int(settings["steps"]):
            return None
        return f"steps {settings['steps']} are too few for a round of {round_steps}: lower rho or pass_steps"

    return check


# For a weighting with `weights_from_current_step` that does not request gradients at every step.
needs_whole_batch = requires_value("micro_batches", 1, "weighs a step by the losses of the whole batch")


def keeps_objectives(method: Method, trial: Combination) -> str | None:
    """Every objective takes part in every step, because the method remembers the gradients of each."""
    if trial.objectives is None or trial.settings["conflict_between"] != "objectives":
        return None
    sampled = int(trial.settings.get("objectives_per_step", 0)) or trial.objectives
    if sampled >= trial.objectives:
        return None
    return (
        f"{method} remembers the gradients of {trial.objectives} objectives, and {sampled} are sampled a step: "
        "objectives_per_step 0, or conflict_between: sum"
    )
