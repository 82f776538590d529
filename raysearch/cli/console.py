"""How the command line prints: tables on a terminal, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from raysearch.formatting import format_duration, format_value
from raysearch.storage.states import ENDED_STATES, RunState

SHORT = 28  # longest text that is never wrapped
WIDTH = 140  # columns where the output is no terminal


def as_json(value: Any) -> None:
    """One JSON value on the standard output; times and the like as text, NaN and infinity as null."""
    sys.stdout.write(json.dumps(_sound(value), indent=2, ensure_ascii=False, default=str) + "\n")


def _sound(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _sound(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(text: str) -> None:
    """One line on the standard output."""
    sys.stdout.write(text + "\n")


def clear() -> None:
    """An empty screen."""
    sys.stdout.write("\033[2J\033[H")


def table(rows: Sequence[Mapping[str, Any]], *, title: str = "", columns: Iterable[str] | None = None) -> None:
    """Rows as a table; numbers right, missing values as -, long text wrapped. Nothing for no rows.

    Columns that find no room beside the others stand below, the first column again before them.
    """
    if not rows:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = WIDTH
    widths = {name: _width(rows, name) for name in (columns if columns is not None else rows[0])}
    for names in _abreast(widths, console.width):
        shown = Table(title=Text(title, style="bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD)
        for name in names:
            numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
            short = widths[name] <= max(SHORT, len(name))
            shown.add_column(Text(name), justify="right" if numeric else "left", overflow="fold", no_wrap=short)
        for row in rows:
            shown.add_row(*(Text(_text(row.get(name))) for name in names))
        console.print(shown)
        title = ""


def _width(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Signs that a column takes, its head included."""
    return max(len(name), *(len(_text(row.get(name))) for row in rows))


def _abreast(widths: Mapping[str, int], room: int) -> list[list[str]]:
    """The columns that stand beside each other, the first one at the head of each group; long text may be wrapped."""
    first, *rest = widths
    groups = [[first]]
    for name in rest:
        taken = 1 + sum(3 + min(widths[each], max(SHORT, len(each))) for each in (*groups[-1], name))
        if taken > room and len(groups[-1]) > 1:
            groups.append([first])
        groups[-1].append(name)
    return groups


def facts(about: Mapping[str, Any]) -> None:
    """Names and values, one a line, values of several lines under each other."""
    width = max(map(len, about), default=0) + 2
    for key, value in about.items():
        for number, part in enumerate(_text(value).splitlines() or [""]):
            line(f"{'' if number else key:<{width}}{part}".rstrip())


def _text(value: Any) -> str:
    """Returns a value as short text; a column that holds JSON is read first."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(json.JSONDecodeError):
            return format_value(json.loads(value))
    return format_value(value)


# ---- searches and runs ----


def resources(found: Mapping[str, Any]) -> str:
    """What a trial takes, in a line."""
    workers = f"{found['workers']} workers x " if found["workers"] > 1 else ""
    gpus = f" and {found['gpus']:g} GPUs" if found["gpus"] else ""
    return f"resources: a trial takes {workers}{found['cpus']:g} CPU cores{gpus}; {found['at_once']} at a time here"


def standings(found: Sequence[Mapping[str, Any]]) -> None:
    """A row for each run, given their `status()`."""
    rows: list[dict[str, Any]] = []
    for about in found:
        counts = {str(state): sum(arm[state] for arm in about["arms"].values()) for state in ENDED_STATES}
        best = about["best"] or {}
        rows.append({"run": about["name"], "state": about["state"], **counts, about["metric"]: best.get("score")})
    table(rows, columns=dict.fromkeys(key for row in rows for key in row))


def standing(found: Mapping[str, Any]) -> None:
    """How far one run is, given its `status()`."""
    left, best = found["left"], found["best"]
    said = [f"{found['name']}: {found['state']}, {format_duration(found['seconds'])} spent"]
    if found["state"] != RunState.FINISHED:
        said += [f"{left['trials']} configurations left"] if left["trials"] is not None else []
        said += [f"{format_duration(left['seconds'])} left"] if left["seconds"] is not None else []
    line("; ".join(said))
    table([{"arm": arm, **counts} for arm, counts in found["arms"].items()])
    if best:
        line(f"best {found['metric']} {best['score']:.4f} at step {best['best_step']}: {best['trial_id']}")
        if best["params"]:
            line(f"  {_text(best['params'])}")
