"""Writes an arm of a run as a study of Optuna, for optuna-dashboard and Optuna's own analyses.

A configuration is a trial of the study: complete ones with their score, the mean over seeds or folds; stopped and
dropped ones as pruned, failed ones as failed, each with what was drawn and the scores of its best trial by step.
Configurations that still run are left out.
"""

from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING, Any

from raysearch.config.dimension import Dimension
from raysearch.errors import RunError, did_you_mean
from raysearch.schema.node import Node
from raysearch.storage.best import DROPPED
from raysearch.storage.states import MAIN_ARM, TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.trial import FrozenTrial

    from raysearch.storage.run import Run


def export_study(run: Run, storage: str, arm: str = "") -> tuple[str, int]:
    """Writes the study of an arm, by default of the search, to an Optuna storage; returns its name and trial count.

    The study is named like the run, and RUN/ARM for a baseline. Raises RunError if the storage has it already, or
    cannot be opened.
    """
    import optuna

    search, arm = run.search, arm or MAIN_ARM
    arms = {MAIN_ARM: search, **search.get("baselines", {})}
    if arm not in arms:
        raise RunError(f"{run.name} has no arm {arm!r}{did_you_mean(arm, arms)}")
    declared = arms[arm].get("dimensions") or search.get("dimensions", {})
    dimensions = Node(declared).read(dict[str, Dimension])
    scores = _scores_by_step(run)
    trials = [
        trial
        for row in _rows(run, arm)
        if (trial := _trial(row, dimensions, scores.get(row["trial_id"], {}))) is not None
    ]
    name = run.name if arm == MAIN_ARM else f"{run.name}/{arm}"
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([search["task"]["metric"]])
        study.set_user_attr("raysearch", f"run {run.name}, arm {arm}")
        study.add_trials(trials)
    except optuna.exceptions.DuplicatedStudyError:
        raise RunError(f"{storage} has a study {name!r} already; name another storage, or delete that study") from None
    except Exception as error:  # whatever the driver of a database raises
        reason = str(error).strip().split("\n")[0]
        raise RunError(f"{storage} cannot hold the study: {type(error).__name__}: {reason}") from error
    return name, len(trials)


def _rows(run: Run, arm: str) -> list[dict[str, Any]]:
    """Returns the arm's configurations in the order in which they were drawn, with the times of their best trial."""
    times = {row["trial_id"]: row for row in run.trials().select(["trial_id", "started", "ended"]).to_pylist()}
    rows = [row | times[row["trial_id"]] for row in run.configurations().to_pylist() if row["arm"] == arm]
    return sorted(rows, key=lambda row: row["number"])


def _trial(row: Mapping[str, Any], dimensions: Mapping[str, Dimension], scores: dict[int, float]) -> FrozenTrial | None:
    """Returns a configuration, and its best trial's scores by step, as a trial of Optuna; None while it runs."""
    from optuna.trial import TrialState as OptunaState
    from optuna.trial import create_trial

    from raysearch.search.samplers import to_distribution

    states = {
        TrialState.COMPLETE: OptunaState.COMPLETE,
        TrialState.STOPPED: OptunaState.PRUNED,
        DROPPED: OptunaState.PRUNED,
        TrialState.FAILED: OptunaState.FAIL,
    }
    if row["state"] not in states:
        return None
    drawn = json.loads(row["params"] or "{}")
    params = {name: value for name, value in drawn.items() if name in dimensions and dimensions[name].holds(value)}
    trial = create_trial(
        state=states[row["state"]],
        value=row["score"] if row["state"] == TrialState.COMPLETE else None,
        params=params,
        distributions={name: to_distribution(dimensions[name]) for name in params},
        intermediate_values=scores,
        user_attrs={"trial_id": row["trial_id"], "seeds": row["seeds"], "seconds": row["seconds"]}
        | {name: value for name, value in drawn.items() if name not in params},
    )
    started, ended = (row[name].astimezone().replace(tzinfo=None) for name in ("started", "ended"))
    trial.datetime_start, trial.datetime_complete = started, ended
    return trial


def _scores_by_step(run: Run) -> dict[str, dict[int, float]]:
    """Returns the finite scores of every trial on select-dev, by trial and step."""
    scores: dict[str, dict[int, float]] = {}
    for row in run.evaluations().select(["trial_id", "step", "split", "score"]).to_pylist():
        if row["split"] == "select_dev" and row["score"] is not None and math.isfinite(row["score"]):
            scores.setdefault(row["trial_id"], {})[row["step"]] = row["score"]
    return scores
