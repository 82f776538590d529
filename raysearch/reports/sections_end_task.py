"""The page's sections on the end task itself, and on what matters for its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from raysearch.formatting import format_bounds, format_count, printable
from raysearch.reports import plots_end_task, plots_importance
from raysearch.reports.blocks import Block, Note, Plots, Table, Verdict, difference, interval, number, text
from raysearch.reports.plots import Rows, column, grouped
from raysearch.reports.wording import name_arm
from raysearch.storage.states import MAIN_ARM

MOST_LABELS = 30  # of a matrix or a plot
MOST_PAIRS = 15  # of confusions in a table
MOST_SHOWN_ERRORS = 10  # of an arm
TEXT_CUT = 160  # characters of a text on the page
INTRODUCTIONS = {
    "confusion": "Of the rows that score the search, means over seeds: the search's winner, the best baseline, "
    "and how they differ.",
    "labels": "F1 is the harmonic mean of precision and recall. A filled point differs from 0 by its own interval; of "
    "twenty labels that do not differ about one does.",
    "disagreements": "Would other rows show the same? The section on baselines asks it of other seeds.",
    "errors": "A row that all arms get wrong, and surely, may carry a wrong label: look at these first.",
    "calibration": "Of the rows of which an arm is 80 % sure, 80 % should be right. The calibration error is the mean "
    "distance from that; chance alone makes it larger than 0.",
    "importance": "The share of the variance of the scores that a dimension explains by itself. A filled point is "
    "distinguished from 0, that is from a dimension that does nothing.",
    "effects": "By a regression on all of them and on the other dimensions; each interval is for its own effect alone.",
}
EMPTY = {
    "confusion": "No arm has predictions of labels, so there are no confusions to show.",
    "labels": "No arm has predictions of labels, so there are no scores by label.",
    "disagreements": "No two arms have predictions for the same rows, so there is nothing to compare row by row.",
    "errors": "No row is predicted wrong, or no arm has predictions.",
    "calibration": "No arm has probabilities, so there is nothing to calibrate.",
    "reliability": "No arm has probabilities, so there are no bins of them.",
    "importance": "Fewer than eight configurations have a score and draw different values: nothing is estimated yet.",
    "effects": "All trials have the same objectives with the same weights, or too few trials have others to compare.",
}


class Answers(Protocol):
    """The answers of the catalog's reports, see `sections.RunAnswers`."""

    @property
    def rows(self) -> Mapping[str, Rows]:
        """The rows of each report."""

    @property
    def metric(self) -> str:
        """The name of the score."""


# ---- the end task ----


def _confusion(answers: Answers) -> list[Block]:
    rows = answers.rows["confusion"]
    wrong = sorted(
        (row for row in rows if row["truth"] != row["predicted"] and row["share"] > 0),
        key=lambda row: (row["arm"] != MAIN_ARM, row["arm"], -row["predicted_rows"]),
    )
    columns = [
        text("arm", "arm"),
        *([text("label", "label")] if any(column(rows, "label")) else []),
        text("true label", "truth"),
        text("predicted", "predicted"),
        number("rows", "rows", 0),
        number("of them predicted so", "predicted_rows", 1),
        number("share", "share", 3),
        number("from", "low", 3),
        number("to", "high", 3),
    ]
    if not rows:
        return []
    labels = _most_frequent(rows, "truth", "rows")
    labels += sorted({row["predicted"] for row in rows} - set(labels))
    shown: list[Block] = []
    if not any(column(rows, "label")) and len(labels) <= MOST_LABELS:
        arms = _shown_arms(rows)
        svgs = [plots_end_task.confusion(rows, arm, labels) for arm in arms]
        if len(arms) > 1:
            svgs.append(plots_end_task.confusion_change(rows, arms[0], arms[1], labels))
        shown.append(Plots(svgs, least="330px"))
    most = [row for of_arm in grouped(wrong, "arm").values() for row in of_arm[:MOST_PAIRS]]
    return [*shown, Table(columns, most, summary="The most frequent confusions of each arm, with 95 % intervals")]


def _shown_arms(rows: Rows) -> list[str]:
    """Returns the search, and the other arm that has the most rows right; without the search, that arm."""
    right: dict[str, float] = {}
    for row in rows:
        right[row["arm"]] = right.get(row["arm"], 0.0) + row["predicted_rows"] * (row["truth"] == row["predicted"])
    others = sorted((arm for arm in right if arm != MAIN_ARM), key=lambda arm: (-right[arm], arm))
    return [*(arm for arm in right if arm == MAIN_ARM), *others[:1]]


def _labels(answers: Answers) -> list[Block]:
    rows = answers.rows["labels"]
    if not rows:
        return []
    arms = list(grouped(rows, "arm"))
    labels = _most_frequent(rows, "label", "rows")
    compared = [row for row in rows if row["low"] is not None]
    shown = labels[:MOST_LABELS]
    svgs = [plots_end_task.label_scores(rows, shown)]
    svgs += [plots_end_task.label_changes(compared, shown)] if compared else []
    columns = [
        text("label", "label"),
        text("arm", "arm"),
        number("rows", "rows", 0),
        number("precision", "precision", 3),
        number("recall", "recall", 3),
        number("F1", "f1", 3),
        number("from", "f1_low", 3),
        number("to", "f1_high", 3),
        difference("search minus arm", "difference"),
        interval("95 % interval", "low", "high"),
    ]
    more = f"{format_count(len(labels), 'label')}, {format_count(len(arms), 'arm')}"
    return [*_label_finding(compared), Plots(svgs, least="380px"), Table(columns, rows, summary=more)]


def _label_finding(compared: Rows) -> list[Block]:
    """Returns a sentence on which labels differ by their own intervals."""
    if not compared:
        return []
    parts = []
    for arm, rows in grouped(compared, "arm").items():
        better = [row["label"] for row in rows if row["low"] > 0]
        worse = [row["label"] for row in rows if row["high"] < 0]
        words = [f"better on {', '.join(better)}"] if better else []
        words += [f"worse on {', '.join(worse)}"] if worse else []
        parts.append(f"compared with {arm}, {' and '.join(words) or 'no label is distinguished'}")
    return [Note(f"The search's winner, by the intervals of single labels: {'; '.join(parts)}.")]


def _disagreements(answers: Answers) -> list[Block]:
    rows = answers.rows["disagreements"]
    if not rows:
        return []
    verdicts = [_disagreement(row) for row in rows]
    columns = [
        text("arm", "arm"),
        number("rows", "rows", 0),
        number("only search", "only_search", 0),
        number("only arm", "only_arm", 0),
        number("p", "p", 4, missing=""),
        number("p, Holm", "p_holm", 4, missing=""),
        difference("search minus arm", "difference"),
        interval("95 % interval", "low", "high"),
    ]
    note = "The interval is that of the difference in the share of rows that are right, over rows and seeds."
    return [*verdicts, Table(columns, rows), Note(note)]


def _disagreement(row: Mapping[str, Any]) -> Verdict:
    comparison = (
        f"Of {format_count(row['rows'], 'row')} the search's winner alone is right on {row['only_search']}, "
        f"{name_arm(row['arm'])} alone on {row['only_arm']}"
    )
    findings = {
        "the search is right on more rows": "the search's winner is right on more rows",
        "the arm is right on more rows": f"{name_arm(row['arm'])} is right on more rows",
    }
    finding = findings.get(row["verdict"], "no evidence of a difference on other rows")
    return Verdict(comparison, finding, _p_value(row["p_holm"]))


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return f" (p = {p:.3f})" if p >= 0.001 else " (p < 0.001)"


def _errors(answers: Answers) -> list[Block]:
    rows = [_cut_text(row) for row in answers.rows["errors"]]
    if not rows:
        return []
    has_numbers = rows[0]["error"] is not None
    columns = [
        number("row", "row", 0),
        *([text("label", "label")] if any(column(rows, "label")) else []),
        text("true", "truth"),
        text("predicted", "predicted"),
        *([number("error", "error", 3)] if has_numbers else [number("confidence", "confidence", 2)]),
        *([] if has_numbers else [text("wrong on seeds", "on_seeds", numeric=True)]),
        *([] if has_numbers else [number("other arms wrong", "also_wrong", 0)]),
        *([text("text", "text", wraps=True)] if any(column(rows, "text")) else []),
    ]
    missing = "the numbers are of rows of select-dev, or with selection of all labelled rows"
    note: list[Block] = [] if any(column(rows, "text")) else [Note(f"The texts of the rows are not there; {missing}.")]
    tables = [
        Table(columns, of_arm[:MOST_SHOWN_ERRORS], summary=f"Errors of {name_arm(arm)}" if place else "")
        for place, (arm, of_arm) in enumerate(grouped(rows, "arm").items())
    ]
    first = rows[0]["arm"]
    return [*note, Note(f"Of {name_arm(first)}; those of the other arms are folded below."), *tables]


def _cut_text(row: Mapping[str, Any]) -> dict[str, Any]:
    words = " ".join(printable(row["text"] or "").split())
    shown = words if len(words) <= TEXT_CUT else words[: TEXT_CUT - 1] + "…"
    return {**row, "text": shown, "on_seeds": f"{row['wrong']} of {row['seeds']}"}


def _calibration(answers: Answers) -> list[Block]:
    rows = answers.rows["calibration"]
    if not rows:
        return []
    columns = [
        text("arm", "arm"),
        text("verdict", "verdict"),
        number("confidence", "confidence", 3),
        number("accuracy", "accuracy", 3),
        number("error", "error", 3),
        text("95 % interval", "bounds", numeric=True),
        number("by chance", "by_chance", 3),
    ]
    scores = [
        text("arm", "arm"),
        number("Brier score", "brier", 4),
        interval("search minus arm, 95 % interval", "brier_low", "brier_high"),
        number("log loss", "log_loss", 4),
        interval("search minus arm, 95 % interval", "log_loss_low", "log_loss_high"),
    ]
    curves = grouped(answers.rows["reliability"], "arm")
    plot = plots_end_task.reliability(curves)
    shown = [
        row | {"bounds": f"{row['low']:.3f} to {row['high']:.3f}" if row["low"] is not None else ""} for row in rows
    ]
    return [
        _calibration_verdict(rows[0]),
        Plots([plot], layout="wide"),
        Table(columns, shown),
        Table(scores, rows, summary="Brier score and log loss: the lower the better"),
    ]


def _reliability(answers: Answers) -> list[Block]:
    rows = answers.rows["reliability"]
    columns = [
        text("arm", "arm"),
        number("rows", "rows", 0),
        number("confidence", "confidence", 3),
        number("accuracy", "accuracy", 3),
        number("from", "low", 3),
        number("to", "high", 3),
    ]
    return [Table(columns, rows, summary="The bins of the curves above")] if rows else []


def _calibration_verdict(row: Mapping[str, Any]) -> Verdict:
    comparison = (
        f"{name_arm(row['arm'])} is {100 * row['confidence']:.0f} % sure on average, and right in "
        f"{100 * row['accuracy']:.0f} % of rows"
    )
    surety = ""
    if row["surplus_low"] is not None:
        surety = f" (difference in shares, 95 % interval {format_bounds(row['surplus_low'], row['surplus_high'])})"
    return Verdict(comparison[:1].upper() + comparison[1:], row["verdict"], surety)


# ---- what matters ----


def _importance(answers: Answers) -> list[Block]:
    rows = answers.rows["importance"]
    if not rows:
        return []
    return [Note(_importance_finding(rows)), Plots([plots_importance.importance(rows[:MOST_LABELS])], layout="wide")]


def _importance_finding(rows: Rows) -> str:
    """Returns which dimensions are distinguished from one that does nothing, and from each other."""
    first = rows[0]
    basis = f"By {format_count(max(column(rows, 'configurations')), 'configuration')}"
    basis += f" of {first['total']}, drawn at random" if first["total"] > max(column(rows, "configurations")) else ""
    if first["stopped"]:
        basis += f", of which {first['stopped']} were stopped and are compared at the step that others had reached too"
    if first["failed"]:
        basis += f" ({first['failed']} failed and are left out)"
    matter = [row["dimension"] for row in rows if row["low"] > 0]
    if not matter:
        return f"{basis}, no dimension is distinguished from one that does nothing."
    tied = [row["dimension"] for row in rows[1:] if row["low"] > 0 and not row["behind"]]
    behind = [row["dimension"] for row in rows[1:] if row["low"] > 0 and row["behind"]]
    rest = len(rows) - len(matter)
    finding = f"{basis}, {first['dimension']} matters"
    finding += (
        f", and so {'does' if len(tied) == 1 else 'do'} {', '.join(tied)}: which of them most is not distinguished"
        if tied
        else ""
    )
    finding += f"; {', '.join(behind)} {'matters' if len(behind) == 1 else 'matter'} less" if behind else ""
    return (
        f"{finding}; {format_count(rest, 'dimension')} {'is' if rest == 1 else 'are'} not distinguished from none."
        if rest
        else f"{finding}."
    )


def _effects(answers: Answers) -> list[Block]:
    rows = answers.rows["effects"]
    if not rows:
        return []
    unit = f"points of {answers.metric}" if rows[0]["response"] == "score" else "share of other configurations beaten"
    per = "for a tenth more weight" if rows[0]["measure"] == "weight" else "for having it"
    columns = [
        text("what", "kind"),
        text("name", "name", wraps=True),
        difference("effect", "effect"),
        interval("95 % interval", "low", "high"),
        text("verdict", "verdict", wraps=True),
        number("configurations with it", "present", 0, missing=""),
    ]
    kinds = grouped(rows, "kind")
    svgs = [plots_importance.effects(of_kind[:MOST_LABELS], kind, f"{unit}, {per}") for kind, of_kind in kinds.items()]
    table = Table(columns, rows, summary=format_count(len(rows), "effect"))
    return [Note(_effects_finding(kinds)), *[Plots([svg], layout="wide") for svg in svgs], table]


def _effects_finding(kinds: Mapping[str, Rows]) -> str:
    parts = []
    for kind, rows in kinds.items():
        helps = [row["name"] for row in rows if row["verdict"] == "helps"]
        harms = [row["name"] for row in rows if row["verdict"] == "harms"]
        words = [f"{', '.join(helps)} {'helps' if len(helps) == 1 else 'help'}"] if helps else []
        words += [f"{', '.join(harms)} {'harms' if len(harms) == 1 else 'harm'}"] if harms else []
        none = f"none of {format_count(len(rows), kind)} is distinguished from nothing"
        parts.append(" and ".join(words) or none)
    chance = (
        " About one in twenty looks as if it did something by chance." if sum(map(len, kinds.values())) > 10 else ""
    )
    return f"{'; '.join(parts)}.{chance}"


def _most_frequent(rows: Rows, name: str, count: str) -> list[str]:
    """Returns the values of a column, those with the most rows first."""
    counts: dict[str, float] = {}
    for row in rows:
        counts[row[name]] = max(counts.get(row[name], 0.0), row[count])
    return sorted(counts, key=lambda value: (-counts[value], value))


SECTIONS: dict[str, Callable[[Answers], Sequence[Block]]] = {
    "importance": _importance,
    "effects": _effects,
    "labels": _labels,
    "confusion": _confusion,
    "disagreements": _disagreements,
    "errors": _errors,
    "calibration": _calibration,
    "reliability": _reliability,
}
