"""A plot as SVG that takes its colours from the page, drawn from marks: lines, points, bands, segments, rules.

    chart = Chart("curves", "score over steps", Axis(label="steps"), Axis(label="score"))
    chart.line([1, 2], [0.3, 0.4], "s1", trial=7)
    chart.svg

A mark may carry the numbers of trials (see `page_data`), which the page's script names when the pointer is near.
Colours are variables of the page: those of Okabe & Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers
can distinguish too; marks use markers and dashes for the same information. The same marks always give the same bytes.
A figure of matplotlib takes some 100 ms and more bytes, and knows nothing of trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from math import cos, radians, sin
from typing import TypeAlias

from raysearch.formatting import printable
from raysearch.reports.axis import CHARACTER, Axis, Scale

WIDTH, HEIGHT = 440, 260
SERIES = ("s1", "s2", "s3", "s4", "s5", "s6")  # colour variables of the page
DASHES = ("", "6 3", "2 2.5", "8 3 2 3")
MAX_WORD, MAX_NAME = 26, 44  # characters of a tick label or a legend; of a name in a list
LINE_HEIGHT, TOP, RIGHT, SLANT = 15, 8, 12, 25  # pixels; degrees by which long words are turned

Numbers: TypeAlias = Sequence[float]
Trials: TypeAlias = Sequence[int | None]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A shape: its values, its colour, and the trials that it shows."""

    kind: str  # line, points, segment, band, rule
    x: Numbers
    y: Numbers
    colour: str
    width: float = 1.6
    dashes: str = ""
    opacity: float = 1.0
    marker: str = "o"  # o filled, O ring, v triangle, x cross
    trials: Trials = ()
    upper: Numbers = ()  # of a band, whose lower edge is y


@dataclass
class Chart:
    """Marks on two axes."""

    name: str  # of the plot, unique on the page
    label: str  # for screen readers
    x: Axis
    y: Axis
    title: str = ""
    note: str = ""  # at the right of the title
    width: float = WIDTH
    height: float = HEIGHT
    marks: list[Mark] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)  # text, colour, dashes
    end_labels: list[tuple[float, str, str]] = field(default_factory=list)  # value, text, colour, at the right

    def line(
        self,
        x: Numbers,
        y: Numbers,
        colour: str,
        *,
        width: float = 1.6,
        dashes: str = "",
        opacity: float = 1.0,
        trial: int | None = None,
        label: str = "",
    ) -> None:
        """Draws a line; a label is shown in the legend."""
        trials = () if trial is None else (trial,)
        mark = Mark(kind="line", x=x, y=y, colour=colour, width=width, dashes=dashes, opacity=opacity, trials=trials)
        self.marks.append(mark)
        if label:
            self.legend.append((label, colour, dashes))

    def steps(self, x: Numbers, y: Numbers, colour: str, *, dashes: str = "", label: str = "") -> None:
        """Draws a line that keeps each value until the next one."""
        corners = [(x[0], y[0])] if len(x) else []
        for i in range(1, len(x)):
            corners += [(x[i], y[i - 1]), (x[i], y[i])] if y[i] != y[i - 1] or i == len(x) - 1 else []
        self.line([place for place, _ in corners], [value for _, value in corners], colour, dashes=dashes, label=label)

    def points(
        self,
        x: Numbers,
        y: Numbers,
        colour: str,
        *,
        marker: str = "o",
        size: float = 6,
        opacity: float = 1.0,
        trials: Trials = (),
    ) -> None:
        """Draws points; `size` is in pixels."""
        self.marks.append(
            Mark(
                kind="points", x=x, y=y, colour=colour, marker=marker, width=size, opacity=opacity, trials=tuple(trials)
            )
        )

    def segment(self, x: Numbers, y: Numbers, colour: str, *, width: float = 1.2, opacity: float = 1.0) -> None:
        """Draws a straight piece between two points."""
        self.marks.append(Mark(kind="line", x=x, y=y, colour=colour, width=width, opacity=opacity))

    def band(self, x: Numbers, low: Numbers, high: Numbers, colour: str) -> None:
        """Fills what lies between two lines."""
        self.marks.append(Mark(kind="band", x=x, y=low, upper=high, colour=colour, opacity=0.18))

    def rule(self, x: float, colour: str = "muted", *, dashes: str = "3 3") -> None:
        """Draws a vertical line over the whole height."""
        self.marks.append(Mark(kind="rule", x=(x,), y=(), colour=colour, width=1, dashes=dashes))

    @property
    def svg(self) -> str:
        """The finished element."""
        return _Drawing(self).svg()


class _Drawing:
    """The places of a chart's parts, in pixels."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.rows = list(_legend_rows(chart.legend, chart.width - 16))
        self.x_words = [shorten(word) for word in chart.x.words]
        self.top = TOP + LINE_HEIGHT * (bool(chart.title or chart.note) + bool(chart.y.label) + len(self.rows)) + 3
        reach = 0.0 if not chart.end_labels else max(_wide(text) for _, text, _ in chart.end_labels) + 8
        self.right = chart.width - max(RIGHT, reach)
        x_values = [value for mark in chart.marks for value in mark.x]
        y_values = [value for mark in chart.marks for value in (*mark.y, *mark.upper)]
        widest = max((CHARACTER * len(shorten(word, MAX_NAME)) for word in chart.y.words), default=0.0)
        if not chart.y.words:
            scale = chart.y.scaled(y_values, 200, 0)
            widest = max((_wide(label) for _, label in scale.ticks), default=0.0)
        self.left = 8 + widest + 6
        self.turned = sum(_wide(word) + 8 for word in self.x_words) > self.right - self.left
        below = 18.0
        if self.turned:
            below = 12 + max(map(_wide, self.x_words)) * sin(radians(SLANT))
            self.left = max(self.left, 4 + _wide(self.x_words[0]) * cos(radians(SLANT)) - 8)
        self.bottom = chart.height - below - (LINE_HEIGHT if chart.x.label else 0)
        self.xs = chart.x.scaled(x_values, self.left, self.right)
        is_list = bool(chart.y.words)  # whose first word is at the top
        self.ys = chart.y.scaled(y_values, *((self.top, self.bottom) if is_list else (self.bottom, self.top)))

    def svg(self) -> str:
        chart = self.chart
        box = f'viewBox="0 0 {chart.width:g} {chart.height:g}"'
        head = f'<svg class="chart" id="chart-{_id(chart.name)}" {box} role="img" aria-label="{_text(chart.label)}">'
        parts = [head, *self._head(), *self._x_axis(), *self._y_axis(), *self._marks(), *self._end_labels(), "</svg>"]
        return "".join(parts)

    def _head(self) -> Iterator[str]:
        y = float(TOP + 8)
        if self.chart.title or self.chart.note:
            room = int((self.chart.width - 16 - _wide(self.chart.note)) / (CHARACTER * 1.15))
            yield f'<text class="title" x="8" y="{y:g}">{_text(shorten(self.chart.title, max(8, room)))}</text>'
            if self.chart.note:
                note = f'x="{self.chart.width - 8:g}" y="{y:g}" text-anchor="end"'
                yield f"<text {note}>{_text(self.chart.note)}</text>"
            y += LINE_HEIGHT
        for row in self.rows:
            for x, text, colour, dashes in row:
                line = f'M{x:.1f} {y - 4:g}h18" stroke-dasharray="{dashes}"' if dashes else f'M{x:.1f} {y - 4:g}h18"'
                yield f'<path d="{line} stroke="var(--{colour})" stroke-width="1.8"/>'
                yield f'<text x="{x + 23:.1f}" y="{y:g}">{_text(text)}</text>'
            y += LINE_HEIGHT
        if self.chart.y.label:
            yield f'<text class="axis" x="8" y="{y:g}">{_text(shorten(self.chart.y.label, 60))}</text>'

    def _x_axis(self) -> Iterator[str]:
        ticks = [(self.xs.pixel(value), label) for value, label in self.xs.ticks]
        if self.chart.x.has_grid and not self.chart.x.words:
            yield _grid(f"M{x:.1f} {self.top:g}V{self.bottom:.1f}" for x, _ in ticks)
        yield f'<path class="axis-line" d="M{self.left:.1f} {self.bottom:.1f}H{self.right:.1f}"/>'
        for x, label in ticks:
            y, text = self.bottom + 14, shorten(label)
            if self.turned:
                turn = f'text-anchor="end" transform="rotate(-{SLANT} {x + 3:.1f} {y - 2:.1f})"'
                yield f'<text x="{x + 3:.1f}" y="{y - 2:.1f}" {turn}>{_text(text)}</text>'
                continue
            half = _wide(text) / 2
            x = min(max(x, half + 1), self.chart.width - half - 1)
            yield f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{_text(text)}</text>'
        if self.chart.x.label:
            place = f'x="{(self.left + self.right) / 2:.1f}" y="{self.chart.height - 4:g}" text-anchor="middle"'
            yield f'<text class="axis" {place}>{_text(shorten(self.chart.x.label, 60))}</text>'

    def _y_axis(self) -> Iterator[str]:
        ticks = [(self.ys.pixel(value), label) for value, label in self.ys.ticks]
        if self.chart.y.has_grid and not self.chart.y.words:
            yield _grid(f"M{self.left:.1f} {y:.1f}H{self.right:.1f}" for y, _ in ticks)
        for y, label in ticks:
            place = f'x="{self.left - 6:.1f}" y="{y + 3.8:.1f}" text-anchor="end"'
            yield f"<text {place}>{_text(shorten(label, MAX_NAME))}</text>"

    def _marks(self) -> Iterator[str]:
        for mark in self.chart.marks:
            yield _draw(mark, self.xs, self.ys, self.top, self.bottom)

    def _end_labels(self) -> Iterator[str]:
        """Yields each line's name at its end, moved up or down so that names do not overlap."""
        places: list[float] = []
        labels = sorted(((self.ys.pixel(value), text, colour) for value, text, colour in self.chart.end_labels))
        for y, _, _ in labels:
            places.append(max(y, places[-1] + 12) if places else max(y, self.top + 4))
        over = max(0.0, places[-1] - self.bottom + 2) if places else 0.0
        for (_, text, colour), y in zip(labels, places, strict=True):
            place = f'x="{self.right + 6:.1f}" y="{y - over + 3.8:.1f}" style="fill:var(--{colour})"'
            yield f"<text {place}>{_text(shorten(text))}</text>"


def _draw(mark: Mark, xs: Scale, ys: Scale, top: float, bottom: float) -> str:
    if mark.kind == "rule":
        path = f"M{xs.pixel(mark.x[0]):.1f} {top:g}V{bottom:.1f}"
        return f'<path d="{path}" stroke="var(--{mark.colour})" stroke-width="1" stroke-dasharray="{mark.dashes}"/>'
    places = [(xs.pixel(x), ys.pixel(y)) for x, y in zip(mark.x, mark.y, strict=True)]
    fade = f' opacity="{mark.opacity:g}"' if mark.opacity < 1 else ""
    trials = f' data-trials="{" ".join("" if t is None else str(t) for t in mark.trials)}"' if mark.trials else ""
    if mark.kind == "points":
        return _points(mark, places, fade + trials)
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    if mark.kind == "band":
        upper = [(xs.pixel(x), ys.pixel(y)) for x, y in zip(mark.x, mark.upper, strict=True)]
        path += "L" + "L".join(f"{x:.1f} {y:.1f}" for x, y in reversed(upper)) + "Z"
        return f'<path d="{path}" class="fill" fill="var(--{mark.colour})"{fade}/>'
    dashes = f' stroke-dasharray="{mark.dashes}"' if mark.dashes else ""
    return f'<path d="{path}" stroke="var(--{mark.colour})" stroke-width="{mark.width:g}"{dashes}{fade}{trials}/>'


def _points(mark: Mark, places: Iterable[tuple[float, float]], more: str) -> str:
    """Returns one path with a piece for each point; a filled circle is a line of length 0 with round ends."""
    half = mark.width / 2
    pieces = {
        "o": "h0",
        "O": f"m{-half:g} 0a{half:g} {half:g} 0 1 0 {2 * half:g} 0a{half:g} {half:g} 0 1 0 {-2 * half:g} 0",
        "v": f"m{-half:g} {-half:g}h{2 * half:g}l{-half:g} {1.7 * half:.2g}z",
        "x": f"m{-half:g} {-half:g}l{2 * half:g} {2 * half:g}m0 {-2 * half:g}l{-2 * half:g} {2 * half:g}",
    }
    path = "".join(f"M{x:.1f} {y:.1f}{pieces[mark.marker]}" for x, y in places)
    colour = f"var(--{mark.colour})"
    attributes = {
        "o": f'class="dots" stroke="{colour}" stroke-width="{mark.width:g}"',
        "O": f'stroke="{colour}" stroke-width="1.3"',
        "v": f'class="fill" fill="{colour}"',
        "x": f'stroke="{colour}" stroke-width="1.7"',
    }
    return f'<path d="{path}" {attributes[mark.marker]}{more}/>'


def _grid(paths: Iterable[str]) -> str:
    path = "".join(paths)
    return f'<path class="grid" d="{path}"/>' if path else ""


def _legend_rows(entries: Sequence[tuple[str, str, str]], width: float) -> Iterator[list[tuple[float, str, str, str]]]:
    """Yields the entries of each row, with the place of each; the row ends where the next one would not fit."""
    row: list[tuple[float, str, str, str]] = []
    x = 8.0
    for text, colour, dashes in entries:
        text = shorten(text)
        if row and x + 30 + _wide(text) > width:
            yield row
            row, x = [], 8.0
        row.append((x, text, colour, dashes))
        x += 36 + _wide(text)
    if row:
        yield row


def shorten(text: str, most: int = MAX_WORD) -> str:
    """Returns a text of at most so many characters, with an ellipsis in the place of the rest."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _wide(text: str) -> float:
    return CHARACTER * len(shorten(text))


def _text(text: str) -> str:
    return escape(printable(text))


def _id(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
