"""The six tables of a run, each declared once: the writer, the readers and the tests use these schemas.

Every stored number leads through `trial_id` to its plan, its seed and the versions of the libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

VERSION = "1"


def column(name: str, data_type: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    """Returns an Arrow field that carries its meaning and unit."""
    return pa.field(name, data_type, metadata={"meaning": meaning, **({"unit": unit} if unit else {})})


def _table(name: str, *columns: pa.Field) -> pa.Schema:
    return pa.schema(columns, metadata={"table": name, "version": VERSION})


_TRIAL = column("trial_id", pa.string(), "the trial")
_ATTEMPT = column("attempt", pa.int32(), "how often the trial was started before; the last attempt counts")
_STEP = column("step", pa.int64(), "optimizer steps taken so far, in all phases and branches", unit="step")
_TIME = column("time", pa.timestamp("us", tz="UTC"), "when it was written, by the writer's clock")

SEARCHES = _table(
    "searches",
    column("search", pa.string(), "name of the run"),
    _TIME,
    column("spec", pa.string(), "the search as declared, with all defaults, JSON"),
    column("fingerprint", pa.string(), "sha256 of the search"),
    column("versions", pa.string(), "versions of python, raysearch and the libraries, JSON"),
    column("data", pa.string(), "fingerprints and sizes of the splits, JSON"),
    column("hardware", pa.string(), "cores, memory, accelerators and host, JSON"),
)

TRIALS = _table(
    "trials",
    _TRIAL,
    column("arm", pa.string(), "'search', or the baseline's name"),
    column("role", pa.string(), "'search'; 'confirm', a repetition on a fresh seed; 'refit', on all labelled rows"),
    column("number", pa.int32(), "the configuration's number in its arm, from 0"),
    column("seed", pa.int64(), "the seed of everything random in the trial"),
    column("state", pa.string(), "complete, stopped (by the scheduler) or failed"),
    column("why", pa.string(), "why it ended: a sentence, or the traceback of a failure"),
    column("score", pa.float64(), "best score on select-dev, or the last one on its fold; null if there is none"),
    column("best_step", pa.int64(), "the step of that score", unit="step"),
    column("steps", pa.int64(), "optimizer steps taken", unit="step"),
    column("attempts", pa.int32(), "how often it was started; 1 if it was never interrupted"),
    column("started", pa.timestamp("us", tz="UTC"), "when its first attempt started"),
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
    column(
        "split",
        pa.string(),
        "select_dev (with selection the trial's fold); test where an export or final report read it; train of a refit",
    ),
    column("metric", pa.string(), "name of the score: accuracy, macro_f1 or micro_f1"),
    column("score", pa.float64(), "the end task's metric on the split; higher is better"),
    column(
        "loss",
        pa.float64(),
        "the end task's mean loss on the split; for numbers, the squared error in units of the variance",
        unit="nat",
    ),
    column("best", pa.float64(), "the trial's best score so far"),
    column("lambda_e", pa.float64(), "end-task weight, in [0, 1]"),
    column("train_loss", pa.float64(), "the end task's mean training loss since the last evaluation", unit="nat"),
    column("aux_loss", pa.float64(), "the weighted auxiliary loss since the last evaluation", unit="nat"),
    column("seconds", pa.float64(), "time in training so far, in this attempt", unit="s"),
    _TIME,
)

WEIGHTS = _table(
    "weights",
    _TRIAL,
    _ATTEMPT,
    _STEP,
    column(
        "kind", pa.string(), "'objective', 'primitive' (a stage's softmax), 'task', 'branch' of a round, or 'signal'"
    ),
    column(
        "stage",
        pa.string(),
        "of a primitive, its stage; of a branch, the logged quantity: weight, alpha or gain; else empty",
    ),
    column("name", pa.string(), "the objective, the primitive, the task or the branch"),
    column(
        "weight",
        pa.float64(),
        "its share; shares sum to 1 over a kind and stage at a step; of a branch the value; of a signal, the mean of "
        "what was observed of the objective so far, in standard errors",
    ),
    column(
        "score",
        pa.float64(),
        "similarity of its gradient to the dev gradient at this step, null if not computed; of a signal, the mean",
    ),
)

PREDICTIONS = _table(
    "predictions",
    _TRIAL,
    _ATTEMPT,
    _STEP,
    column("row", pa.int32(), "the row of select_dev; with selection, among all labelled rows"),
    column("target", pa.list_(pa.float32()), "what is right: the class's number, 0 or 1 for each label, or the number"),
    column("outputs", pa.list_(pa.float32()), "what the best network of the trial gave: logits, or the number"),
)

EVENTS = _table(
    "events",
    _TIME,
    column("event", pa.string(), "what happened, see `states.EventName`: asked, started, committed, told, lost, ..."),
    column("trial_id", pa.string(), "the trial; empty for an event of the run"),
    column("attempt", pa.int32(), "attempt of the trial"),
    column("detail", pa.string(), "further values, JSON"),
)

TABLES: dict[str, pa.Schema] = {
    "searches": SEARCHES,
    "trials": TRIALS,
    "evaluations": EVALUATIONS,
    "weights": WEIGHTS,
    "predictions": PREDICTIONS,
    "events": EVENTS,
}
ADDED_LATER = ("predictions",)  # runs of earlier versions lack them

# Columns that may not be null. Of evaluations and weights, all but the attempt identify a row.
ROW_KEYS: dict[str, tuple[str, ...]] = {
    "searches": ("search", "time"),
    "trials": ("trial_id", "arm", "role", "number", "seed", "state"),
    "evaluations": ("trial_id", "attempt", "step", "split"),
    "weights": ("trial_id", "attempt", "step", "kind", "stage", "name"),
    "predictions": ("trial_id", "attempt", "step", "row"),
    "events": ("time", "event", "trial_id", "attempt"),
}


@dataclass(frozen=True)
class Report:
    """What a trial reports at an evaluation."""

    step: int
    evaluation: dict[str, Any]  # a row of EVALUATIONS without trial_id, attempt and time
    weights: pa.RecordBatch | None  # rows of WEIGHTS since the last report, without trial_id and attempt
    replayed: bool = False  # reported before an interruption, and now again
    last: bool = False  # the trial has taken all its steps
    predictions: pa.RecordBatch | None = None  # of the last report: rows of PREDICTIONS without trial_id and attempt
    restart_reason: str = ""  # why an earlier attempt's checkpoint was not used; in the first report of an attempt
