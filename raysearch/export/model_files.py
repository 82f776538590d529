"""What an exported folder holds of one trial: the model in the format of its modality, and its declaration."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from raysearch.config.search_config import Search
from raysearch.data.prepared import Split, load_metadata
from raysearch.errors import RunError
from raysearch.modalities import modality_of
from raysearch.modalities.loading import read_model
from raysearch.modalities.losses import example_losses
from raysearch.plan import TrialPlan
from raysearch.schema.node import Node
from raysearch.storage.names import valid_name
from raysearch.storage.run import Run
from raysearch.storage.states import MAIN_ARM, TrialRole
from raysearch.training.context import build
from raysearch.training.metrics import score
from raysearch.training.parameters import set_parameters

TOLERANCE = 0.005  # allowed difference in score between the trained and the exported model, which round differently


def save_model(plan: TrialPlan, parameters: Mapping[str, Tensor], folder: Path) -> None:
    """Writes the plan's model with these parameters to a folder."""
    data = Path(plan.task["data"])
    metadata = load_metadata(data)
    network = build(plan, metadata)
    set_parameters(network, dict(parameters))
    modality_of(metadata).export(network, plan, metadata, data, folder)


def predict(folder: Path, split: Split, plan: TrialPlan) -> tuple[Tensor, Tensor]:
    """Returns logits (n, C) and labels of a split, by the model that `folder` holds, loaded as its users load it."""
    metadata = load_metadata(Path(plan.task["data"]))
    return modality_of(metadata).predict(folder, split, plan, metadata)


def score_model(folder: Path, split: Split, plan: TrialPlan) -> tuple[float, float]:
    """Returns metric and mean loss (nat) on a split, see `predict`."""
    logits, labels = predict(folder, split, plan)
    return score(plan.task["metric"], labels, logits), float(example_losses(logits, labels).mean())


def check_reproduced(run: Run, row: Mapping[str, Any], score: float, loss: float) -> None:
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


def write_declaration(run: Run, row: Mapping[str, Any], plan: TrialPlan, folder: Path) -> None:
    """Writes search.yaml, which trains the trial of `row` again, and plan.json."""
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


def make_readable(folder: Path) -> None:
    """Gives files that a library has written for their owner alone the rights that other new files have."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)
