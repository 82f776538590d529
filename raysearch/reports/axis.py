"""Axes of plots: ends, ticks whose labels differ and do not run together, and where a value lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, isfinite, log10

from raysearch.formatting import MINUS

LEAST_TICKS, MOST_TICKS = 3, 6  # of a logarithmic axis
CHARACTER = 6.2  # pixels of an average character of a tick label, rounded up
MARGIN = 0.04  # of an axis, beyond its values


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis shows. Ends that are not given are those of the values."""

    label: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False  # ticks at whole numbers alone
    words: tuple[str, ...] = ()  # of the places 0, 1, 2, ...
    ticks: tuple[float, ...] = ()  # instead of round numbers
    has_grid: bool = True

    def scaled(self, values: Iterable[float], start: float, end: float) -> Scale:
        """Returns the axis between two pixels, for these values."""
        if self.words:
            return Scale(self, -0.5, len(self.words) - 0.5, start, end)
        finite = [value for value in values if isfinite(value) and (value > 0 or not self.log)]
        low, high = self._ends(finite)
        return Scale(self, low, high, start, end)

    def _ends(self, values: Sequence[float]) -> tuple[float, float]:
        least, most = min(values, default=1.0 if self.log else 0.0), max(values, default=1.0)
        low, high = self.low if self.low is not None else least, self.high if self.high is not None else most
        if self.log:
            if low >= high:
                low, high = low / 2, high * 2
            room = (high / low) ** MARGIN
            return (low if self.low is not None else low / room), (high if self.high is not None else high * room)
        if low >= high:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        room = MARGIN * (high - low)
        return (low if self.low is not None else low - room), (high if self.high is not None else high + room)


@dataclass(frozen=True)
class Scale:
    """An axis with its ends, between two pixels."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def pixel(self, value: float) -> float:
        """Returns where a value lies."""
        return self.start + (self.end - self.start) * self._share(value)

    def _share(self, value: float) -> float:
        if self.axis.log:
            value = max(value, self.low / 1e3)  # a value that has no logarithm lies below the axis
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    @cached_property
    def ticks(self) -> list[tuple[float, str]]:
        """Values and labels of the ticks, of which no two labels are equal or overlap on a horizontal axis."""
        if self.axis.words:
            return list(enumerate(self.axis.words))
        if self.axis.ticks:
            return [(value, short_number(value)) for value in self.axis.ticks]
        if self.axis.log:
            return [(value, short_number(value)) for value in log_ticks(self.low, self.high)]
        length = abs(self.end - self.start)
        for most in range(MOST_TICKS, 1, -1):
            ticks = round_ticks(self.low, self.high, most, whole=self.axis.whole)
            if sum(len(label) * CHARACTER + 10 for _, label in ticks) <= length:
                break
        return ticks


def round_ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
    """Returns at most so many round numbers between the ends, with labels of the same number of decimals."""
    step = 10 ** floor(log10((high - low) / most))
    if whole:
        step = max(1.0, step)
    for factor in (1, 2, 5, 10, 20, 50):
        first, last = ceil(low / (step * factor) - 1e-9), floor(high / (step * factor) + 1e-9)
        if last - first + 1 <= most and not (whole and step * factor % 1):
            break
    size = step * factor
    decimals = max(0, -floor(log10(size) + 1e-9))
    values = [place * size for place in range(first, last + 1)]
    if decimals > 4 or abs(size * last) >= 1e6:
        return [(value, short_number(value)) for value in values]
    return [(value, f"{value + 0.0:,.{decimals}f}".replace("-", MINUS)) for value in values]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns three to six round numbers of a logarithmic axis, all with different labels.

    They have the mantissas 1, then 1 and 3, 1, 2 and 5, and so on, the first that give three or more; where that are
    too many, every second or third of them.
    """
    decades = range(floor(log10(low)) - 1, ceil(log10(high)) + 1)
    for mantissas in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), tuple(range(1, 10)), tuple(i / 10 for i in range(10, 100))):
        ticks = [float(f"{mantissa:g}e{decade}") for decade in decades for mantissa in mantissas]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= LEAST_TICKS:
            return ticks[:: -(-len(ticks) // MOST_TICKS)]
    return [low, high]


def short_number(value: float) -> str:
    """Returns a number of a logarithmic axis: `0.5`, `20`, `3e-4`, `1.5e-3`."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:g}".replace("-", MINUS)
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
