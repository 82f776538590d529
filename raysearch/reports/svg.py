"""A matplotlib figure as SVG that takes its colours from the page.

Colours are those of Okabe & Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can distinguish too;
plots use markers and dashes for the same information. Each colour becomes a CSS variable, so that the page chooses
light or dark. The same figure always gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1c2126", "#6a7178", "#dcdad5"
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
BLUE, ORANGE, GREEN, PINK, SKY, RED = SERIES
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line"} | {colour: f"s{i + 1}" for i, colour in enumerate(SERIES)}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raysearch",
    "font.family": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


class SvgPlot:
    """A plot that is being drawn; `svg` is the finished element for a page."""

    def __init__(self, name: str, label: str, figure: Figure) -> None:
        self.name, self.label, self.figure, self.svg = name, label, figure, ""

    def finish(self) -> None:
        """Writes the SVG: no header, unique ids, colours as variables, and a label for screen readers."""
        sink = io.StringIO()
        self.figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
        text = sink.getvalue()
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r"\s*<style.*?</style>", "", text, flags=re.DOTALL)  # the page's own style has it
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", text)
        text = re.sub(r'^<svg[^>]* viewBox="([^"]*)"[^>]*>', self._opening_tag, text)
        for colour, variable in VARIABLES.items():
            text = text.replace(colour, f"var(--{variable})")
        self.svg = text.replace("'DejaVu Sans'", "inherit").strip()

    def _opening_tag(self, match: re.Match[str]) -> str:
        return f'<svg viewBox="{match[1]}" role="img" aria-label="{escape(self.label)}">'


@contextmanager
def svg_panels(
    name: str, label: str, size: tuple[float, float], rows: int, columns: int
) -> Iterator[tuple[SvgPlot, list[Axes]]]:
    """Gives a plot and rows x columns axes to draw on, its size in inches; finishes the SVG on leaving."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        plot = SvgPlot(name, label, Figure(figsize=size, layout="constrained"))
        yield plot, list(plot.figure.subplots(rows, columns, squeeze=False).flat)
        plot.finish()


@contextmanager
def svg_plot(name: str, label: str, width: float, height: float) -> Iterator[tuple[SvgPlot, Axes]]:
    """Gives a plot and its axes to draw on, sizes in inches; finishes the SVG on leaving."""
    with svg_panels(name, label, (width, height), 1, 1) as (plot, (axes,)):
        yield plot, axes
