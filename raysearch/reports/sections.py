"""What the page shows of each report of the catalog. Any other report is shown as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.formatting import format_count
from raysearch.reports import plots, plots_sweep, plots_weights, sections_end_task
from raysearch.reports.blocks import (
    Block,
    Column,
    Failures,
    Legend,
    LegendEntry,
    Note,
    Nothing,
    Plots,
    Table,
    number,
    ordered_params,
    state_legend,
    text,
)
from raysearch.reports.plots import Rows, column
from raysearch.reports.query import AnswerRows
from raysearch.reports.verdicts import (
    compare_arms,
    compare_on_test,
    compare_values,
    draws_every_value,
    in_declared_order,
)
from raysearch.storage.states import MAIN_ARM

MAX_ROWS, MAX_FAILURES = 50, 20  # of a table on the page; the tables of the run have all
EMPTY = {
    "stages": "No trial has a second phase, so there is nothing to compare with the first phase.",
    "trajectories": "The weights of the search's best trial do not change, so there is no trajectory to show.",
    "ranking": "No trial whose weights change is complete, so there is nothing to rank.",
    "arms": "The search has no baseline, so there is nothing to compare it with.",
    "final": "The test split has not been read; `raysearch analyze --final` scores every arm on it.",
    "signal": "The best trial's weighting observes no gradients of its objectives, or too few for a standard error.",
    "leaderboard": "No trial has ended yet.",
    "failures": "No trial failed.",
    **sections_end_task.EMPTY,
}


@dataclass(frozen=True)
class RunAnswers:
    """The answers of the catalog's reports on a run, and what is needed to show them."""

    rows: Mapping[str, Rows]  # by report
    search: Mapping[str, Any]  # as declared
    best: Mapping[str, str]  # the best trial's id, by arm
    numbers: Mapping[str, int] = field(default_factory=dict)  # of trials, by which the page's script names them
    notes: Mapping[str, str] = field(default_factory=dict)  # what a section leaves out, by report

    @property
    def metric(self) -> str:
        """The name of the score."""
        return str(self.search["task"]["metric"])

    @property
    def dimensions(self) -> Mapping[str, Any]:
        """The declared dimensions."""
        return self.search["dimensions"]  # type: ignore[no-any-return]  # a search in a table is JSON


INTRODUCTIONS = {  # what a reader has to know to read a section; the notes of a report explain its SQL
    "arms": "Arms are compared by their best configurations on fresh seeds, which took no part in choosing them: "
    "scores that choose are too high. An interval says between which differences the true one may lie.",
    "final": "The test split took no part in any choice.",
    "best_so_far": "A trial that was stopped early is drawn at the score that it had then, and cannot be best.",
    "sweep": "Values are compared over trials that are alike otherwise; the best one was chosen by these same scores.",
    "stages": "Means over the seeds of each arm's best configuration.",
    "trajectories": "Of the search's best trial.",
    "ranking": "Open circles are means over the first 10 % of the steps, filled ones over the last half; the bar is a "
    "standard deviation over trials.",
    "leaderboard": "A configuration's score is the mean over the seeds, or folds, on which it is complete.",
    "compute": "Trials that run at the same time are all counted in full.",
    **sections_end_task.INTRODUCTIONS,
}


def catalog_blocks(name: str, answers: RunAnswers) -> list[Block]:
    """Returns what the page shows of a report with a section of its own; one line, or no section, without."""
    blocks = list(SECTIONS[name](answers))
    if blocks and name in answers.notes:
        blocks.append(Note(answers.notes[name]))
    return blocks or ([Nothing(EMPTY[name])] if name in EMPTY else [])


def default_blocks(answer: pa.Table) -> list[Block]:
    """Returns a table of all columns of any report's answer."""
    if not len(answer):
        return [Nothing("The answer has no rows.")]
    return _limited(Table([_default_column(field) for field in answer.schema], answer.to_pylist()))


def _default_column(field: pa.Field) -> Column:
    """Returns a column with the format that fits its type."""
    if pa.types.is_floating(field.type) or pa.types.is_decimal(field.type):
        return number(field.name, field.name)
    return text(field.name, field.name, numeric=pa.types.is_integer(field.type), wraps=True)


def _limited(table: Table, count: int | None = None) -> list[Block]:
    """Returns the table's first rows, and a note on how many there are more, of `count` in all."""
    hidden = (len(table.rows) if count is None else count) - MAX_ROWS
    if hidden <= 0:
        return [table]
    return [
        Table(table.columns, table.rows[:MAX_ROWS], table.best),
        Note(f"{format_count(hidden, 'more row')}: see `raysearch analyze`."),
    ]


def _best_so_far(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["best_so_far"]
    if not rows:
        return []
    drawn = [over for over in ("nth", "seconds") if any(column(rows, over))]
    svgs = [plots.best_so_far(rows, over, answers.metric, answers.numbers) for over in drawn]
    return [Plots(svgs), state_legend(column(rows, "state"))]


def _curves(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["curves"]
    if not rows:
        return []
    return [
        Plots(plots.curves(rows, answers.metric, answers.best, answers.numbers)),
        state_legend(column(rows, "state"), at_edge=False),
    ]


def _dimensions(answers: RunAnswers) -> list[Block]:
    declared, metric = answers.dimensions, answers.metric
    rows, notes = _drawn_values(answers)
    if not rows:
        return []
    rows = in_declared_order(rows, declared)
    best = answers.best.get(MAIN_ARM)
    svgs = plots_sweep.eta_pairs(rows, declared, metric, answers.numbers)
    pairs: list[Block] = [Plots(svgs, least="250px")] if svgs else []
    if draws_every_value(answers.search):  # the section `sweep` has the plots of these values
        return pairs
    return [
        Plots(plots.dimensions(rows, declared, metric, best, answers.numbers, notes), least="250px"),
        state_legend(column(rows, "state"), LegendEntry("best trial", "◯", colour="ink")),
        *pairs,
    ]


def _drawn_values(answers: RunAnswers) -> tuple[Rows, dict[str, str] | None]:
    """Returns the rows of the report `dimensions`, and the rank correlation of each dimension if rows were left out.

    Of many trials, the rows of the same few are returned for all dimensions; the correlations are those of all.
    """
    if not isinstance(answers.rows, AnswerRows) or len(answers.rows.table("leaderboard")) <= plots.MAX_POINTS:
        return answers.rows["dimensions"], None
    table = answers.rows.table("dimensions")
    trials = table.group_by("trial_id").aggregate([("score", "max")]).sort_by("trial_id").to_pylist()
    rows = plots.thinned([{"trial_id": row["trial_id"], "score": row["score_max"]} for row in trials])
    notes = {}
    for name in pc.unique(table["dimension"]).to_pylist():
        points = table.filter(pc.is_in(table["dimension"], pa.array([name]))).select(["number", "score", "state"])
        if not points["number"].null_count:
            notes[name] = plots.rank_correlation(points.to_pylist())
    return table.filter(pc.is_in(table["trial_id"], pa.array(column(rows, "trial_id")))).to_pylist(), notes


def _stages(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["stages"]
    if max(column(rows, "stage"), default=1) == 1:
        return []
    columns = [
        text("arm", "arm", wraps=True),
        text("phase", "phase", wraps=True),
        number("until step", "until", 0),
        number("seeds", "seeds", 0),
        number("before", "before"),
        number("score", "score"),
        number("kept", "kept"),
        number("better", "better", 0),
    ]
    return [Table(columns, rows)]


def _trajectories(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["trajectories"]
    svgs = plots_weights.trajectories(rows)
    if not svgs:
        return []
    return [Plots(svgs), Legend([LegendEntry(f"best evaluation, step {rows[0]['best_step']}", "┆")])]


def _ranking(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["ranking"]
    if not rows:
        return []
    entries = [
        LegendEntry(f"output {output.replace('_', ' ')}", "●", colour=colour)
        for output, colour in plots_weights.output_colours(column(rows, "name")).items()
    ]
    entries.append(LegendEntry(f"means over {format_count(max(column(rows, 'trials')), 'trial')}"))
    finding = Note(plots_weights.ranking_finding(rows))
    return [finding, Legend(entries), Plots([plots_weights.ranking(rows)], layout="wide")]


def _signal(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["signal"]
    if not rows:
        return []
    apart = sum(row["verdict"] != "not distinguished" for row in rows)
    verdict = f"{apart} of {format_count(len(rows), 'objective')} distinguished from the mean of all"
    if not apart:
        verdict += ": what this trial learned of its objectives is no more than noise"
    shown = [row for row in rows if row["verdict"] != "not distinguished"] if len(rows) > MAX_ROWS else rows
    notes: list[Block] = [Note(f"{verdict}.")]
    return notes + ([Plots([plots_weights.signal(shown[:MAX_ROWS])], layout="wide")] if shown else [])


def _leaderboard(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["leaderboard"]
    if not rows:
        return []
    has_seeds = max(column(rows, "seeds")) > 1
    has_folds = any(error is not None for error in column(rows, "error"))
    spread = number("standard error", "error") if has_folds else number("sd", "sd")
    columns = [
        number("#", "rank", 0),
        number(answers.metric, "score"),
        *([spread, number("folds" if has_folds else "seeds", "seeds", 0)] if has_seeds else []),
        Column("state", "state", "state"),
        text("arm", "arm"),
        number("best step", "best_step", 0),
        number("seconds", "seconds", 1),
        Column("values drawn", "params", "params"),
        Column("trial", "trial_id", css_class="keep mono"),
    ]
    best = next((i for i, row in enumerate(rows) if row["trial_id"] == answers.best.get(MAIN_ARM)), None)
    shown = _with_params(rows[:MAX_ROWS], answers.dimensions)
    return _limited(Table(columns, shown, best=best), len(rows))


def _failures(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["failures"]
    if not rows:
        return []
    hidden = len(rows) - MAX_FAILURES
    more = [Note(f"{format_count(hidden, 'more failure')}: see `raysearch analyze`.")] if hidden > 0 else []
    return [Failures(_with_params(rows[:MAX_FAILURES], answers.dimensions)), *more]


def _compute(answers: RunAnswers) -> list[Block]:
    rows = answers.rows["compute"]
    if not rows:
        return []
    longest = max(row["seconds"] or 0.0 for row in rows)

    def bar(row: dict[str, Any]) -> dict[str, str] | None:
        if not row["seconds"]:
            return None
        return {"width": f"{75 * row['seconds'] / longest:.1f}", "percent": f"{100 * row['share']:.0f}"}

    columns = [
        text("arm", "arm"),
        text("role", "role", wraps=True),
        Column("state", "state", "state"),
        number("trials", "trials", 0),
        number("steps", "steps", 0),
        number("seconds", "seconds", 1),
        Column("share of the time", "bar", "share"),
    ]
    return [Table(columns, [{**row, "bar": bar(row)} for row in rows])]


def _with_params(rows: Rows, dimensions: Mapping[str, Any]) -> Rows:
    """Returns the rows with the JSON of `params` as pairs of name and value, in the declared order."""
    order = list(dimensions)
    return [{**row, "params": ordered_params(json.loads(row["params"] or "{}"), order)} for row in rows]


SECTIONS: dict[str, Callable[[RunAnswers], Sequence[Block]]] = {  # in the order of the page
    "arms": lambda answers: compare_arms(answers.rows["arms"], answers.metric),
    "final": lambda answers: compare_on_test(answers.rows["final"], answers.metric),
    "best_so_far": _best_so_far,
    "curves": _curves,
    "sweep": lambda answers: compare_values(
        answers.rows["sweep"],
        answers.rows["dimensions"] if draws_every_value(answers.search) else [],
        answers.search,
        answers.metric,
    ),
    "dimensions": _dimensions,
    **sections_end_task.SECTIONS,
    "stages": _stages,
    "trajectories": _trajectories,
    "ranking": _ranking,
    "signal": _signal,
    "leaderboard": _leaderboard,
    "failures": _failures,
    "compute": _compute,
}
