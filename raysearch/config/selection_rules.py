"""Whether a search can be scored on folds, and whether it is, if that is left to the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from raysearch.config.compatibility import needs_meta_dev
from raysearch.config.selection import Selection
from raysearch.data.doctor import SMALL_DEV
from raysearch.schema.node import Node

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

AUTO_FOLDS = 5


def check_selection(search: Search, node: Node) -> None:
    """Checks that methods and settings can do with the rows of a fold. Raises SpecError."""
    if problem := _why_impossible(search, search.selection.folds):
        raise node.error(problem, "selection")


def _why_impossible(search: Search, folds: int) -> str:
    """Returns why the search cannot have so many folds; empty if it can."""
    if not folds:
        return ""
    for arm in search.arms.values():
        if arm.bound("patience", max) > 0:
            return (
                f"patience (arm {arm.name}) ends a training by the rows that score it, so that its score would be too "
                "high and the final training, which has no such rows, another; search `steps` instead"
            )
        meta = [methods["weighting"] for methods in arm.method_combinations() if needs_meta_dev(methods)]
        if meta and folds < 3:
            return f"weighting {meta[0]!r} learns from a fold of its own: give at least 3 folds"
    return ""


def decide_selection(search: Search, sizes: Mapping[str, int]) -> tuple[Selection, list[str]]:
    """Returns the selection of a search for data of these sizes, and a sentence that says why; it is never `auto`.

    A search without the key needs no sentence.
    """
    selection, rows = search.selection, sizes["select_dev"]
    labelled = sum(sizes.get(name, 0) for name in ("train", "meta_dev", "select_dev"))
    if not selection.is_auto:
        what = f"configurations are scored on {_describe(selection)} of {labelled} labelled rows"
        return selection, [what] if selection.folds else []
    select_dev, folds = f"configurations are scored on {rows} rows (select_dev)", Selection(folds=AUTO_FOLDS)
    if rows >= SMALL_DEV:
        return Selection(), [select_dev]
    if all(arm.trials == 1 for arm in search.arms.values()):
        return Selection(), [f"{select_dev}; there is one configuration of each arm, and nothing to choose"]
    if problem := _why_impossible(search, AUTO_FOLDS):
        return Selection(), [f"{select_dev}, which are few; folds are impossible: {problem}"]
    if labelled < 2 * AUTO_FOLDS:
        return Selection(), [f"{select_dev}; {labelled} labelled rows are too few for {AUTO_FOLDS} folds"]
    what = f"configurations are scored on {_describe(folds)} of {labelled} labelled rows"
    return folds, [f"{what}, because select_dev has {rows} rows, fewer than {SMALL_DEV}"]


def _describe(selection: Selection) -> str:
    repeats = f" of each of {selection.repeats} partitions" if selection.repeats > 1 else ""
    return f"{selection.folds} folds{repeats}"
