"""Several runs side by side: what they declare otherwise, what they spent and scored, and paired verdicts.

Two runs are compared with each other only where their numbers belong together: the same prepared data, the same metric,
and fresh seeds on which the arm of both was repeated. Then the difference is taken seed by seed, as between the arms of
one run (`arm_comparison`); all runs are compared with the first one, and these comparisons are judged together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from raysearch.errors import RunError, did_you_mean
from raysearch.formatting import format_count, html_page, html_table
from raysearch.reports.arm_comparison import LEAST_SEEDS, Comparison, Scores, compare, overlap_between, repeated_scores
from raysearch.reports.recommendation import recommend
from raysearch.reports.wording import name_arm, state_basis
from raysearch.storage.commands import run_reference
from raysearch.storage.states import MAIN_ARM

if TYPE_CHECKING:
    from raysearch.storage.run import Run

_PLACES = ("name", "runs", "task.base")  # keys that say where something lies, and no more
_ABSENT = None


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; the first is the one that the others are compared with."""

    runs: tuple[dict[str, Any], ...]  # a row for each run: score, seeds, what was spent
    differences: tuple[dict[str, Any], ...]  # a row for each key that is not the same: key, and a value for each run
    verdicts: tuple[str, ...]  # a sentence for each run after the first

    def _repr_html_(self) -> str:
        """Returns what a notebook shows."""
        return html_page("compared runs", self.verdicts, html_table(self.runs), html_table(self.differences))


def compare_runs(runs: Sequence[Run], arm: str = MAIN_ARM) -> RunComparison:
    """Compares runs with the first of them by one arm, the search's winner unless another is named.

    Raises RunError for fewer than two runs, for one named twice, and for an arm that none of them has.
    """
    if len(runs) < 2:
        raise RunError("a comparison needs two runs or more; name another one")
    paths = [run.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise RunError("the same run is named twice; name different ones")
    arms = {name for run in runs for name in run.arms}
    if arm not in arms:
        raise RunError(f"no run has an arm {arm!r}{did_you_mean(arm, arms)}")
    entries = [_Entry(run, label, arm) for run, label in zip(runs, _labels(runs), strict=True)]
    return RunComparison(
        runs=tuple(entry.row() for entry in entries),
        differences=tuple(_differences(entries)),
        verdicts=tuple(_verdicts(entries)),
    )


class _Entry:
    """A run that takes part in a comparison, and its arm's scores on fresh seeds."""

    def __init__(self, run: Run, label: str, arm: str) -> None:
        self.run, self.label, self.arm, self.search = run, label, arm, run.search
        self.metric = str(self.search.get("task", {}).get("metric", "score"))
        declared = run.searches()["data"].to_pylist()
        self.data = json.loads(declared[-1] or "{}").get("fingerprint") if declared else None
        choice = run.best_arm()
        self.overlap = overlap_between(choice) if choice else 0.0
        self.scores = repeated_scores(choice, run.trials().to_pylist()).get(arm, {}) if choice else {}
        chosen = next((each for each in choice.ranked if each.arm == arm), None) if choice else None
        self.number = chosen.number if chosen else None

    def row(self) -> dict[str, Any]:
        """Returns what the run spent and scored."""
        status, fresh = self.run.status(), list(self.scores.values())
        counts = status["arms"].get(self.arm, {})
        configurations = {row["number"]: row for row in self.run.configurations().to_pylist() if row["arm"] == self.arm}
        best = configurations.get(self.number) if self.number is not None else None
        return {
            "run": self.label,
            "task": status["task"],
            "state": status["state"],
            "arm": self.arm,
            "metric": self.metric,
            "score when chosen": best["score"] if best else None,
            "mean on fresh seeds": fmean(fresh) if fresh else None,
            "fresh seeds": len({cell.seed for cell in self.scores}),
            "configurations": len(configurations),
            "trials": counts.get("asked", 0),
            "seconds": status["seconds"],
            "recommended": recommend(self.run).arm,
        }


def _labels(runs: Sequence[Run]) -> list[str]:
    """Returns a name for each run: its own, or what the command line calls it where two have the same."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else run_reference(run.path) for name, run in zip(names, runs, strict=True)]


def _differences(entries: Sequence[_Entry]) -> Iterator[dict[str, Any]]:
    """Yields a row for each declared key whose value is not the same in all runs."""
    declared = [dict(_leaves(entry.search)) | {"data": entry.data} for entry in entries]
    for key in sorted({key for each in declared for key in each} - set(_PLACES)):
        values = [each.get(key, _ABSENT) for each in declared]
        if any(value != values[0] for value in values):
            yield {"key": key, **{entry.label: value for entry, value in zip(entries, values, strict=True)}}


def _leaves(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yields the dotted key of every value in a tree of mappings, and the value; the bounds of a dimension are one."""
    if isinstance(tree, dict) and tree and not (len(keys) > 1 and keys[-2] == "dimensions"):
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))
    else:
        yield ".".join(keys), tree


def _verdicts(entries: Sequence[_Entry]) -> Iterator[str]:
    """Yields a sentence for each run after the first: how it differs from the first, or why that cannot be said."""
    first, *others = entries
    reasons = {other.label: _why_incomparable(first, other) for other in others}
    scores: Scores = {each.label: each.scores for each in (first, *others) if not reasons.get(each.label)}
    compared = compare(scores, first.label, first.overlap) if len(scores) > 1 else {}
    for other in others:
        between = f"{other.label} compared with {first.label}"
        if reason := reasons[other.label]:
            yield f"{between}: nothing can be said, because {reason}."
        else:
            yield f"{between}: {_sentence(compared[other.label].reversed(), other)}"


def _why_incomparable(first: _Entry, other: _Entry) -> str:
    """Returns why the scores of two runs do not belong together; empty if they do."""
    if first.metric != other.metric:
        return f"one is scored by {first.metric} and the other by {other.metric}"
    if first.data is None or first.data != other.data:
        return "their scores are of other examples (the prepared data differ)"
    for each in (first, other):
        if not each.scores:
            return f"{name_arm(each.arm)} of {each.label} was not repeated on fresh seeds (`confirm:`)"
    if first.overlap != other.overlap:
        return "they are scored on folds of other sizes"
    if not first.scores.keys() & other.scores.keys():
        return "no fresh seed is the same in both; give them the same `confirm.seeds`"
    return ""


def _sentence(comparison: Comparison, other: _Entry) -> str:
    """Returns by how much the other run's arm differs from the first's, on what that rests, and how surely."""
    size = f"{abs(comparison.difference):.3f}"
    direction = "more" if comparison.difference > 0 else "less"
    amount = f"scores the same {other.metric}" if float(size) == 0 else f"scores {size} {other.metric} {direction}"
    return f"{name_arm(other.arm)} {amount} {state_basis(comparison)}: {_finding(comparison)}."


def _finding(comparison: Comparison) -> str:
    if len(comparison.d) < LEAST_SEEDS and comparison.better == 0:
        seeds = format_count(len(comparison.d), "seed")
        return f"{seeds} in common show nothing" if len(comparison.d) > 1 else f"{seeds} in common shows nothing"
    if comparison.better or comparison.leans:
        sure = "" if comparison.better else "probably "
        return f"it is {sure}{'better' if (comparison.better or comparison.leans) > 0 else 'worse'}"
    return "no evidence of a difference"


def to_plain(comparison: RunComparison) -> Mapping[str, Any]:
    """Returns a comparison in values that JSON holds."""
    return {"runs": comparison.runs, "differences": comparison.differences, "verdicts": comparison.verdicts}
