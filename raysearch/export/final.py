"""The test scores of a final report: of every arm, the trials that repeat its configuration on fresh seeds.

An ensemble's score is that of its members' outputs, averaged; each member is the trial of the same seed, and with
selection of the same fold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysearch.data.prepared import load_metadata
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError
from raysearch.export.retrain import sha256_of
from raysearch.export.test_split import (
    TestScore,
    has_test_split,
    load_or_retrain,
    load_plan,
    record_test_score,
    recorded_test_score,
)
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import open_split, open_splits_of
from raysearch.models.averaging import average, log_probabilities
from raysearch.plan import TrialPlan
from raysearch.storage.cells import cell_of
from raysearch.storage.run import Run
from raysearch.storage.states import ENSEMBLE_ARM, TrialRole, TrialState
from raysearch.training.context import batches_of, build
from raysearch.training.evaluation import Evaluation, predict
from raysearch.training.metrics import score
from raysearch.training.parameters import set_parameters

Row = dict[str, Any]  # of the table of trials


def score_arms_on_test(run: Run) -> Iterator[tuple[str, float, bool]]:
    """Yields trial_id, test score and whether the trial was trained a second time, for every confirmation trial.

    Raises RunError when nothing was repeated on fresh seeds, or the task has no test split.
    """
    if not has_test_split(run):
        raise RunError(f"{run.path}: the task has no test split")
    rows = confirmation_trials(run)
    if not rows:
        raise RunError(
            f"{run.path}: no configuration was repeated on fresh seeds; add `confirm: {{seeds: [...]}}` to the search "
            "and launch it with --extend"
        )
    repeated = [row for row in rows if row["arm"] != ENSEMBLE_ARM]
    for row in repeated:
        plan = load_plan(run, row)
        parameters, retrained = load_or_retrain(run, row, plan)
        weights = sha256_of(parameters)
        value = recorded_test_score(run, row, weights) or record_test_score(
            run, row, weights, "final", partial(_score, plan, parameters)
        )
        yield row["trial_id"], value[0], retrained is not None
    by_place = {(row["arm"], row["number"], cell_of(row)): row for row in repeated}
    for row in (each for each in rows if each["arm"] == ENSEMBLE_ARM):
        yield row["trial_id"], *_score_ensemble(run, row, by_place)


def confirmation_trials(run: Run) -> list[dict[str, Any]]:
    """Returns the complete trials on fresh seeds of the configuration that each arm chose last, by arm and seed."""
    rows = run.trials().to_pylist()
    fresh = [row for row in rows if row["role"] == TrialRole.CONFIRM and row["state"] == TrialState.COMPLETE]
    latest = {row["arm"]: row["number"] for row in sorted(fresh, key=lambda row: row["ended"])}
    arms = run.arms
    chosen = [row for row in fresh if row["number"] == latest[row["arm"]]]
    return sorted(chosen, key=lambda row: (arms.index(row["arm"]), row["seed"]))


def _score_ensemble(run: Run, row: Row, by_place: Mapping[tuple[Any, ...], Row]) -> tuple[float, bool]:
    """Returns the test score of an ensemble's row, and whether a member was trained a second time."""
    evaluations, digests, members, is_retrained = [], [], json.loads(row["plan"])["members"], False
    for member in members:
        of_member = by_place.get((member["arm"], member["number"], cell_of(row)))
        if of_member is None:
            raise RunError(f"{run.path}: {row['trial_id']} has no trial of its member {member['arm']!r:.80}")
        plan = load_plan(run, of_member)
        parameters, retrained = load_or_retrain(run, of_member, plan)
        evaluations.append(partial(_predict, plan, parameters))
        digests.append(sha256_of(parameters))
        is_retrained |= retrained is not None
    weights = hashlib.sha256(json.dumps([digests, members], sort_keys=True).encode()).hexdigest()

    def score_test() -> TestScore:
        predicted = [evaluation() for evaluation in evaluations]
        log_p = np.stack([log_probabilities(each.outputs.numpy()) for each in predicted], axis=1)
        logits = torch.from_numpy(average(log_p, np.array([member["weight"] for member in members])))
        labels = predicted[0].labels
        return score(run.search["task"]["metric"], labels, logits), float(example_losses(logits, labels).mean())

    value = recorded_test_score(run, row, weights) or record_test_score(run, row, weights, "final", score_test)
    return value[0], is_retrained


def _score(plan: TrialPlan, parameters: Mapping[str, Tensor]) -> TestScore:
    evaluation = _predict(plan, parameters)
    return evaluation.score, evaluation.loss


def _predict(plan: TrialPlan, parameters: Mapping[str, Tensor]) -> Evaluation:
    """Returns what the plan's network gives for the test split."""
    data = Path(plan.task["data"])
    metadata = load_metadata(data)
    process_group = ProcessGroup(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    network = build(plan, metadata).to(process_group.device)
    set_parameters(network, dict(parameters))
    batches = batches_of(plan, metadata, open_splits_of(plan))
    return predict(network, open_split(data, "test"), batches, metadata["metric"], process_group)
