"""Export of one trial of a run: a folder with the model and with all that is needed to repeat the trial.

    config.json, model.safetensors, ...   the model in the format of its modality
    search.yaml    the configuration as a search with one trial: `raysearch launch search.yaml`
    plan.json      the same with every default filled in
    result.json    scores, the number of configurations they were chosen from, hashes
    README.md      the model card
    model.onnx     if it was requested, the model as ONNX

The export reads the test split for this trial only and records the access, see `test_split`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from raysearch.data.prepared import load_metadata, load_prepared_data
from raysearch.errors import RunError, SpecError, did_you_mean
from raysearch.export import test_split
from raysearch.export.ensemble import export_ensemble
from raysearch.export.model_card import model_card
from raysearch.export.model_files import (
    check_reproduced,
    make_readable,
    save_model,
    score_model,
    write_declaration,
)
from raysearch.export.record import Exported, shared_fields
from raysearch.export.refit import check_is_whole, final_training, fold_score
from raysearch.export.retrain import compare, retrain_trial, sha256_of
from raysearch.formatting import printable
from raysearch.modalities import modality_of
from raysearch.modalities.base import OnnxWriter
from raysearch.modalities.opening import open_split, open_splits_of
from raysearch.objectives.trust import trusting_all
from raysearch.plan import TrialPlan
from raysearch.reports.page import refresh_html
from raysearch.reports.recommendation import recommend
from raysearch.storage.durable import sync_folder, sync_tree
from raysearch.storage.names import name_problem
from raysearch.storage.run import Run
from raysearch.storage.states import ENSEMBLE_ARM, TrialRole


def export(
    run: Run,
    folder: Path | str,
    trial: str = "best",
    verify: bool = False,
    test: bool = True,
    arm: str = "",
    onnx: bool = False,
    trust: bool = False,
) -> Exported:
    """Writes a trial of `run` to `folder`: the recommended arm's, that of `arm`, or another one.

    The recommended arm is that of `reports.recommendation`. `trial` may be "best", an arm's name for its best trial, or
    the id of a trial. `verify` trains the plan a second time and compares. `test` scores the test split, unless the run
    has recorded this trial's test score. `onnx` writes model.onnx too. `trust` runs a Python file of primitives that
    the plan names, if the trial has to be trained again. Raises RunError when there is no such trial, the
    folder is not empty, another process writes to the run, or the model has no ONNX form that gives its logits.
    """
    folder = Path(folder)
    if problem := name_problem(folder.name, "an exported model's folder"):
        raise SpecError(problem, file=f"export to {str(folder)!r}")
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} exists and is not empty; export to another folder, or remove it")
    row, reason = _select_trial(run, trial, arm)
    if row["arm"] == ENSEMBLE_ARM:
        if onnx or verify:
            option = "--onnx" if onnx else "--verify"
            raise RunError(f"{option} is for one model, and the ensemble has several; export a member with --arm")
        fill: Callable[[Path], Exported] = partial(export_ensemble, run, row, reason, folder, test=test)
    else:
        fill = _trial_export(run, final_training(run, row), reason, folder, verify=verify, test=test, onnx=onnx)
    draft = folder.parent / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with trusting_all(trust):
            exported = fill(draft)
        make_readable(draft)
        sync_tree(draft)
        draft.replace(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    refresh_html(run)  # it says how often the test split was read
    return exported


def _trial_export(
    run: Run, row: Mapping[str, Any], reason: str, folder: Path, *, verify: bool, test: bool, onnx: bool
) -> Callable[[Path], Exported]:
    """Returns what fills the draft of a trial's export. Raises RunError if it cannot be exported."""
    plan = test_split.load_plan(run, row)
    if problem := modality_of(load_metadata(Path(plan.task["data"]))).no_export:
        raise RunError(f"{run.path}: {problem}; the weights are in best.safetensors of a trial")
    save_onnx = modality_of(load_metadata(Path(plan.task["data"]))).onnx_writer(plan) if onnx else None
    return lambda draft: _export(run, row, reason, plan, folder, draft, verify, test, save_onnx)


def _export(
    run: Run,
    row: Mapping[str, Any],
    reason: str,
    plan: TrialPlan,
    folder: Path,
    draft: Path,
    verify: bool,
    test: bool,
    save_onnx: OnnxWriter | None,
) -> Exported:
    """Fills `draft`. The test split is read last, when nothing else can fail."""
    parameters, retrained = test_split.load_or_retrain(run, row, plan)
    notes = [retrained.reason] if retrained else []
    save_model(plan, parameters, draft)
    data = Path(plan.task["data"])
    if retrained and plan.is_refit:
        row = {**row, "score": retrained.score, "best_step": retrained.best_step}
    select_dev, loss = score_model(draft, open_splits_of(plan)("select_dev"), plan)
    check_reproduced(run, row, select_dev, loss)
    difference = save_onnx(draft, open_splits_of(plan)("select_dev"), load_metadata(data)) if save_onnx else None
    over_folds = fold_score(run, row)
    verified = compare(row, parameters, retrained or retrain_trial(run, row, plan)) if verify else None
    weights = sha256_of(parameters)
    test_score = test_split.score_once(run, row, weights, notes, partial(_score_test, draft, plan)) if test else None
    exported = Exported(
        **shared_fields(run, row, reason, folder, test_score),
        metric=plan.task["metric"],
        select_dev=over_folds.mean if over_folds else select_dev,
        select_error=over_folds.error if over_folds else None,
        folds=plan.folds,
        weights_sha256=weights,
        onnx_difference=difference,
        trained_again=retrained is not None,
        verified=verified,
        notes=(*notes, *load_prepared_data(data).notes),
    )
    _write_documents(run, row, plan, exported, draft)
    return exported


def _score_test(folder: Path, plan: TrialPlan) -> tuple[float, float]:
    return score_model(folder, open_split(Path(plan.task["data"]), "test"), plan)


# ---- which trial ----


def _select_trial(run: Run, trial: str, arm: str) -> tuple[dict[str, Any], str]:
    """Returns the row of the trial, plan and params parsed, and why it is this one.

    Without a name it is the best trial of the configuration that stands for the recommended arm, or for `arm`.
    """
    arms = run.arms
    if arm and trial != "best":
        raise RunError(f"--arm {arm} and --trial {trial} are both set; leave one out")
    if arm and arm not in arms:
        raise RunError(f"{run.path}: no arm {arm!r}{did_you_mean(arm, arms)}")
    metric = run.search.get("task", {}).get("metric", "score")
    if arm or trial == "best" or trial in arms:
        requested = arm or (trial if trial in arms else "")
        choice, chosen = run.best_arm(), requested or recommend(run).arm
        if choice is None or chosen is None:
            raise RunError(f"{run.path}: no trial has ended with a score")
        why = "it was asked for" if requested else "it is the simplest arm than which no other is better"
        score = next((each for each in choice.ranked if each.arm == chosen), None)
        return run.best(chosen, score.number if score else None), choice.reason(metric, chosen, why)
    rows = {row["trial_id"]: row for row in run.trials().to_pylist()}
    if trial not in rows:
        raise RunError(f"{run.path}: no trial {trial!r} has ended{did_you_mean(trial, ['best', *arms, *rows])}")
    row = rows[trial]
    check_is_whole(run, row)
    if row["score"] is None and row["role"] != TrialRole.REFIT:
        raise RunError(f"{run.path}: trial {trial} has no score ({row['state']}), so there is nothing to export")
    parsed = {**row, "plan": json.loads(row["plan"]), "params": json.loads(row["params"])}
    return parsed, f"Trial {trial} of arm {row['arm']} is exported because it was asked for."


# ---- the folder ----


def _write_documents(run: Run, row: Mapping[str, Any], plan: TrialPlan, exported: Exported, folder: Path) -> None:
    """Writes search.yaml, plan.json, result.json and the model card."""
    write_declaration(run, row, plan, folder)
    data = load_prepared_data(Path(plan.task["data"]))
    result = asdict(exported) | {"data": data.fingerprint}
    del result["folder"]
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(printable(model_card(run, row, plan, data, result)), encoding="utf-8")
