"""The record of an export, which result.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from raysearch.export.retrain import Verification
from raysearch.export.test_split import TestScore, test_accesses
from raysearch.reports.recommendation import recommend
from raysearch.storage.run import Run
from raysearch.storage.states import TrialRole


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The record of an export: what was exported and its scores. result.json has the same keys."""

    folder: str
    run: str
    trial_id: str
    arm: str
    reason: str  # why this arm, one sentence
    recommendation: str  # what to use of the run, see `reports.recommendation`
    metric: str
    select_dev: float  # of the exported model; with selection the mean of its configuration over folds
    select_error: float | None  # with selection the standard error of this mean
    folds: int  # parts of the labelled rows; 0 without selection, else the model was trained on all of them
    best_step: int
    configurations: int  # of its arm that have a score
    confirmed: tuple[float, ...]  # select-dev scores of the same configuration on fresh seeds
    test: float | None  # None if it was not requested, or the task has no test split
    test_loss: float | None
    openings: int  # how often this run has read the test split so far
    weights_sha256: str
    onnx_difference: float | None  # largest one between logits of model.onnx and the model; None if not requested
    trained_again: bool  # because the run had no weights of this trial
    verified: Verification | None
    notes: tuple[str, ...]


def count_configurations(run: Run, arm: str) -> int:
    """Returns the number of the arm's configurations that have a score."""
    return sum(row["arm"] == arm and row["score"] is not None for row in run.configurations().to_pylist())


def confirmation_scores(run: Run, row: Mapping[str, Any]) -> list[float]:
    """Returns the scores of the trial's configuration on fresh seeds, by seed; with selection means over folds."""
    repeated: dict[int, list[float]] = {}
    trials = run.trials().select(["arm", "role", "number", "seed", "score"]).to_pylist()
    for trial in sorted(trials, key=lambda trial: trial["seed"]):
        is_repeated = (trial["arm"], trial["number"], trial["role"]) == (row["arm"], row["number"], TrialRole.CONFIRM)
        if is_repeated and trial["score"] is not None:
            repeated.setdefault(trial["seed"], []).append(trial["score"])
    return [mean(scores) for scores in repeated.values()]


def shared_fields(
    run: Run, row: Mapping[str, Any], reason: str, folder: Path, test_score: TestScore | None
) -> dict[str, Any]:
    """Returns the fields of a record that mean the same for a trial and an ensemble; read last, for `openings`."""
    return {
        "folder": str(folder),
        "run": run.name,
        "trial_id": row["trial_id"],
        "arm": row["arm"],
        "reason": reason,
        "recommendation": recommend(run).verdict,
        "best_step": row["best_step"],
        "configurations": count_configurations(run, row["arm"]),
        "confirmed": tuple(confirmation_scores(run, row)),
        "test": test_score[0] if test_score else None,
        "test_loss": test_score[1] if test_score else None,
        "openings": len(test_accesses(run)),
    }
