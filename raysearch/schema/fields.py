"""How a setting is declared: its meaning, unit, range and default, checked on construction."""

from __future__ import annotations

import dataclasses
from dataclasses import Field, dataclass, fields
from typing import Any

from raysearch.errors import did_you_mean
from raysearch.formatting import format_interval

Value = bool | int | float | str


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
) -> Any:
    """A dataclass field of one setting; its range is [low, high], or (low, high] when `open_low`."""
    about = {
        "meaning": meaning,
        "low": low,
        "high": high,
        "open_low": open_low,
        "unit": unit,
        "choices": choices,
        "needs": needs,
    }
    return dataclasses.field(default=default, metadata=about)


def check_value(field: Field[Any], value: object) -> None:
    """Raise ValueError, with the remedy, unless `value` may be given to the field."""
    about, kind = field.metadata, type(field.default)
    name = field.name
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if isinstance(value, str) and about["choices"] and value not in about["choices"]:
        raise ValueError(f"{name}: unknown choice {value!r}{did_you_mean(value, about['choices'])}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = about["low"], about["high"]
        below = low is not None and (value <= low if about["open_low"] else value < low)
        if value != value or below or (high is not None and value > high):
            interval = format_interval(low, high, open_low=about["open_low"])
            raise ValueError(f"{name} must be in {interval}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all groups of settings: values are checked against their declared ranges."""

    def __post_init__(self) -> None:
        for each in fields(self):
            check_value(each, getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class NoSettings(Settings):
    """A method without settings of its own."""
