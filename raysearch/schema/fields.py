"""How a key of a file is declared: its meaning, unit, range and default.

The same declaration checks a value, fills in the default, and describes the key in `show` and in the JSON Schema.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from raysearch.errors import did_you_mean
from raysearch.formatting import format_interval

Value = bool | int | float | str

TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def config_key(
    meaning: str,
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    unit: str = "",
    choices: tuple[str, ...] = (),
    shorthand: tuple[str, ...] = (),
    needs: str = "",
    is_phase_length: bool = False,
    is_late: bool = False,
) -> Any:
    """Declares a dataclass field as a key of a file; its range is [low, high], or (low, high] when `open_low`.

    `shorthand` lists words that a file may give in place of a mapping. `needs` names what a trial must have for the key
    to be used; what that is, the domain knows. `is_phase_length` marks the optimizer steps of one phase of a trial.
    `is_late` marks a key that earlier versions lack and whose default is what they do: identities leave it out at its
    default, so that an older run can be resumed.
    """
    metadata: dict[str, Any] = {"meaning": meaning, "low": low, "high": high, "open_low": open_low, "unit": unit}
    metadata["is_late"] = is_late
    metadata |= {"choices": choices, "shorthand": shorthand, "needs": needs, "is_phase_length": is_phase_length}
    if default_factory is not MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def setting(
    default: Value,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    unit: str = "",
    choices: tuple[str, ...] = (),
    needs: str = "",
    is_phase_length: bool = False,
    is_late: bool = False,
) -> Any:
    """Declares a key whose value is of the type of its default: one setting of a group."""
    return config_key(
        meaning,
        default=default,
        low=low,
        high=high,
        open_low=open_low,
        unit=unit,
        choices=choices,
        needs=needs,
        is_phase_length=is_phase_length,
        is_late=is_late,
    )


def late_defaults(group: type) -> dict[str, Any]:
    """Returns the defaults of a dataclass's keys that earlier versions lack, by name."""
    return {each.name: each.default for each in fields(group) if each.metadata.get("is_late")}


def check_value(field: Field[Any], value: object) -> None:
    """Raises ValueError, with the remedy, unless the value is of the type of the field's default and in its range."""
    expected = TYPE_NAMES.get(type(field.default))
    if type(field.default) is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if expected and type(value) is not type(field.default):
        raise ValueError(f"{field.name} must be {expected}, got {value!r}")
    choices, low, high = (field.metadata[name] for name in ("choices", "low", "high"))
    if isinstance(value, str) and choices and value not in choices:
        raise ValueError(f"{field.name}: unknown choice {value!r}{did_you_mean(value, choices)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        is_below = low is not None and (value <= low if field.metadata["open_low"] else value < low)
        if value != value or is_below or (high is not None and value > high):
            interval = format_interval(low, high, open_low=field.metadata["open_low"])
            raise ValueError(f"{field.name} must be in {interval}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all groups of settings: values are checked against their declared ranges on construction."""

    def __post_init__(self) -> None:
        for each in fields(self):
            check_value(each, getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class NoSettings(Settings):
    """The settings of a method that has none."""
