"""How the command line prints: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from raysearch.formatting import escape_json, format_age, format_count, format_duration, format_value, printable
from raysearch.storage.states import ENDED_STATES, RunState

if TYPE_CHECKING:
    import pyarrow as pa

    from raysearch.reports.next_steps import Step

SHORT = 28  # characters; a column of shorter text is never wrapped
WIDTH = 140  # characters in a line when the output is not a terminal and COLUMNS is not set


def print_json(value: Any) -> None:
    """Prints one JSON value; NaN and infinity as null, times and other objects as text."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(escape_json(text) + "\n")


def _finite(value: Any) -> Any:
    """Returns the value with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_line(text: str) -> None:
    """Prints one line, or several, in which nothing moves the cursor."""
    sys.stdout.write(printable(text) + "\n")


def print_error(problem: str, code: int) -> int:
    """Prints the problem as one line, after the traceback if RAYSEARCH_DEBUG asks for it, and returns the exit code."""
    if os.environ.get("RAYSEARCH_DEBUG", "0") not in ("", "0"):
        import traceback

        if sys.exception() is not None:
            sys.stderr.write(printable(traceback.format_exc()))
    sys.stderr.write(f"raysearch: {printable(' '.join(problem.split()))}\n")
    return code


def clear_screen() -> None:
    """Clears the terminal."""
    sys.stdout.write("\033[2J\033[H")


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str = "", columns: Iterable[str] | None = None) -> None:
    """Prints rows as a table; numbers to the right, missing values as -, long text wrapped. Prints nothing for no rows.

    Columns that do not fit beside the others follow in a second table, which repeats the first column.
    """
    if not rows:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():  # rich heeds COLUMNS by itself
        console.width = WIDTH
    widths = {name: _width(rows, name) for name in (columns if columns is not None else rows[0])}
    for names in _split_columns(widths, console.width):
        table = Table(
            title=Text(printable(title), style="bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD
        )
        for name in names:
            is_numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
            is_short = widths[name] <= max(SHORT, len(name))
            table.add_column(
                Text(printable(name)), justify="right" if is_numeric else "left", overflow="fold", no_wrap=is_short
            )
        for row in rows:
            table.add_row(*(Text(_text(row.get(name))) for name in names))
        console.print(table)
        title = ""


def _width(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Returns the width of a column in characters, with its head."""
    return max(len(name), *(len(_text(row.get(name))) for row in rows))


def _split_columns(widths: Mapping[str, int], room: int) -> list[list[str]]:
    """Returns groups of columns that fit into `room` characters; each group begins with the first column."""
    first, *others = widths
    groups = [[first]]
    for name in others:
        needed = 1 + sum(3 + min(widths[each], max(SHORT, len(each))) for each in (*groups[-1], name))
        if needed > room and len(groups[-1]) > 1:
            groups.append([first])
        groups[-1].append(name)
    return groups


def print_facts(facts: Mapping[str, Any]) -> None:
    """Prints one name and value per line; further lines of a value are aligned with its first."""
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        for number, part in enumerate(_text(value).splitlines() or [""]):
            print_line(f"{'' if number else name:<{width}}{part}".rstrip())


def _text(value: Any) -> str:
    """Returns a value as short text without control characters; one that holds a JSON object is parsed first."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(json.JSONDecodeError):
            return printable(format_value(json.loads(value)))
    return printable(format_value(value))


# ---- searches and runs ----


def print_outline(outline: Mapping[str, Any]) -> None:
    """Prints the one line with which `check` confirms a search."""
    arms = ", ".join(f"{arm['configurations'] or 'any'} of {arm['arm']}" for arm in outline["arms"])
    spaces = ", ".join(f"{name} ({count})" for name, count in outline["spaces"].items()) or "no space"
    print_line(f"ok: {outline['name']}: {arms}; {spaces}; task {outline['task']}, {outline['metric']}")


def print_findings(facts: Mapping[str, str], notes: Iterable[str]) -> None:
    """Prints what there is, a line each, then what will mislead."""
    print_facts({f"  {name}": text for name, text in facts.items()})
    for note in notes:
        print_line(f"note: {note}")


def _selection(declared: Any) -> str:
    """Returns a selection as text: `auto`, or `5 folds x 2`."""
    if not isinstance(declared, Mapping):
        return f"{declared}, decided at launch"
    repeats = f" x {declared['repeats']}" if declared["repeats"] > 1 else ""
    return f"{declared['folds']} folds{repeats}"


def print_dry_run(outline: Mapping[str, Any], seconds: float | None) -> None:
    """Prints what a search would do; `seconds` is the limit of its budget."""
    spaces = ", ".join(f"{name} ({count} objectives)" for name, count in outline["spaces"].items()) or "no space"
    print_line(
        f"{outline['name']}: task {outline['task']}, {outline['metric']}; {spaces}; sampler {outline['sampler']}"
    )
    print_table(outline["arms"])
    names = dict.fromkeys(name for trial in outline["first"] for name in trial)
    print_table(outline["first"], title="first trials", columns=names)
    print_line(_resources(outline["resources"]))
    estimate = outline["estimate"]
    time = f"about {format_duration(estimate['seconds'])}" if estimate["seconds"] else f"unknown: {estimate['why']}"
    limit = f"; no new configuration after {format_duration(seconds)}" if seconds else ""
    folds = "" if outline["selection"] == "none" else f"; selection {_selection(outline['selection'])}"
    most = "at most " if folds and outline["trials"] else ""
    print_line(f"trials: {most}{outline['trials'] or 'as many as the time allows'}; time: {time}{limit}{folds}")


def _resources(resources: Mapping[str, Any]) -> str:
    workers = f"{resources['workers']} workers x " if resources["workers"] > 1 else ""
    gpus = f" and {resources['gpus']:g} GPUs" if resources["gpus"] else ""
    return (
        f"resources: a trial takes {workers}{resources['cpus']:g} CPU cores{gpus}; "
        f"{resources['at_once']} at a time on this machine"
    )


def print_status(status: Mapping[str, Any]) -> None:
    """Prints how far one run is, given its `status()`."""
    left, best = status["left"], status["best"]
    parts = [f"{status['name']}: {status['state']}, {format_duration(status['seconds'])} spent"]
    if status["state"] != RunState.FINISHED:
        parts += [f"{format_count(left['trials'], 'configuration')} left"] if left["trials"] is not None else []
        parts += [f"{format_duration(left['seconds'])} left"] if left["seconds"] is not None else []
    print_line("; ".join(parts))
    print_table([{"arm": arm, **counts} for arm, counts in status["arms"].items()])
    for trial in status["waiting"]:
        print_line(f"{trial['trial_id'] or 'the next trial'} waits: {trial['why']}")
    if best:
        print_line(f"best {status['metric']} {best['score']:.4f} at step {best['best_step']}: {best['trial_id']}")
        if best["params"]:
            print_line(f"  {_text(best['params'])}")


def print_statuses(statuses: Sequence[Mapping[str, Any]]) -> None:
    """Prints one row per run, given each run's `status()`."""
    rows: list[dict[str, Any]] = []
    for status in statuses:
        row = {"run": status["name"], "state": status["state"]}
        if "problem" in status:  # it cannot be read
            rows.append(row | {"age": None, "task": None})
            continue
        counts = {str(state): sum(arm[state] for arm in status["arms"].values()) for state in ENDED_STATES}
        age = "-" if status["age"] is None else format_age(status["age"])
        score = (status["best"] or {}).get("score")
        rows.append({**row, "age": age, "task": status["task"], **counts, status["metric"]: score})
    print_table(rows, columns=dict.fromkeys(name for row in rows for name in row))
    for status in statuses:
        if "problem" in status:
            print_line(f"{status['name']}: {status['problem']}")


def print_recommendation(verdict: str, steps: Iterable[Step]) -> None:
    """Prints what to use of a run, then what would tell more, each with its command on a line of its own."""
    print_line(verdict)
    for step in steps:
        print_line(f"  {step.purpose}:\n    {step.command}")


def print_answer(name: str, answer: pa.Table, run: str, limit: int | None) -> None:
    """Prints the first `limit` rows of a report's answer, or all; columns without any value are left out."""
    head = answer if limit is None else answer.slice(0, limit)
    columns = [column for column in answer.column_names if answer[column].null_count < len(answer)]
    print_table(head.to_pylist(), title=name, columns=columns)
    if len(answer) > len(head):
        print_line(f"  {format_count(len(answer) - len(head), 'more row')}: raysearch analyze {run} {name}\n")
