"""Makes the teacher that a plan declares, and the anchors, for those of its objectives that need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raysearch.data.prepared import Split, Splits
from raysearch.distributed import ProcessGroup
from raysearch.errors import SpecError
from raysearch.modalities import modality_of
from raysearch.modalities.batch import BatchBuilder, ViewBatchBuilder, labels_of
from raysearch.modalities.guessing import Tutors
from raysearch.models.network import Network
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import BORROWED, Primitive
from raysearch.plan import TrialPlan
from raysearch.rng import number_of
from raysearch.training.teachers.anchors import StoredAnchors
from raysearch.training.teachers.ensemble import Views, make_views
from raysearch.training.teachers.files import guessed_rows, missing_file, read_guesses
from raysearch.training.teachers.guarded_ensemble import Teaching, teach
from raysearch.training.teachers.moving_average import MovingAverageTeacher
from raysearch.training.teachers.purity import estimate
from raysearch.training.teachers.table import GuessTable, TableTeacher, certain_table
from raysearch.training.teachers.vectors import initial_vectors

Remark = tuple[str, str, float]  # what was estimated, of which class, and its value


@dataclass(frozen=True)
class TeacherSource:
    """All that teachers are made from: a trial's plan, its network before the first step, and its data."""

    plan: TrialPlan
    metadata: dict[str, Any]
    network: Network
    splits: Splits
    batches: BatchBuilder
    process_group: ProcessGroup
    autocast: Callable[[], torch.autocast]

    @property
    def classes(self) -> int:
        """C, the number of the end task's classes."""
        return len(self.metadata["labels"])

    def vectors(self, split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the vectors (R, H) of rows by the encoder before training; the first rank computes them."""
        vectors = None
        if self.process_group.rank == 0:
            folder = Path(self.plan.task["data"]) / "vectors"
            vectors = initial_vectors(self.plan, self.network, self.batches, split, rows, folder)
        shared: NDArray[np.float32] = self.process_group.broadcast(vectors)
        return shared


@dataclass(frozen=True)
class MadeTutors:
    """A teacher and anchors, the part of them that learns, and what is known of the guesses."""

    tutors: Tutors
    learner: MovingAverageTeacher | None
    remarks: tuple[Remark, ...]


def make_tutors(source: TeacherSource) -> MadeTutors:
    """Returns what the plan's objectives need. Raises ValueError for an end task without classes."""
    taxonomy = modality_of(source.metadata).taxonomy
    outputs = [(each, taxonomy.find("output", each.output)) for each in source.plan.objectives]
    seen = _splits_of(source, outputs, lambda output: output.head == BORROWED)
    pools = {id(split): torch.from_numpy(_pool_of(source, split)) for split in seen}
    guessed = _splits_of(source, outputs, lambda output: output.needs_guesses)
    anchored = _splits_of(source, outputs, lambda output: output.needs_anchors)
    anchors = StoredAnchors(
        [(split, rows := pools[id(split)].numpy(), source.vectors(split, rows)) for split in anchored]
    )
    if not guessed:
        return MadeTutors(Tutors(None, anchors, pools), None, ())
    labels = labels_of(source.splits("train"), torch.arange(len(source.splits("train"))))
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError("a teacher guesses classes, and the labels of this task are none")
    if source.plan.training.teacher == "file":
        file_tables, remarks = tables_of_file(source, guessed, labels.numpy())
        return MadeTutors(Tutors(TableTeacher(file_tables), anchors, pools), None, remarks)
    tables, remarks, is_open = _ensemble_tables(source, guessed, pools, labels.numpy())
    if source.plan.training.teacher == "average":
        decay = source.plan.training.teacher_decay
        learner = MovingAverageTeacher(source.network, source.batches, decay, is_open, source.autocast, pools)
        return MadeTutors(Tutors(learner, anchors, pools), learner, remarks)
    return MadeTutors(Tutors(TableTeacher(tables), anchors, pools), None, remarks)


def _pool_of(source: TeacherSource, split: Split) -> NDArray[np.int64]:
    """Returns the rows that views of a split are drawn from; their states are cached, by the first rank alone."""
    is_train = split is source.splits("train")
    rows = pool_rows(split, len(split) if is_train else source.plan.training.guess_pool, 0)
    batches = cast(ViewBatchBuilder, source.batches)
    if source.process_group.rank == 0:
        batches.cache_rows(split, rows)
    source.process_group.barrier()
    batches.cache_rows(split, rows)
    return rows


def _splits_of(
    source: TeacherSource, outputs: list[tuple[Objective, Primitive | None]], needs: Callable[[Primitive], bool]
) -> list[Split]:
    """Returns the splits of the objectives whose outputs need something, each once."""
    batches = cast(ViewBatchBuilder, source.batches)
    splits = [batches.split_of(objective) for objective, output in outputs if output is not None and needs(output)]
    return list({id(split): split for split in splits}.values())


def pool_rows(split: Split, limit: int, seed: int) -> NDArray[np.int64]:
    """Returns the rows of a split that a teacher looks at: all, or `limit` of them, in ascending order."""
    if len(split) <= limit:
        return np.arange(len(split))
    return np.sort(np.random.default_rng(seed).permutation(len(split))[:limit])


def _ensemble_tables(
    source: TeacherSource, splits: list[Split], pools: Mapping[int, Tensor], y: NDArray[Any]
) -> tuple[list[tuple[Split, GuessTable]], tuple[Remark, ...], Tensor]:
    """Returns the ensemble's table of each split, what is known of it, and which classes have guesses (C,) bool."""
    train, training = source.splits("train"), source.plan.training
    tables: list[tuple[Split, GuessTable]] = []
    remarks: list[Remark] = []
    is_open = np.zeros(source.classes, dtype=bool)
    for split in splits:
        if split is train:
            tables.append((split, certain_table(y, source.classes)))
            is_open |= np.bincount(y, minlength=source.classes) > 0
            continue
        rows = pools[id(split)].numpy()
        labelled, unlabelled = _views(source, train, split, rows)
        teaching: Teaching | None = None
        if source.process_group.rank == 0:
            teaching = teach(
                labelled,
                y,
                unlabelled,
                rows,
                source.classes,
                least_purity=training.guess_purity,
                has_guard=training.guess_guard == "auto",
                seed=number_of(source.plan.seed, "teacher", 0) % (1 << 31),
            )
        teaching = cast(Teaching, source.process_group.broadcast(teaching))
        tables.append((split, teaching.table))
        is_open |= (teaching.estimate.thresholds <= 1) & (not teaching.is_guarded)
        remarks += _remarks(teaching, source.metadata["labels"])
    return tables, tuple(remarks), torch.from_numpy(is_open)


def tables_of_file(
    source: TeacherSource, splits: list[Split], y: NDArray[Any]
) -> tuple[list[tuple[Split, GuessTable]], tuple[Remark, ...]]:
    """Returns the table of each split by the file of the plan, and what the labelled rows say of its purity.

    Raises SpecError for a file that cannot be used, or that speaks of no unlabelled example.
    """
    training, train, labels = source.plan.training, source.splits("train"), source.metadata["labels"]
    path = Path(training.teacher_path).expanduser()
    if not path.is_file():
        raise missing_file(training.teacher_path)
    guesses = read_guesses(path, labels, cast(ViewBatchBuilder, source.batches).keys_of)
    P, places = guessed_rows(guesses, train, has_numbers=False)
    tables: list[tuple[Split, GuessTable]] = []
    remarks: list[Remark] = []
    for split in splits:
        if split is train:
            tables.append((split, certain_table(y, source.classes)))
            continue
        U, rows = guessed_rows(guesses, split, has_numbers=True)
        if not len(rows):
            raise SpecError("speaks of no unlabelled example of the task", file=str(path))
        shares = np.bincount(y, minlength=source.classes) / len(y)
        estimates = estimate(P.reshape(-1, source.classes), y[places], U, shares, training.guess_purity)
        trust = (U.max(axis=1) >= estimates.thresholds[U.argmax(axis=1)]).astype(np.float64)
        teaching = Teaching(GuessTable(rows, U, trust), estimates, (0.0, 0.0), False)
        tables.append((split, teaching.table))
        remarks += _remarks(teaching, labels)
    return tables, tuple(remarks)


def _views(source: TeacherSource, train: Split, split: Split, rows: NDArray[np.int64]) -> tuple[Views, Views]:
    batches = cast(ViewBatchBuilder, source.batches)
    vectors = source.vectors(train, np.arange(len(train))), source.vectors(split, rows)
    return make_views(vectors, (batches.features(train, np.arange(len(train))), batches.features(split, rows)))


def _remarks(teaching: Teaching, labels: list[str]) -> list[Remark]:
    """Returns the estimates of each class, and the guard's two accuracies."""
    estimate, table = teaching.estimate, teaching.table
    used = np.bincount(table.probabilities.argmax(axis=1), table.trust, minlength=len(labels))
    remarks: list[Remark] = []
    for c, label in enumerate(labels):
        remarks += [
            ("share", label, float(estimate.shares[c])),
            ("purity", label, float(estimate.raw_purity[c])),
            ("purity of used", label, float(estimate.purity[c])),
            ("used", label, float(used[c])),
        ]
    without, with_guesses = teaching.accuracies
    return [*remarks, ("guard", "without guesses", without), ("guard", "with guesses", with_guesses)]
