"""What makes a run's scores say less than they seem to: ties, constant predictions, budgets too short. Torch-free.

Each warning is a sentence with a remedy. A rule looks at trials that are complete; what is known of the data comes from
the data doctor's facts, which runs of earlier versions lack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raysearch.data.doctor import DataFacts, choosing_rows, majority_score, standard_error
from raysearch.data.prepared import load_metadata
from raysearch.errors import SpecError
from raysearch.formatting import format_count
from raysearch.storage.commands import command, run_reference
from raysearch.storage.states import MAIN_ARM, TrialRole, TrialState

if TYPE_CHECKING:
    from raysearch.storage.run import Run

Rows = Sequence[Mapping[str, Any]]

LAST_SHARE = 0.8  # of an arm's trials; if so many were best at the end, all may have been stopped too early
LEAST_TRIALS = 3  # of which that can be said
SAME = 1e-9  # scores that differ by less are equal
FOLD_TOLERANCE = 0.005  # by which a majority's score on folds may differ from that on all labelled rows
_COLUMNS = ["trial_id", "arm", "role", "number", "state", "score", "best_step", "steps"]


def warn(run: Run) -> list[str]:
    """Returns a sentence for everything that makes the run's scores say less than they seem to."""
    trials = run.trials().select(_COLUMNS).to_pylist()
    complete = [row for row in trials if row["state"] == TrialState.COMPLETE and row["score"] is not None]
    searched = [row for row in complete if row["role"] == TrialRole.SEARCH]
    metric = str(run.search.get("task", {}).get("metric", "score"))
    facts, has_folds = _read_facts(run), _has_folds(run)
    return [
        *_failures(run, trials),
        *(_constant(complete, facts, metric, has_folds) or _ties(searched, metric)),
        *_unfinished_trials(run, searched),
        *_few_configurations(run, searched),
        *_noise(searched, facts, metric, has_folds),
    ]


def _read_facts(run: Run) -> DataFacts | None:
    try:
        stored = load_metadata(run.path / "data").get("facts")
    except SpecError:  # a run without its folder of data
        return None
    return DataFacts.from_plain(stored) if stored else None


def _has_folds(run: Run) -> bool:
    selection = run.search.get("selection")
    return isinstance(selection, dict) and selection.get("folds", 0) > 0


def _failures(run: Run, trials: Rows) -> Iterator[str]:
    failed = sum(row["state"] == TrialState.FAILED for row in trials)
    if failed:
        reasons = command("analyze", run_reference(run.path), "failures")
        yield f"{failed} of {format_count(len(trials), 'trial')} failed, and no result rests on these: {reasons}"


def _constant(complete: Rows, facts: DataFacts | None, metric: str, has_folds: bool) -> list[str]:
    """Returns a sentence if no trial is better than always predicting the largest class."""
    majority = majority_score(facts, metric) if facts is not None else None
    if majority is None or facts is None or not complete:
        return []
    best = max(row["score"] for row in complete)
    if best > majority + (FOLD_TOLERANCE if has_folds else SAME):
        return []
    largest = next(iter(facts.classes["train"]))
    return [
        f"no trial is better than always predicting {largest} ({majority:.3f} {metric}; the best trial has {best:.3f})"
        ": nothing was learned that helps; try more steps, a larger lr, another encoder, or look at the labels"
    ]


def _ties(searched: Rows, metric: str) -> list[str]:
    """Returns a sentence if all configurations have the same score."""
    scores = [row["score"] for row in searched]
    if len({(row["arm"], row["number"]) for row in searched}) < 2 or max(scores) - min(scores) > SAME:
        return []
    count = format_count(len(scores), "trial")
    return [
        f"all {count} have the same score, {scores[0]:.3f} {metric}: nothing that was varied changed a prediction, and "
        "the choice among them is arbitrary; try more steps, a wider range of lr, or more dev rows"
    ]


def _best_steps(run: Run) -> dict[str, int]:
    """Returns the first step at which each trial had its highest score; with selection its score is the last one."""
    best: dict[str, tuple[float, int]] = {}
    for row in run.evaluations().select(["trial_id", "step", "split", "score"]).to_pylist():
        score, step = row["score"], row["step"]
        if row["split"] == "select_dev" and score is not None:
            best[row["trial_id"]] = max(best.get(row["trial_id"], (score, -step)), (score, -step))
    return {trial_id: -step for trial_id, (_, step) in best.items()}


def _unfinished_trials(run: Run, searched: Rows) -> Iterator[str]:
    """Yields a sentence for each arm whose trials were best at their last evaluation."""
    best_steps = _best_steps(run) if _has_folds(run) else {}
    for arm in dict.fromkeys(row["arm"] for row in searched):
        rows = [row for row in searched if row["arm"] == arm and (row["steps"] or 0) > 1]
        last = sum(best_steps.get(row["trial_id"], row["best_step"]) == row["steps"] for row in rows)
        if len(rows) >= LEAST_TRIALS and last >= LAST_SHARE * len(rows):
            longer = command("launch", "FILE", "--fork", f"{run.name}-longer", "--set", "settings.steps=N")
            name = "the search" if arm == MAIN_ARM else arm
            yield (
                f"{last} of {len(rows)} trials of {name} were best at their last evaluation, so that more steps may be "
                f"better: {longer}"
            )


def _few_configurations(run: Run, searched: Rows) -> Iterator[str]:
    configurations = len({row["number"] for row in searched if row["arm"] == MAIN_ARM})
    dimensions = len(run.search.get("dimensions") or {})
    if 0 < configurations < dimensions:
        yield (
            f"{format_count(configurations, 'configuration')} of the search for {format_count(dimensions, 'dimension')}"
            ": too few to find good values; a larger budget, fewer steps or fewer dimensions would try more"
        )


def _noise(searched: Rows, facts: DataFacts | None, metric: str, has_folds: bool) -> Iterator[str]:
    """Yields a sentence if the scores of the search's configurations differ less than chance makes them."""
    scores = [row["score"] for row in searched if row["arm"] == MAIN_ARM]
    error = standard_error(facts, metric, is_cross_validated=has_folds) if facts is not None else None
    if facts is None or error is None or len({row["number"] for row in searched if row["arm"] == MAIN_ARM}) < 2:
        return
    spread = max(scores) - min(scores)
    if SAME < spread < error:
        rows = choosing_rows(facts, is_cross_validated=has_folds)
        yield (
            f"the scores of the search's configurations span {spread:.3f} {metric}, less than the standard error of a "
            f"score on {format_count(rows, 'row')} (about {error:.3f}): which of them is best is mostly chance"
        )
