"""Export: one trial of a run as a folder that needs no raysearch to be used.

    config.json, model.safetensors, tokenizer*   AutoModelForSequenceClassification and AutoTokenizer load it
    or, of images, preprocessor_config.json      see image_export
    search.yaml    the configuration as a search of one trial: `raysearch launch search.yaml`
    plan.json      the same, with every default filled in
    result.json    scores, what they were chosen from, hashes
    README.md      the model card

The test split is opened for the one trial, see `final`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from raysearch.config.search_config import Search
from raysearch.data.prepared import Split, load_metadata, load_prepared_data
from raysearch.errors import RunError, did_you_mean
from raysearch.export import test_split
from raysearch.export.model_card import card
from raysearch.export.retrain import Verification, compare, sha256_of, train_again
from raysearch.formatting import format_count
from raysearch.modalities import modality_of
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import open_split
from raysearch.plan import TrialPlan
from raysearch.storage.run import Run
from raysearch.storage.states import MAIN_ARM, TrialRole
from raysearch.training.metrics import score
from raysearch.training.trainer import build, set_parameters

TOLERANCE = 0.005  # points of score between the trained and the exported model: other masks, other rounding


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported, and how good it is."""

    folder: str
    run: str
    trial_id: str
    metric: str
    select_dev: float  # of the exported model
    best_step: int
    configurations: int  # of its arm that had a score to be chosen by
    confirmed: tuple[float, ...]  # select-dev scores of the same configuration on fresh seeds
    test: float | None  # None if it was not asked for, or there is none
    test_loss: float | None
    openings: int  # of the test split in this run so far
    weights_sha256: str
    trained_again: bool  # the run had kept no weights of this trial
    verified: Verification | None
    notes: tuple[str, ...]


def export(run: Run, folder: Path | str, trial: str = "best", verify: bool = False, test: bool = True) -> Exported:
    """Write a trial of `run` to `folder`: "best", the best of an arm by the arm's name, or one by its id.

    `verify` trains the plan again and compares; `test` scores the test split unless this trial's score is on record.
    Raises RunError when there is no such trial, the folder is taken, or another process writes the run.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is there already and not empty; export to another folder, or remove it")
    row = _row(run, trial)
    plan = test_split.plan_of(run, row)
    if problem := modality_of(load_metadata(Path(plan.task["data"]))).no_export:
        raise RunError(f"{run.path}: {problem}; the weights lie in best.safetensors of a trial")
    draft = folder.parent / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        exported = _export(run, row, plan, folder, draft, verify, test)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return exported


def _export(
    run: Run, row: Mapping[str, Any], plan: TrialPlan, folder: Path, draft: Path, verify: bool, test: bool
) -> Exported:
    """Fill `draft`; the test split comes last, when nothing else can go wrong."""
    parameters, again = test_split.parameters_of_trial(run, row, plan)
    notes = ["the run kept no weights of this trial: it was trained again for this export"] if again else []
    _save_model(plan, parameters, draft)
    data = Path(plan.task["data"])
    select_dev, loss = _score(draft, open_split(data, "select_dev"), plan)
    _check_same(run, row, select_dev, loss)
    verified = compare(row, parameters, again or train_again(run, row, plan)) if verify else None
    digest = sha256_of(parameters)
    tested = _test(run, row, plan, draft, digest, notes) if test else None
    exported = Exported(
        folder=str(folder),
        run=run.name,
        trial_id=row["trial_id"],
        metric=plan.task["metric"],
        select_dev=select_dev,
        best_step=row["best_step"],
        configurations=_configurations(run, row["arm"]),
        confirmed=tuple(_confirmed(run, row)),
        test=tested[0] if tested else None,
        test_loss=tested[1] if tested else None,
        openings=len(test_split.openings(run)),
        weights_sha256=digest,
        trained_again=again is not None,
        verified=verified,
        notes=(*notes, *load_prepared_data(data).notes),
    )
    _write_papers(run, row, plan, exported, draft)
    return exported


def _check_same(run: Run, row: Mapping[str, Any], score: float, loss: float) -> None:
    """Raise RunError unless the exported model does on select-dev what the trial did at its best step."""
    said = run.evaluations(row["trial_id"]).to_pylist()
    then = next(e for e in said if e["split"] == "select_dev" and e["step"] == row["best_step"])
    same = math.isclose(score, then["score"], abs_tol=TOLERANCE) and math.isclose(loss, then["loss"], rel_tol=0.01)
    if not same:
        raise RunError(
            f"{run.path}: the exported model has score {score:.4f} and loss {loss:.4f} on select-dev, where trial "
            f"{row['trial_id']} had {then['score']:.4f} and {then['loss']:.4f}; its weights or the data have changed"
        )


# ---- which trial ----


def _row(run: Run, trial: str) -> dict[str, Any]:
    arms = [MAIN_ARM, *run.search.get("baselines", {})]
    if trial == "best" or trial in arms:
        return run.best(MAIN_ARM if trial == "best" else trial)
    rows = {row["trial_id"]: row for row in run.trials().to_pylist()}
    if trial not in rows:
        raise RunError(f"{run.path}: no trial {trial!r} has ended{did_you_mean(trial, ['best', *arms, *rows])}")
    row = rows[trial]
    if row["score"] is None:
        raise RunError(f"{run.path}: trial {trial} has no score ({row['state']}): there is nothing to export")
    return {**row, "plan": json.loads(row["plan"]), "params": json.loads(row["params"])}


def _configurations(run: Run, arm: str) -> int:
    rows = run.trials().select(["arm", "role", "number", "score"]).to_pylist()
    return len(
        {r["number"] for r in rows if (r["arm"], r["role"]) == (arm, TrialRole.SEARCH) and r["score"] is not None}
    )


def _confirmed(run: Run, row: Mapping[str, Any]) -> list[float]:
    rows = run.trials().select(["arm", "role", "number", "seed", "score"]).to_pylist()
    same = [
        r for r in rows if (r["arm"], r["number"]) == (row["arm"], row["number"]) and r["role"] == TrialRole.CONFIRM
    ]
    return [r["score"] for r in sorted(same, key=lambda r: r["seed"]) if r["score"] is not None]


# ---- the folder ----


def _save_model(plan: TrialPlan, parameters: Mapping[str, Tensor], folder: Path) -> None:
    data = Path(plan.task["data"])
    about = load_metadata(data)
    network = build(plan, about)
    set_parameters(network, dict(parameters))
    modality_of(about).export(network, plan, about, data, folder)


def _score(folder: Path, split: Split, plan: TrialPlan) -> tuple[float, float]:
    """Returns metric and mean loss (nat) on a split of the model that `folder` holds, loaded as its users load it."""
    metadata = load_metadata(Path(plan.task["data"]))
    logits, labels = modality_of(metadata).predict(folder, split, plan, metadata)
    return score(metadata["metric"], labels, logits), float(example_losses(logits, labels).mean())


def _write_papers(run: Run, row: Mapping[str, Any], plan: TrialPlan, exported: Exported, folder: Path) -> None:
    search = Search.from_dict(run.search).single_trial(
        row["arm"], row["params"], seed=row["seed"], name=f"{run.name}-{trial_name(row)}"
    )
    same = search.resolve(MAIN_ARM, {}, number=0, seed=row["seed"], labels=plan.task["labels"])
    assert same.key == plan.key, "the exported search is another trial than the one exported"
    heading = f"# Trial {row['trial_id']} of run {run.name}: the one configuration, to be trained again.\n"
    declared = yaml.safe_dump(search.to_dict(), sort_keys=False, allow_unicode=True)
    (folder / "search.yaml").write_text(heading + declared, encoding="utf-8")
    portable = replace(plan, task=plan.task | {"data": ""})
    (folder / "plan.json").write_text(json.dumps(portable.to_dict(), indent=1) + "\n", encoding="utf-8")
    data = load_prepared_data(Path(plan.task["data"]))
    result = asdict(exported) | {"data": data.fingerprint}
    del result["folder"]
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(run, row, plan, data, result), encoding="utf-8")


def trial_name(row: Mapping[str, Any]) -> str:
    """A trial in a word: its arm and number."""
    return f"{row['arm']}-{row['number']:04d}"


# ---- the test split ----


def _test(
    run: Run, row: Mapping[str, Any], plan: TrialPlan, model: Path, digest: str, notes: list[str]
) -> tuple[float, float] | None:
    """Score and loss on test, from the run's record if this trial's is there; None if the task has no test split."""
    data = Path(plan.task["data"])
    if not test_split.has_test(run):
        notes.append("the task has no test split")
        return None
    if (known := test_split.on_record(run, row, digest)) is not None:
        return known
    if before := test_split.openings(run):
        trials = ", ".join(sorted({opening["trial_id"] for opening in before}))
        times = format_count(len(before), "time")
        notes.append(f"test was opened {times} before, for {trials}: to choose by these scores is to select on test")
    return test_split.open_test(run, row, digest, "export", lambda: _score(model, open_split(data, "test"), plan))
