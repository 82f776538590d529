"""Preparing a task and opening its splits, whatever its modality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysearch.data import pipeline
from raysearch.data.folds import FoldedSplits, FoldView
from raysearch.data.pipeline import Preparation
from raysearch.data.prepared import PreparedData, Split, Splits, load_metadata, read_split
from raysearch.methods import METHODS
from raysearch.modalities import load_modality, modality_of
from raysearch.modalities.base import TaskConfig
from raysearch.plan import TrialPlan


def prepare(task: TaskConfig, model: Mapping[str, Any], folder: Path, data_root: Path | None = None) -> PreparedData:
    """Prepares the data of a task, as `data.pipeline.prepare` does."""
    return pipeline.prepare(load_modality(task.modality).preparation, task, model, folder, data_root)


def check_files(task: TaskConfig, data_root: Path | None = None) -> None:
    """Raises SpecError, with the key that names it, for a file of the task that is missing."""
    pipeline.find_files(load_modality(task.modality).preparation, task, data_root)


def preparation_of(folder: Path) -> Preparation[Any, Any]:
    """Returns the preparation that wrote a folder. Raises SpecError if it holds no prepared data."""
    return modality_of(load_metadata(folder)).preparation


def open_split(folder: Path | str, name: str) -> Split:
    """Maps one split of prepared data into memory; only export may open "test".

    Raises SpecError if there is no such split.
    """
    return read_split(Path(folder), name, preparation_of(Path(folder)).decode)


def open_splits(folder: Path) -> Splits:
    """Returns the splits as they were prepared, without test."""
    return Splits(folder, preparation_of(folder).decode)


def open_splits_of(plan: TrialPlan) -> Splits:
    """Returns the splits that a trial may read: as they were prepared, or the view of its fold."""
    folder = Path(plan.task["data"])
    if not plan.folds:
        return open_splits(folder)
    repeat, fold = divmod(plan.fold, plan.folds) if not plan.is_refit else (0, None)
    needs_meta_dev = METHODS[plan.weighting].needs_meta_dev
    view = FoldView(plan.folds, fold, f"{plan.seed}/{repeat}", needs_meta_dev)
    return FoldedSplits(folder, preparation_of(folder).decode, view)
