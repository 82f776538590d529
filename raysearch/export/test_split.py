"""The test split: who may read it, and what is recorded when it is read.

`raysearch export` reads it for one trial. `raysearch analyze --final` reads it for every arm, for the trials that
repeat the arm's chosen configuration on fresh seeds. Each access is an event of the run, which is written before the
score is known. A trial whose test score is recorded is not scored again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from raysearch.data.prepared import load_metadata, load_prepared_data
from raysearch.errors import RunError
from raysearch.export.retrain import RetrainedTrial, retrain_trial
from raysearch.formatting import format_count
from raysearch.plan import TrialPlan
from raysearch.storage.containment import path_inside
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run
from raysearch.storage.states import EventName
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder

TestScore = tuple[float, float]  # metric, mean loss (nat)


def has_test_split(run: Run) -> bool:
    """Returns whether the task has a test split."""
    return (run.path / "data" / "test.arrow").exists()


def test_accesses(run: Run) -> list[dict[str, Any]]:
    """Returns trial_id, weights (sha256) and data (fingerprint) of every access to the test split in this run."""
    events = run.events().select(["event", "trial_id", "detail"]).to_pylist()
    return [
        {**json.loads(event["detail"]), "trial_id": event["trial_id"]}
        for event in events
        if event["event"] == EventName.OPENED_TEST
    ]


def recorded_test_score(run: Run, row: Mapping[str, Any], weights: str) -> TestScore | None:
    """Returns the test score that the run has recorded for these weights of a trial; None without a record."""
    data = load_prepared_data(run.path / "data").fingerprint
    access = {"weights": weights, "data": data, "trial_id": row["trial_id"]}
    if any(access.items() <= earlier.items() for earlier in test_accesses(run)):
        for evaluation in run.evaluations(row["trial_id"]).to_pylist():
            if evaluation["split"] == "test":
                return evaluation["score"], evaluation["loss"]
    return None


def score_once(
    run: Run, row: Mapping[str, Any], weights: str, notes: list[str], score: Callable[[], TestScore]
) -> TestScore | None:
    """Returns the test score from the run's record, or else by `score`; None without a test split.

    Adds to `notes` what a reader of the score has to know.
    """
    if not has_test_split(run):
        notes.append("The task has no test split.")
        return None
    if (recorded := recorded_test_score(run, row, weights)) is not None:
        return recorded
    if earlier := test_accesses(run):
        trials = ", ".join(sorted({access["trial_id"] for access in earlier}))
        notes.append(
            f"The test split was read {format_count(len(earlier), 'time')} before, for {trials}. A choice by these "
            "scores would be a selection on test."
        )
    return record_test_score(run, row, weights, "export", score)


def record_test_score(
    run: Run, row: Mapping[str, Any], weights: str, purpose: str, score: Callable[[], TestScore]
) -> TestScore:
    """Records the access to the test split, then calls `score`, then records its result.

    Raises RunError when another process writes to the run.
    """
    attempt = {"trial_id": row["trial_id"], "attempt": max(0, (row["attempts"] or 1) - 1)}
    data, metric = load_prepared_data(run.path / "data").fingerprint, load_metadata(run.path / "data")["metric"]
    with Ledger.open(run.path, purpose=purpose) as ledger:
        ledger.event(EventName.OPENED_TEST, **attempt, detail={"weights": weights, "data": data}, durable=True)
        value, loss = score()
        evaluation = {"step": row["best_step"], "split": "test", "metric": metric, "score": value, "loss": loss}
        ledger.append("evaluations", [attempt | evaluation], durable=True)
    return value, loss


def load_plan(run: Run, row: Mapping[str, Any]) -> TrialPlan:
    """Returns the trial's plan, with the data where the run's folder is now."""
    plan = row["plan"]
    plan = TrialPlan.from_json(plan if isinstance(plan, str) else json.dumps(plan))
    return replace(plan, task=plan.task | {"data": str((run.path / "data").resolve())})


def load_or_retrain(
    run: Run, row: Mapping[str, Any], plan: TrialPlan
) -> tuple[dict[str, Tensor], RetrainedTrial | None]:
    """Returns the trial's best parameters from its folder; trains it a second time if it has none, or damaged ones."""
    file = TrialFolder(path_inside(run.path, "trials", row["trial_id"])).best
    reason = RetrainedTrial.reason
    if file.exists():
        try:
            parameters: dict[str, Tensor] = checkpoint.load(file)["parameters"]
        except RunError as error:
            reason = f"{error}; so the trial was trained a second time."
        else:
            return parameters, None
    retrained = replace(retrain_trial(run, row, plan), reason=reason)
    return retrained.parameters, retrained
