"""Export of a run's ensemble: a folder with the exported model of each member, and their weights.

    config.json     raysearch_format, the labels, and of each member its folder and weight
    members/ARM/    the member's model, and the search and plan that train it
    result.json     scores, hashes
    README.md       the model card

`raysearch.load_model` reads the folder as it reads that of one model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysearch.data.prepared import PreparedData, Split, load_prepared_data
from raysearch.errors import RunError
from raysearch.export import test_split
from raysearch.export.model_card import ensemble_card
from raysearch.export.model_files import check_reproduced, predict, save_model, score_model, write_declaration
from raysearch.export.record import Exported, shared_fields
from raysearch.export.refit import final_training, fold_score
from raysearch.export.retrain import sha256_of
from raysearch.formatting import printable
from raysearch.modalities.exported import FORMAT_KEY
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import open_split, open_splits_of
from raysearch.models.averaging import average, log_probabilities
from raysearch.plan import TrialPlan
from raysearch.storage.names import name_problem
from raysearch.storage.run import Run
from raysearch.training.metrics import score

FORMAT = "ensemble"  # a key of modalities.exported.FORMATS
Member = tuple[Path, TrialPlan, float]  # its folder, its plan and its weight


def export_ensemble(
    run: Run, row: Mapping[str, Any], reason: str, folder: Path, draft: Path, *, test: bool
) -> Exported:
    """Fills `draft` with the ensemble of `row`, a row of its arm. The test split is read last."""
    members: list[Member] = []
    notes, weights = [], {}
    for declared in row["plan"]["members"]:
        if problem := name_problem(declared["arm"], "an arm"):
            raise RunError(f"{run.path}: a member of the ensemble: {problem}")
        place = draft / "members" / declared["arm"]
        place.mkdir(parents=True)
        plan, weights[declared["arm"]], note = _write_member(run, declared, place)
        members.append((place, plan, declared["weight"]))
        notes += [note] if note else []
    data = load_prepared_data(run.path / "data")
    listed = [{"folder": f"members/{place.name}", "weight": weight} for place, _, weight in members]
    config = {FORMAT_KEY: FORMAT, "labels": list(data.labels), "members": listed}
    (draft / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    digest = hashlib.sha256(json.dumps([weights, listed], sort_keys=True).encode()).hexdigest()
    is_retrained = bool(notes)  # so far they are of members that were trained a second time
    score_test = partial(_score_test, members, data)
    test_score = test_split.score_once(run, row, digest, notes, score_test) if test else None
    over_folds = fold_score(run, row)
    exported = Exported(
        **shared_fields(run, row, reason, folder, test_score),
        metric=data.metric,
        select_dev=over_folds.mean if over_folds else row["score"],
        select_error=over_folds.error if over_folds else None,
        folds=row["plan"]["folds"],
        weights_sha256=digest,
        onnx_difference=None,
        trained_again=is_retrained,
        verified=None,
        notes=(*notes, *data.notes),
    )
    _write_documents(run, row, data, exported, draft)
    return exported


def _write_documents(run: Run, row: Mapping[str, Any], data: PreparedData, exported: Exported, draft: Path) -> None:
    result = asdict(exported) | {"data": data.fingerprint}
    del result["folder"]
    (draft / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (draft / "README.md").write_text(printable(ensemble_card(run, row, data, result)), encoding="utf-8")


def _write_member(run: Run, declared: Mapping[str, Any], place: Path) -> tuple[TrialPlan, str, str]:
    """Writes the model of a member; returns its plan, the hash of its weights, and a note if it was trained again."""
    row = final_training(run, run.best(declared["arm"], declared["number"]))
    plan = test_split.load_plan(run, row)
    parameters, retrained = test_split.load_or_retrain(run, row, plan)
    save_model(plan, parameters, place)
    if retrained and plan.is_refit:
        row = {**row, "score": retrained.score, "best_step": retrained.best_step}
    check_reproduced(run, row, *score_model(place, open_splits_of(plan)("select_dev"), plan))
    write_declaration(run, row, plan, place)
    note = f"The run had no weights of {declared['arm']}, so it was trained a second time." if retrained else ""
    return plan, sha256_of(parameters), note


def _score_test(members: Sequence[Member], data: PreparedData) -> tuple[float, float]:
    logits, labels = _predict(members, open_split(data.folder, "test"))
    return score(data.metric, labels, logits), float(example_losses(logits, labels).mean())


def _predict(members: Sequence[Member], split: Split) -> tuple[Tensor, Tensor]:
    """Returns the averaged logits (n, C) and the labels (n,) of a split."""
    predicted = [predict(place, split, plan) for place, plan, _ in members]
    log_p = np.stack([log_probabilities(logits.numpy()) for logits, _ in predicted], axis=1)
    weights = np.array([weight for _, _, weight in members])
    return torch.from_numpy(average(log_p, weights)), predicted[0][1]
