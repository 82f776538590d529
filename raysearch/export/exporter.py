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
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from torch import Tensor

from raysearch.config.search_config import Search
from raysearch.data.prepared import Split, load_metadata, load_prepared_data
from raysearch.errors import RunError, SpecError, did_you_mean
from raysearch.export import test_split
from raysearch.export.model_card import model_card
from raysearch.export.refit import check_is_whole, final_training, fold_score
from raysearch.export.retrain import Verification, compare, retrain_trial, sha256_of
from raysearch.formatting import format_count, printable
from raysearch.modalities import modality_of
from raysearch.modalities.base import OnnxWriter
from raysearch.modalities.loading import read_model
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import open_split, open_splits_of
from raysearch.objectives.trust import trusting_all
from raysearch.plan import TrialPlan
from raysearch.reports.page import refresh_html
from raysearch.reports.recommendation import recommend
from raysearch.schema.node import Node
from raysearch.storage.names import name_problem, valid_name
from raysearch.storage.run import Run
from raysearch.storage.states import MAIN_ARM, TrialRole
from raysearch.training.context import build
from raysearch.training.metrics import score
from raysearch.training.parameters import set_parameters

TOLERANCE = 0.005  # allowed difference in score between the trained and the exported model, which round differently


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
    row = final_training(run, row)
    plan = test_split.load_plan(run, row)
    if problem := modality_of(load_metadata(Path(plan.task["data"]))).no_export:
        raise RunError(f"{run.path}: {problem}; the weights are in best.safetensors of a trial")
    save_onnx = modality_of(load_metadata(Path(plan.task["data"]))).onnx_writer(plan) if onnx else None
    draft = folder.parent / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with trusting_all(trust):
            exported = _export(run, row, reason, plan, folder, draft, verify, test, save_onnx)
        _make_readable(draft)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    refresh_html(run)  # it says how often the test split was read
    return exported


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
    notes = ["The run had no weights of this trial, so it was trained a second time."] if retrained else []
    _save_model(plan, parameters, draft)
    data = Path(plan.task["data"])
    if retrained and plan.is_refit:
        row = {**row, "score": retrained.score, "best_step": retrained.best_step}
    select_dev, loss = _score(draft, open_splits_of(plan)("select_dev"), plan)
    _check_reproduced(run, row, select_dev, loss)
    difference = save_onnx(draft, open_splits_of(plan)("select_dev"), load_metadata(data)) if save_onnx else None
    over_folds = fold_score(run, row)
    verified = compare(row, parameters, retrained or retrain_trial(run, row, plan)) if verify else None
    weights = sha256_of(parameters)
    test_score = _score_test(run, row, plan, draft, weights, notes) if test else None
    exported = Exported(
        folder=str(folder),
        run=run.name,
        trial_id=row["trial_id"],
        arm=row["arm"],
        reason=reason,
        recommendation=recommend(run).verdict,
        metric=plan.task["metric"],
        select_dev=over_folds.mean if over_folds else select_dev,
        select_error=over_folds.error if over_folds else None,
        folds=plan.folds,
        best_step=row["best_step"],
        configurations=_count_configurations(run, row["arm"]),
        confirmed=tuple(_confirmation_scores(run, row)),
        test=test_score[0] if test_score else None,
        test_loss=test_score[1] if test_score else None,
        openings=len(test_split.test_accesses(run)),
        weights_sha256=weights,
        onnx_difference=difference,
        trained_again=retrained is not None,
        verified=verified,
        notes=(*notes, *load_prepared_data(data).notes),
    )
    _write_documents(run, row, plan, exported, draft)
    return exported


def _check_reproduced(run: Run, row: Mapping[str, Any], score: float, loss: float) -> None:
    """Raises RunError unless the exported model's select-dev score and loss are those of the trial's best step.

    A training on all labelled rows is compared on these, unless it was done for this export and has no record.
    """
    evaluations = run.evaluations(row["trial_id"]).to_pylist()
    is_refit = row["role"] == TrialRole.REFIT
    split = "train" if is_refit else "select_dev"
    best = next((e for e in evaluations if e["split"] == split and e["step"] == row["best_step"]), None)
    if best is None and is_refit:
        return
    assert best is not None
    if not (math.isclose(score, best["score"], abs_tol=TOLERANCE) and math.isclose(loss, best["loss"], rel_tol=0.01)):
        raise RunError(
            f"{run.path}: the exported model has score {score:.4f} and loss {loss:.4f} on {split}, but trial "
            f"{row['trial_id']} had {best['score']:.4f} and {best['loss']:.4f}; its weights or the data have changed"
        )


# ---- which trial ----


def _select_trial(run: Run, trial: str, arm: str) -> tuple[dict[str, Any], str]:
    """Returns the row of the trial, plan and params parsed, and why it is this one.

    Without a name it is the best trial of the configuration that stands for the recommended arm, or for `arm`.
    """
    arms = [MAIN_ARM, *run.search.get("baselines", {})]
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


def _count_configurations(run: Run, arm: str) -> int:
    """Returns the number of the arm's configurations that have a score."""
    return sum(row["arm"] == arm and row["score"] is not None for row in run.configurations().to_pylist())


def _confirmation_scores(run: Run, row: Mapping[str, Any]) -> list[float]:
    """Returns the scores of the trial's configuration on fresh seeds, by seed; with selection means over folds."""
    repeated: dict[int, list[float]] = {}
    trials = run.trials().select(["arm", "role", "number", "seed", "score"]).to_pylist()
    for trial in sorted(trials, key=lambda trial: trial["seed"]):
        is_repeated = (trial["arm"], trial["number"], trial["role"]) == (row["arm"], row["number"], TrialRole.CONFIRM)
        if is_repeated and trial["score"] is not None:
            repeated.setdefault(trial["seed"], []).append(trial["score"])
    return [mean(scores) for scores in repeated.values()]


# ---- the folder ----


def _save_model(plan: TrialPlan, parameters: Mapping[str, Tensor], folder: Path) -> None:
    data = Path(plan.task["data"])
    metadata = load_metadata(data)
    network = build(plan, metadata)
    set_parameters(network, dict(parameters))
    modality_of(metadata).export(network, plan, metadata, data, folder)


def _score(folder: Path, split: Split, plan: TrialPlan) -> tuple[float, float]:
    """Returns metric and mean loss (nat) on a split of the model that `folder` holds, loaded as its users load it."""
    metadata = load_metadata(Path(plan.task["data"]))
    logits, labels = modality_of(metadata).predict(folder, split, plan, metadata)
    return score(metadata["metric"], labels, logits), float(example_losses(logits, labels).mean())


def _make_readable(folder: Path) -> None:
    """Gives files that a library has written for their owner alone the rights that other new files have."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)


def _write_documents(run: Run, row: Mapping[str, Any], plan: TrialPlan, exported: Exported, folder: Path) -> None:
    """Writes search.yaml, plan.json, result.json and the model card."""
    name = valid_name(f"{run.name}-{row['arm']}-{row['number']:04d}")
    search = Search.from_stored(run.search).single_trial(row["arm"], row["params"], seed=row["seed"], name=name)
    search = replace(search, model=read_model(Node(plan.model)))  # with what the encoder's folder declared
    resolved = search.resolve(MAIN_ARM, {}, number=0, seed=row["seed"], labels=plan.task["labels"])
    assert resolved.key == plan.key, "the exported search describes another trial than the exported one"
    heading = f"# Trial {row['trial_id']} of run {run.name} as a search with this one configuration.\n"
    declared = yaml.safe_dump(search.to_dict(), sort_keys=False, allow_unicode=True)
    (folder / "search.yaml").write_text(heading + declared, encoding="utf-8")
    portable = replace(plan, task=plan.task | {"data": ""})
    (folder / "plan.json").write_text(json.dumps(portable.to_dict(), indent=1) + "\n", encoding="utf-8")
    data = load_prepared_data(Path(plan.task["data"]))
    result = asdict(exported) | {"data": data.fingerprint}
    del result["folder"]
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(printable(model_card(run, row, plan, data, result)), encoding="utf-8")


# ---- the test split ----


def _score_test(
    run: Run, row: Mapping[str, Any], plan: TrialPlan, model: Path, weights: str, notes: list[str]
) -> tuple[float, float] | None:
    """Returns score and loss on the test split, from the run's record if it has one; None without a test split.

    Adds to `notes` what a reader of the score has to know.
    """
    data = Path(plan.task["data"])
    if not test_split.has_test_split(run):
        notes.append("The task has no test split.")
        return None
    if (recorded := test_split.recorded_test_score(run, row, weights)) is not None:
        return recorded
    if earlier := test_split.test_accesses(run):
        trials = ", ".join(sorted({access["trial_id"] for access in earlier}))
        notes.append(
            f"The test split was read {format_count(len(earlier), 'time')} before, for {trials}. A choice by these "
            "scores would be a selection on test."
        )
    return test_split.record_test_score(
        run, row, weights, "export", lambda: _score(model, open_split(data, "test"), plan)
    )
