"""The training whose model is exported for a configuration.

Without selection it is the configuration's best trial. With selection its trials have each left out a fold, and the
model is that of a training on all labelled rows, for as many steps: the search has done it at its end (role refit), or
it is done now. No row is left to score it. Its score is the mean over the folds, each scored by a model that was
trained on fewer rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.storage.cells import NO_FOLD
from raysearch.storage.run import Run
from raysearch.storage.states import TrialRole, TrialState


@dataclass(frozen=True, kw_only=True)
class FoldScore:
    """The score of a configuration over folds."""

    folds: int  # of a partition
    trials: int  # complete ones: folds of all partitions and seeds
    mean: float
    error: float | None  # standard error, see `storage.best.fold_error`


def final_training(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of the trial to export for the configuration of `row`, plan and params parsed.

    With selection its score is on the rows that it was trained on.
    """
    plan = TrialPlan.from_dict(row["plan"])
    if not plan.folds:
        return dict(row)
    refit = replace(plan, fold=NO_FOLD, role=TrialRole.REFIT, seed=run.search["seeds"][0])
    done = [
        trial
        for trial in run.trials().to_pylist()
        if (trial["role"], trial["arm"], trial["number"]) == (TrialRole.REFIT, row["arm"], row["number"])
        and trial["state"] == TrialState.COMPLETE
    ]
    if done:
        scores = run.evaluations(done[-1]["trial_id"]).to_pylist()
        trained = [each["score"] for each in scores if each["split"] == "train" and each["step"] == done[-1]["steps"]]
        parsed = {name: json.loads(done[-1][name]) for name in ("plan", "params")}
        return {**done[-1], **parsed, "score": trained[-1] if trained else None}
    trial = {"trial_id": refit.trial_id, "role": str(TrialRole.REFIT), "seed": refit.seed, "attempts": 1}
    return {**row, **trial, "plan": refit.to_dict(), "score": None, "best_step": row["steps"]}


def check_is_whole(run: Run, row: Mapping[str, Any]) -> None:
    """Raises RunError for a trial that left out a fold of the labelled rows."""
    fold = json.loads(row["plan"])["fold"] if '"fold":' in row["plan"] else NO_FOLD
    if fold != NO_FOLD:
        raise RunError(
            f"{run.path}: trial {row['trial_id']} left out a fold of the labelled rows; --arm {row['arm']} exports the "
            "training on all of them"
        )


def fold_score(run: Run, row: Mapping[str, Any]) -> FoldScore | None:
    """Returns the score of the row's configuration over folds; None without selection."""
    plan = row["plan"]
    if not plan.get("folds"):
        return None
    ranked = run.configurations().to_pylist()
    chosen = next(each for each in ranked if (each["arm"], each["number"]) == (row["arm"], row["number"]))
    return FoldScore(folds=plan["folds"], trials=chosen["seeds"], mean=chosen["score"], error=chosen["error"])
