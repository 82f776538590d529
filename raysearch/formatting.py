"""How values, durations, counts and intervals are written for people: on the terminal, in messages and on pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

# What a terminal would obey: control characters but tab and newline, and those that change the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The same as RE2 reads it, which Arrow's functions use; no surrogate can be in their texts.
CONTROLS_PATTERN = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{61c}\x{200e}\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}]"
MINUS = "\N{MINUS SIGN}"  # as wide as a plus sign; a hyphen is not


def printable(text: str) -> str:
    """Returns a text in which control characters are written out, as Python writes them: none moves a cursor.

    Names, values and tracebacks may come from a stranger's file, and a terminal obeys what it is sent.
    """
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def printable_tree(value: Any) -> Any:
    """Returns mappings, lists and texts with every text, keys too, made `printable`."""
    if isinstance(value, Mapping):
        return {printable_tree(key): printable_tree(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [printable_tree(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def escape_json(text: str) -> str:
    """Returns JSON with those control characters escaped that JSON itself permits."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def format_value(value: object) -> str:
    """Returns any value as short text: four digits of a number, `-` for None, `a=1  b=2` for a mapping."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "  ".join(f"{name}={format_value(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value)) or "none"
    return str(value)


def describe_value(value: object) -> str:
    """Returns what an error message calls a value from a YAML file: `nothing`, `a list`, `a mapping`, or the value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list):
        return "a list" if isinstance(value, list) else "a mapping"
    return repr(value)


def format_duration(seconds: float | None) -> str:
    """Returns seconds as `0.5 s`, `45 s`, `4 min 5 s` or `2 h 10 min`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def format_age(seconds: float) -> str:
    """Returns how long ago something was, in its largest unit: `40 s`, `5 min`, `3 h`, `2 days`."""
    for unit, size in (("day", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return format_count(number, unit) if unit == "day" else f"{number} {unit}"
    return f"{max(0, int(seconds))} s"


def format_count(number: int, noun: str) -> str:
    """Returns `1 seed`, `3 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_bytes(number: int) -> str:
    """Returns a size as `812 bytes`, `3.4 MB` or `1.2 GB`, in powers of ten."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return format_count(number, "byte")


def format_interval(low: float | None, high: float | None, *, open_low: bool = False) -> str:
    """Returns a range as `[0, 1]`, as `(0, 1]` if `open_low`; an end that is None is infinite and excluded."""
    left = "(-inf" if low is None else f"{'(' if open_low else '['}{low:g}"
    right = "inf)" if high is None else f"{high:g}]"
    return f"{left}, {right}"


def format_difference(value: float) -> str:
    """Returns a difference of scores with its sign and four decimals, as `+0.0120`; with a true minus sign."""
    return f"{value:+.4f}".replace("-", MINUS)


def format_bounds(low: float, high: float) -> str:
    """Returns the interval of a difference in words, with three decimals: `-0.043 to +0.051`, with true minus signs."""
    return f"{low:+.3f} to {high:+.3f}".replace("-", MINUS)


def format_differences(low: float, high: float) -> str:
    """Returns the interval of a difference, as `[+0.0100, +0.0140]`."""
    return f"[{format_difference(low)}, {format_difference(high)}]"


def html_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns rows as an HTML table with escaped texts, as a notebook shows it; empty for no rows."""
    if not rows:
        return ""

    def line(tag: str, cells: Iterable[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(printable(str(cell)))}</{tag}>" for cell in cells) + "</tr>"

    names = list(dict.fromkeys(name for row in rows for name in row))
    body = "".join(line("td", (format_value(row.get(name)) for name in names)) for row in rows)
    return f"<table><thead>{line('th', names)}</thead><tbody>{body}</tbody></table>"


def html_page(title: str, sentences: Iterable[str], *tables: str) -> str:
    """Returns a title, paragraphs and tables of `html_table` as HTML, as a notebook shows an object."""
    paragraphs = "".join(f"<p>{escape(printable(sentence))}</p>" for sentence in sentences)
    return f"<div><h4>{escape(printable(title))}</h4>{paragraphs}{''.join(tables)}</div>"
