"""The five tables of a run, each declared once: writer, readers and tests use these schemas.

Every stored number leads through `trial_id` to its plan, seed and versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

VERSION = "1"


def column(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    """An Arrow field that carries its meaning and unit."""
    return pa.field(name, kind, metadata={"meaning": meaning, **({"unit": unit} if unit else {})})


def _table(name: str, *columns: pa.Field) -> pa.Schema:
    return pa.schema(columns, metadata={"table": name, "version": VERSION})


_TRIAL = column("trial_id", pa.string(), "the trial")
_ATTEMPT = column("attempt", pa.int32(), "how often the trial had been begun again; the last attempt wins")
_STEP = column("step", pa.int64(), "optimizer steps taken so far, all phases and branches", unit="step")
_TIME = column("time", pa.timestamp("us", tz="UTC"), "when, by the writer's clock")

SEARCHES = _table(
    "searches",
    column("search", pa.string(), "name of the run"),
    _TIME,
    column("spec", pa.string(), "the search as declared, resolved, JSON"),
    column("fingerprint", pa.string(), "sha256 of the resolved search"),
    column("versions", pa.string(), "versions of python, raysearch and the libraries, JSON"),
    column("data", pa.string(), "fingerprints and sizes of the splits, JSON"),
    column("hardware", pa.string(), "cores, memory, accelerators, host, JSON"),
)

TRIALS = _table(
    "trials",
    _TRIAL,
    column("arm", pa.string(), "'search', or the baseline's name"),
    column("role", pa.string(), "'search', or 'confirm' for a repetition on a fresh seed"),
    column("number", pa.int32(), "the configuration's number in its arm"),
    column("seed", pa.int64(), "seed of everything random in the trial"),
    column("state", pa.string(), "complete, stopped (by the scheduler) or failed"),
    column("why", pa.string(), "why it ended: a sentence, or the traceback of a failure"),
    column("score", pa.float64(), "best select-dev score; null if there was none"),
    column("best_step", pa.int64(), "the step of that score", unit="step"),
    column("steps", pa.int64(), "optimizer steps taken", unit="step"),
    column("attempts", pa.int32(), "times that it was begun; 1 if never disturbed"),
    column("started", pa.timestamp("us", tz="UTC"), "when its first step could begin"),
    column("ended", pa.timestamp("us", tz="UTC"), "when it was committed"),
    column("seconds", pa.float64(), "time in training, all attempts", unit="s"),
    column("workers", pa.int32(), "data-parallel ranks"),
    column("device", pa.string(), "cpu, or the accelerator's name"),
    column("params", pa.string(), "the values drawn for this trial, JSON"),
    column("plan", pa.string(), "the whole plan, JSON"),
)

EVALUATIONS = _table(
    "evaluations",
    _TRIAL,
    _ATTEMPT,
    _STEP,
    column("phase", pa.string(), "joint, pretrain, finetune or retrain"),
    column("split", pa.string(), "select_dev; test only when a run is opened by export or a final report"),
    column("metric", pa.string(), "name of the score: accuracy, macro_f1, micro_f1"),
    column("score", pa.float64(), "the end task's metric on the split; higher is better"),
    column(
        "loss",
        pa.float64(),
        "the end task's mean loss on the split; of numbers, squared error in variances",
        unit="nat",
    ),
    column("best", pa.float64(), "best score of this trial so far"),
    column("lambda_e", pa.float64(), "end-task weight, in [0, 1]"),
    column("train_loss", pa.float64(), "the end task's mean training loss since the last evaluation", unit="nat"),
    column("aux_loss", pa.float64(), "the weighted auxiliary loss since the last evaluation", unit="nat"),
    column("seconds", pa.float64(), "time in training so far, this attempt", unit="s"),
    _TIME,
)

WEIGHTS = _table(
    "weights",
    _TRIAL,
    _ATTEMPT,
    _STEP,
    column("kind", pa.string(), "'objective', 'primitive' (a stage's softmax), 'task', or 'branch' of a round"),
    column(
        "stage",
        pa.string(),
        "data, transform, representation, output; of a branch what is told: weight, alpha, gain; empty for the others",
    ),
    column("name", pa.string(), "the objective, the primitive, the task or the branch"),
    column("weight", pa.float64(), "its share, which sum to 1 over a kind and stage at a step; of a branch as it is"),
    column("score", pa.float64(), "similarity of its gradient to the dev gradient at this step; null if not asked"),
)

EVENTS = _table(
    "events",
    _TIME,
    column(
        "event", pa.string(), "asked, started, checkpointed, committed, told, failed, resumed, anew, opened_test, ..."
    ),
    column("trial_id", pa.string(), "the trial; empty for events of the run"),
    column("attempt", pa.int32(), "attempt of the trial"),
    column("detail", pa.string(), "what else is known, JSON"),
)

TABLES: dict[str, pa.Schema] = {
    "searches": SEARCHES,
    "trials": TRIALS,
    "evaluations": EVALUATIONS,
    "weights": WEIGHTS,
    "events": EVENTS,
}


@dataclass(frozen=True)
class Report:
    """What a trial says at an evaluation: rows for the tables, and where it stands."""

    step: int
    evaluation: dict[str, Any]  # a row of EVALUATIONS less trial_id, attempt and time
    weights: pa.RecordBatch | None  # rows of WEIGHTS since the last report, less trial_id and attempt
    replayed: bool = False  # said before an interruption, said again
    last: bool = False  # the trial has taken all its steps
    restart_reason: str = ""  # why what an earlier attempt left was not gone on with; in a trial's first report
