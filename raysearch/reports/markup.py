"""Pieces of HTML: cells and tables, keys of pictures, numbers as people read them. All text is escaped here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape

from raysearch.formatting import format_value
from raysearch.reports.plots import STATES
from raysearch.storage.states import TrialState

MARKS: dict[str, str] = {
    TrialState.COMPLETE: "●",
    TrialState.STOPPED: "▼",
    TrialState.FAILED: "✕",
    TrialState.RUNNING: "○",
}
Cell = tuple[str, str]  # classes, HTML


def table(heads: Iterable[str], rows: Iterable[list[Cell]], best: int | None = None) -> str:
    """A table that scrolls sideways if it must; a head that begins with '#' is of numbers; row `best` stands out."""
    head = "".join(
        f'<th class="num">{escape(name[1:] or "#")}</th>' if name.startswith("#") else f"<th>{escape(name)}</th>"
        for name in heads
    )
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f'<td class="{kind}">{content}</td>' for kind, content in row)
        lines.append(f'<tr class="best">{cells}</tr>' if i == best else f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def words(value: object, kind: str = "") -> Cell:
    """A cell of text; a null is empty."""
    return kind, "" if value is None else escape(str(value))


def number(value: float | None, digits: int = 4) -> Cell:
    """A cell of a number; a null is a dash."""
    return "num", "-" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> Cell:
    """A cell of a difference, with its sign; a null is empty."""
    return "num", "" if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None) -> Cell:
    """A cell of two differences; empty if they are null."""
    return "num", "" if low is None or high is None else f"[{signed(low)[1]}, {signed(high)[1]}]"


def state(name: str) -> Cell:
    """A cell of a trial's state, with its mark."""
    return f"state {escape(name)}", f"<i>{MARKS.get(name, '')}</i>{escape(name)}"


def draw(params: str | None, order: Mapping[str, object]) -> Cell:
    """A cell of the values drawn (JSON), the dimensions in the order of `order`."""
    values = json.loads(params or "{}")
    names = sorted(values, key=lambda name: list(order).index(name) if name in order else len(order))
    chips = (f"<span><em>{escape(name)}</em>{escape(format_value(values[name]))}</span>" for name in names)
    return "", f'<div class="draw">{"".join(chips)}</div>'


def grid(drawn: Iterable[str], least: str) -> str:
    """Pictures side by side, none narrower than `least` (CSS length) unless the page is; empty without pictures."""
    inside = "\n".join(f"<div>{svg}</div>" for svg in drawn)
    return f'<div class="pictures" style="--least:{least}">{inside}</div>' if inside else ""


def legend(states: Iterable[str], *more: str, edge: bool = True) -> str:
    """The key to the states that occur; `edge`: trials without a full score lie at the edge of the picture."""
    known, beside = set(states), " (at the lower edge)" if edge else ""
    said = {
        TrialState.COMPLETE: "complete",
        TrialState.STOPPED: f"stopped early{beside}",
        TrialState.FAILED: f"failed{beside}",
        TrialState.RUNNING: "running",
    }
    keys = [f'<span><i class="{name}">{MARKS[name]}</i>{said[name]}</span>' for name in STATES if name in known]
    return f'<div class="legend">{"".join([*keys, *more])}</div>'


def prose(text: str) -> str:
    """A comment as HTML: `code` and addresses are marked as such."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"https://[\w./-]+\w", r'<a href="\g<0>">\g<0></a>', text)


def sentence(text: str) -> str:
    """The text with a capital at its head."""
    return text[:1].upper() + text[1:]
