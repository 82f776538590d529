"""What a section of the page is made of: sentences, plots, legends and tables, as data.

A block's `template` is the macro of templates/section.html.j2 that renders it. All text is escaped there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from raysearch.reports.plots import STATES, Rows
from raysearch.storage.states import TrialState

SYMBOLS = {
    TrialState.COMPLETE: "●",
    TrialState.STOPPED: "▼",
    TrialState.FAILED: "✕",
    TrialState.RUNNING: "○",
}


@dataclass(frozen=True)
class Note:
    """A short paragraph; `code` in backquotes and web addresses are marked as such."""

    template: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Nothing:
    """The one line of a section that has nothing to show."""

    template: ClassVar[str] = "nothing"
    text: str


@dataclass(frozen=True)
class Verdict:
    """A sentence that a reader may quote: what was compared, what was found, and how surely."""

    template: ClassVar[str] = "verdict"
    comparison: str
    verdict: str
    certainty: str = ""


@dataclass(frozen=True)
class Plots:
    """SVG elements side by side, none narrower than `least` (a CSS length) unless the page is."""

    template: ClassVar[str] = "plots"
    svgs: Sequence[str]
    least: str = "400px"
    layout: str = ""  # "wide" or "narrow" for a single plot that is shown alone


@dataclass(frozen=True)
class LegendEntry:
    """A symbol and its meaning; the symbol has the colour of a class, or of a colour variable of the page."""

    text: str
    symbol: str = ""
    css_class: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Legend:
    """The key to the symbols of the plots above it."""

    template: ClassVar[str] = "legend"
    entries: Sequence[LegendEntry]


@dataclass(frozen=True)
class Column:
    """A column of a table; `cell` names the macro in templates/table.html.j2 that renders a value."""

    head: str
    key: str  # of the row
    cell: str = "text"  # or number, difference, interval, state, params, share
    css_class: str = ""
    digits: int = 4  # decimals of a number
    missing: str = ""  # what stands for None
    high_key: str = ""  # the upper end of an interval, whose lower end is `key`

    @property
    def is_numeric(self) -> bool:
        """Says whether the column is aligned to the right."""
        return self.cell in ("number", "difference", "interval") or self.css_class == "num"


@dataclass(frozen=True)
class Table:
    """A table; row `best` stands out. With a `summary` it is folded until the reader opens it."""

    template: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Rows
    best: int | None = None
    summary: str = ""


@dataclass(frozen=True)
class Failures:
    """Failed trials, each with its traceback folded; a row has trial_id, reason, why and params."""

    template: ClassVar[str] = "failures"
    rows: Rows


Block = Note | Nothing | Verdict | Plots | Legend | Table | Failures


def text(head: str, key: str, *, numeric: bool = False, wraps: bool = False) -> Column:
    """Returns a column of text, which is kept on one line unless it `wraps`."""
    return Column(head, key, css_class="num" if numeric else "" if wraps else "keep")


def number(head: str, key: str, digits: int = 4, missing: str = "-") -> Column:
    """Returns a column of numbers with so many decimals."""
    return Column(head, key, "number", digits=digits, missing=missing)


def difference(head: str, key: str) -> Column:
    """Returns a column of differences, which have a sign."""
    return Column(head, key, "difference")


def interval(head: str, low: str, high: str) -> Column:
    """Returns a column of intervals of differences."""
    return Column(head, low, "interval", high_key=high)


def state_legend(states: Iterable[str], *more: LegendEntry, at_edge: bool = True) -> Legend:
    """Returns the key to the states that occur; `at_edge`: trials without a score are at the lower edge."""
    present, edge = set(states), " (at the lower edge)" if at_edge else ""
    meanings = {
        TrialState.COMPLETE: "complete",
        TrialState.STOPPED: f"stopped early{', at its score then, or at the lower edge' if at_edge else ''}",
        TrialState.FAILED: f"failed{edge}",
        TrialState.RUNNING: "running",
    }
    entries = [LegendEntry(meanings[state], SYMBOLS[state], str(state)) for state in STATES if state in present]
    return Legend([*entries, *more])


def ordered_params(params: dict[str, Any], order: Sequence[str]) -> list[tuple[str, Any]]:
    """Returns the drawn values by name, in the order in which the search declares its dimensions."""
    return sorted(params.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
