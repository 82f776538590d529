"""The cells of a configuration: the trainings that it is scored by, one for each seed and, with selection, each fold.

A fold is counted over the repeats of a partition: fold 7 of five folds is the third fold of the second partition. All
configurations have the same cells in the same order, so that two of them can be compared cell by cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NO_FOLD = -1  # without selection the split select_dev scores; with it, a trial that is scored by no fold trains on all


class Cell(NamedTuple):
    """A training of a configuration."""

    seed: int
    fold: int = NO_FOLD


def list_cells(seeds: Sequence[int], folds: int, repeats: int) -> tuple[Cell, ...]:
    """Returns the cells in the order in which a configuration earns them; `folds` is 0 without selection.

    All folds of a partition come before another seed, and all seeds before another partition.
    """
    if not folds:
        return tuple(Cell(seed) for seed in seeds)
    return tuple(
        Cell(seed, repeat * folds + fold) for repeat in range(repeats) for seed in seeds for fold in range(folds)
    )


def search_cells(search: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Returns the cells of a stored search."""
    folds, repeats = stored_selection(search)
    return list_cells(search.get("seeds", []), folds, repeats)


def stored_selection(search: Mapping[str, Any]) -> tuple[int, int]:
    """Returns folds and repeats of a stored search; 0 folds without selection."""
    selection = search.get("selection")
    if not isinstance(selection, Mapping):
        return 0, 1
    return int(selection["folds"]), int(selection.get("repeats", 1))


def has_folds(cells: Sequence[Cell]) -> bool:
    """Says whether the cells are folds."""
    return any(cell.fold != NO_FOLD for cell in cells)


def cell_of(trial: Mapping[str, Any]) -> Cell:
    """Returns the cell of a row of the table of trials; a row without a plan has no fold."""
    return Cell(trial["seed"], _of_plan(trial, "fold", NO_FOLD))


def overlap_of(trial: Mapping[str, Any]) -> float:
    """Returns the rows that score a trial's fold over those that train; 0 without selection."""
    folds = _of_plan(trial, "folds", 0)
    return 1 / (folds - 1) if folds else 0.0


def _of_plan(trial: Mapping[str, Any], name: str, default: int) -> int:
    plan = trial.get("plan") or {}
    if isinstance(plan, str):  # the plans of most runs need not be parsed
        plan = json.loads(plan) if '"folds":' in plan and '"folds":0' not in plan else {}
    return int(plan.get(name, default))
