"""The test split: who may open it, and what is written down when it is.

`export` opens it for one trial. `final` opens it for the repetitions on fresh seeds of every arm's configuration,
when all choosing is over, and the report `final` sets the arms side by side as a paper's table does. Every opening is
an event of the run, written down before the score is known; a trial whose test score is on record is not scored again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raysearch.data.prepared import load_metadata, load_prepared_data
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError
from raysearch.export.retrain import Retrained, sha256_of, train_again
from raysearch.modalities.opening import open_split, open_splits
from raysearch.plan import TrialPlan
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run
from raysearch.storage.states import MAIN_ARM, EventName, TrialRole, TrialState
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import batches_of, build, evaluate, set_parameters

Scored = tuple[float, float]  # metric, mean loss (nat)


def has_test(run: Run) -> bool:
    """Has the task a test split?"""
    return (run.path / "data" / "test.arrow").exists()


def openings(run: Run) -> list[dict[str, Any]]:
    """Trial, weights and data of every opening of the test split in this run."""
    events = run.events().select(["event", "trial_id", "detail"]).to_pylist()
    return [
        {**json.loads(e["detail"]), "trial_id": e["trial_id"]} for e in events if e["event"] == EventName.OPENED_TEST
    ]


def plan_of(run: Run, row: Mapping[str, Any]) -> TrialPlan:
    """The trial's plan, its data where the run lies now."""
    plan = row["plan"]
    plan = TrialPlan.from_json(plan if isinstance(plan, str) else json.dumps(plan))
    return replace(plan, task=plan.task | {"data": str((run.path / "data").resolve())})


def parameters_of_trial(
    run: Run, row: Mapping[str, Any], plan: TrialPlan
) -> tuple[dict[str, Tensor], Retrained | None]:
    """The trial's best parameters: as kept, or else trained again."""
    kept = TrialFolder(run.path / "trials" / row["trial_id"]).best
    if kept.exists():
        parameters: dict[str, Tensor] = checkpoint.load(kept)["parameters"]
        return parameters, None
    again = train_again(run, row, plan)
    return again.parameters, again


def on_record(run: Run, row: Mapping[str, Any], weights: str) -> Scored | None:
    """What is written down of these weights on test."""
    what = {"weights": weights, "data": load_prepared_data(run.path / "data").fingerprint, "trial_id": row["trial_id"]}
    if any(opening.items() >= what.items() for opening in openings(run)):
        for said in run.evaluations(row["trial_id"]).to_pylist():
            if said["split"] == "test":
                return said["score"], said["loss"]
    return None


def open_test(run: Run, row: Mapping[str, Any], weights: str, purpose: str, score: Callable[[], Scored]) -> Scored:
    """Note the opening, score, note the score. RunError when another process writes the run."""
    whose = {"trial_id": row["trial_id"], "attempt": max(0, (row["attempts"] or 1) - 1)}
    data, metric = load_prepared_data(run.path / "data").fingerprint, load_metadata(run.path / "data")["metric"]
    with Ledger.open(run.path, purpose=purpose) as ledger:
        ledger.event(EventName.OPENED_TEST, **whose, detail={"weights": weights, "data": data}, durable=True)
        value, loss = score()
        said = {"step": row["best_step"], "split": "test", "metric": metric, "score": value, "loss": loss}
        ledger.append("evaluations", [whose | said], durable=True)
    return value, loss


def final(run: Run) -> Iterator[tuple[str, float, bool]]:
    """Every repetition's trial, its test score, and whether it had to be trained again, one after another.

    Raises RunError when nothing was repeated on fresh seeds, or the task has no test split.
    """
    if not has_test(run):
        raise RunError(f"{run.path}: the task has no test split")
    rows = repetitions(run)
    if not rows:
        raise RunError(
            f"{run.path}: nothing was repeated on fresh seeds; declare confirm: {{seeds: [...]}} and launch --extend"
        )
    for row in rows:
        plan = plan_of(run, row)
        parameters, again = parameters_of_trial(run, row, plan)
        digest = sha256_of(parameters)
        known = on_record(run, row, digest)
        scored = known or open_test(run, row, digest, "final", partial(_score, plan, parameters))
        yield row["trial_id"], scored[0], again is not None


def repetitions(run: Run) -> list[dict[str, Any]]:
    """The complete trials on fresh seeds of the configuration that each arm last chose, arms in their order."""
    rows = run.trials().to_pylist()
    fresh = [row for row in rows if row["role"] == TrialRole.CONFIRM and row["state"] == TrialState.COMPLETE]
    latest = {row["arm"]: row["number"] for row in sorted(fresh, key=lambda row: row["ended"])}
    order = [MAIN_ARM, *run.search.get("baselines", {})]
    mine = [row for row in fresh if row["number"] == latest[row["arm"]]]
    return sorted(mine, key=lambda row: (order.index(row["arm"]), row["seed"]))


def _score(plan: TrialPlan, parameters: Mapping[str, Tensor]) -> Scored:
    """Metric and mean loss on test of a plan's network."""
    data = Path(plan.task["data"])
    about = load_metadata(data)
    process_group = ProcessGroup(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    network = build(plan, about).to(process_group.device)
    set_parameters(network, dict(parameters))
    return evaluate(
        network, open_split(data, "test"), batches_of(plan, about, open_splits(data)), about["metric"], process_group
    )
