"""What each arm gave for the rows of the end task: the views `outputs` and `row_texts`, which reports may use.

An arm stands for its configuration (`storage.arm_choice`) on the fresh seeds that every arm was repeated on, and
without these on the seeds of the search. Only cells (a seed; with selection a fold) count of which every arm has
predictions, so that all arms are seen on the same rows and the same seeds. An ensemble has no predictions of its own.

    z (n, C)   outputs of a trial's best network: logits of classes, a logit for each of several labels, or a number
    p (n, C)   probabilities of classes, or of having each label
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysearch.errors import RunError, SpecError
from raysearch.storage.arm_choice import ArmChoice, best_arm
from raysearch.storage.cells import NO_FOLD, Cell, cell_of
from raysearch.storage.schemas import column
from raysearch.storage.states import TrialRole, TrialState

if TYPE_CHECKING:
    from raysearch.storage.run import Run

OUTPUTS = pa.schema(
    [
        column("arm", pa.string(), "'search', or the baseline's name"),
        column("fresh", pa.bool_(), "whether the seed took no part in choosing the arm's configuration"),
        column("trial_id", pa.string(), "the trial"),
        column("seed", pa.int64(), "its seed"),
        column("fold", pa.int32(), "its fold, counted over partitions; -1 without selection"),
        column("row", pa.int32(), "the row of select_dev; with selection, among all labelled rows"),
        column("label", pa.string(), "of a task with several labels, the one that truth is of; else empty"),
        column("truth", pa.string(), "the label's name; 'yes' or 'no' of several labels; null for numbers"),
        column("predicted", pa.string(), "what the arm predicts, in the same words"),
        column("is_right", pa.bool_(), "whether both are the same; null for numbers"),
        column("confidence", pa.float64(), "probability that the arm gives to what it predicts; null for numbers"),
        column("bin", pa.int32(), "the bin of that confidence among those of the arm, from 1"),
        column("brier", pa.float64(), "sum of squared errors of the probabilities"),
        column("log_loss", pa.float64(), "minus the logarithm of the probability of what is right", unit="nat"),
        column("true_number", pa.float64(), "the number that is right; null for labels"),
        column("predicted_number", pa.float64(), "the number that the arm gives; null for labels"),
    ]
)
ROW_TEXTS = pa.schema(
    [
        column("row", pa.int32(), "the row, as in the view outputs"),
        column("text", pa.string(), "what the row was made from, as far as the prepared data have it"),
    ]
)
MOST_BINS, LEAST_IN_BIN = 10, 10  # bins of confidence; rows in each
LABELLED = ("train", "meta_dev", "select_dev")  # the splits that folds are of, in this order
Batch = dict[str, Any]  # columns of OUTPUTS
Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]


class Stored(NamedTuple):
    """The predictions of one trial."""

    rows: Rows  # (n,)
    y: Numbers  # (n, 1) classes or numbers, or (n, L) of 0 and 1
    z: Numbers  # (n, C)


@dataclass(frozen=True)
class _Member:
    """A trial whose outputs are compared."""

    arm: str
    trial_id: str
    cell: Cell


def end_task_outputs(run: Run, trials: pa.Table) -> pa.Table:
    """Returns the view `outputs`: a row for each arm, seed and row, and of several labels for each of them."""
    choice = best_arm(trials, run.cells, run.arms)
    if choice is None:
        return OUTPUTS.empty_table()
    members = _members(choice, trials.to_pylist())
    stored = run.predictions(*[member.trial_id for member in members]) if members else None
    if stored is None or not len(stored):
        return OUTPUTS.empty_table()
    labels, is_number = _labels(run), run.search["task"]["metric"] == "r2"
    by_trial = _by_trial(stored, is_number=is_number)
    members = _common([member for member in members if member.trial_id in by_trial])
    batches = []
    for arm in dict.fromkeys(member.arm for member in members):
        of_arm = [member for member in members if member.arm == arm]
        parts = [_columns(*by_trial[member.trial_id], labels, is_number=is_number) for member in of_arm]
        bins = _bins([part["confidence"] for part in parts], len({row for part in parts for row in part["row"]}))
        for member, part, places in zip(of_arm, parts, bins, strict=True):
            batches.append(_table(member, part, places, is_fresh=choice.is_fresh))
    return pa.concat_tables(batches) if batches else OUTPUTS.empty_table()


def row_texts(run: Run) -> pa.Table:
    """Returns the view `row_texts`: the text of each labelled row; no rows if the prepared data have no texts.

    Images and tables have none, and neither have runs whose folder `data` is gone or damaged.
    """
    from raysearch.data.prepared import ORIGINALS, read_batch

    folder = run.path / "data"
    has_folds = any(cell.fold != NO_FOLD for cell in run.cells)
    names = [name for name in (LABELLED if has_folds else LABELLED[-1:]) if (folder / f"{name}.arrow").exists()]
    if any(not (folder / ORIGINALS / f"{name}.arrow").exists() for name in names):
        return ROW_TEXTS.empty_table()
    try:
        texts = [read_batch(folder, name).column("text").cast(pa.string()) for name in names]
    except (SpecError, RunError, KeyError, pa.ArrowException, OSError):
        return ROW_TEXTS.empty_table()
    joined = pa.chunked_array(texts, pa.string())
    return pa.table([pa.array(np.arange(len(joined)), pa.int32()), joined], schema=ROW_TEXTS)


def _members(choice: ArmChoice, trials: Sequence[Mapping[str, Any]]) -> list[_Member]:
    """Returns the complete trials of each arm's configuration on the seeds that the arms are compared by."""
    numbers = {each.arm: each.number for each in choice.ranked}
    role = TrialRole.CONFIRM if choice.is_fresh else TrialRole.SEARCH
    return [
        _Member(row["arm"], row["trial_id"], cell_of(row))
        for row in trials
        if row["role"] == role and row["state"] == TrialState.COMPLETE and numbers.get(row["arm"]) == row["number"]
    ]


def _common(members: Sequence[_Member]) -> list[_Member]:
    """Returns the trials of the cells that every arm has, in the order of arms and cells."""
    cells: dict[str, set[Cell]] = {}
    for member in members:
        cells.setdefault(member.arm, set()).add(member.cell)
    shared = set.intersection(*cells.values()) if cells else set()
    arms = list(cells)
    common = [member for member in members if member.cell in shared]
    return sorted(common, key=lambda member: (arms.index(member.arm), member.cell))


def _labels(run: Run) -> list[str]:
    """Returns the names of the end task's labels; empty where the run does not say."""
    stored = run.searches()["data"].to_pylist()
    named = json.loads(stored[-1] or "{}").get("labels", []) if stored else []
    return [str(name) for name in named] if isinstance(named, list) else []


def _by_trial(stored: pa.Table, *, is_number: bool) -> dict[str, Stored]:
    """Returns the outputs of each trial, sorted by row; without trials whose values do not fit together."""
    trials = {}
    stored = stored.sort_by([("trial_id", "ascending"), ("row", "ascending")])
    for trial_id in pc.unique(stored["trial_id"]).to_pylist():
        rows = stored.filter(pc.equal(stored["trial_id"], trial_id)).combine_chunks()
        targets, outputs = (_matrix(rows[name]) for name in ("target", "outputs"))
        if targets is None or outputs is None or rows["row"].null_count:
            continue
        C = outputs.shape[1]
        has_classes = targets.shape[1] == 1 and not is_number
        if has_classes and not np.isin(targets, np.arange(C)).all():
            continue
        if has_classes or targets.shape[1] == C:
            trials[trial_id] = Stored(rows["row"].to_numpy().astype(np.int64), targets, outputs)
    return trials


def _matrix(lists: pa.ChunkedArray) -> Numbers | None:
    """Returns lists of equal length as (n, C); None for others, or for values that are not finite."""
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        return None
    values: Numbers = pc.list_flatten(lists).to_numpy().astype(np.float64).reshape(len(lists), -1)
    return values if np.isfinite(values).all() else None


def _columns(rows: Rows, y: Numbers, z: Numbers, labels: Sequence[str], *, is_number: bool) -> Batch:
    """Returns the columns of one trial."""
    if is_number:
        return _of_numbers(rows, y[:, 0], z[:, 0])
    names = [labels[i] if i < len(labels) else f"label {i}" for i in range(z.shape[1])]
    return _of_classes(rows, y[:, 0].astype(np.int64), z, names) if y.shape[1] == 1 else _of_several(rows, y, z, names)


def _of_numbers(rows: Rows, y: Numbers, z: Numbers) -> Batch:
    nothing = [None] * len(rows)
    names = ("truth", "predicted", "is_right", "confidence", "brier", "log_loss")
    return {"row": rows, "label": [""] * len(rows), **dict.fromkeys(names, nothing)} | {
        "true_number": y,
        "predicted_number": z,
    }


def _of_classes(rows: Rows, y: Rows, z: Numbers, names: Sequence[str]) -> Batch:
    from scipy.special import log_softmax

    log_p = log_softmax(z, axis=1)
    p, predicted, every = np.exp(log_p), z.argmax(axis=1), np.arange(len(rows))
    return _labelled(
        rows=rows,
        label=[""] * len(rows),
        truth=[names[i] for i in y],
        predicted=[names[i] for i in predicted],
        is_right=predicted == y,
        confidence=p[every, predicted],
        brier=np.square(p - np.eye(z.shape[1])[y]).sum(axis=1),
        log_loss=-log_p[every, y],
    )


def _of_several(rows: Rows, y: Numbers, z: Numbers, names: Sequence[str]) -> Batch:
    from scipy.special import log_expit

    has, z, words = y.reshape(-1) > 0, z.reshape(-1), np.array(["no", "yes"])
    p, predicted = np.exp(log_expit(z)), z > 0
    return _labelled(
        rows=np.repeat(rows, len(names)),
        label=list(names) * len(rows),
        truth=words[has.astype(int)].tolist(),
        predicted=words[predicted.astype(int)].tolist(),
        is_right=predicted == has,
        confidence=np.maximum(p, 1 - p),
        brier=2 * np.square(p - has),
        log_loss=-log_expit(np.where(has, z, -z)),
    )


def _labelled(*, rows: Rows, **columns: Any) -> Batch:
    nothing = [None] * len(rows)
    return {"row": rows, **columns, "true_number": nothing, "predicted_number": nothing}


def _bins(confidences: Sequence[Any], rows: int) -> list[Any]:
    """Returns the bin of each confidence of an arm's trials; those of the arm's bins are about equally many."""
    if any(confidence is None for part in confidences for confidence in part):
        return [[None] * len(part) for part in confidences]
    count = max(1, min(MOST_BINS, rows // LEAST_IN_BIN))
    edges = np.quantile(np.concatenate(confidences), np.arange(1, count) / count)
    return [np.searchsorted(edges, part, side="right") + 1 for part in confidences]


def _table(member: _Member, part: Batch, bins: Any, *, is_fresh: bool) -> pa.Table:
    constant = {"arm": member.arm, "fresh": is_fresh, "trial_id": member.trial_id, **member.cell._asdict()}
    n = len(part["row"])
    columns = {name: [value] * n for name, value in constant.items()} | part | {"bin": bins}
    return pa.table([pa.array(columns[field.name], field.type) for field in OUTPUTS], schema=OUTPUTS)
