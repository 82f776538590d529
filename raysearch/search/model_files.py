"""Which trained models stay in a run's folder: those of the best trials of each arm, as `storage.best` orders them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raysearch.config.search_config import Search
from raysearch.storage.best import ArmRanking
from raysearch.storage.containment import path_inside, remove_inside
from raysearch.storage.states import TrialRole, TrialState
from raysearch.training.checkpoint import TrialFolder

TRIALS = "trials"  # the folder of all trials, in that of the run
MANY = 20  # trials, of which it is worth asking first which have a folder
Row = Mapping[str, Any]  # of the table of trials


class ModelFiles:
    """The folders of trials that have ended; knows every committed trial, and therefore the best one.

    A search keeps the models of the `keep` best configurations of each arm, each of its best trial. While a
    configuration is still to run on further seeds its best model stays too, because its mean may become the highest.
    With selection the models of folds go, unless all are kept, and those that are trained on all labelled rows stay.
    """

    def __init__(self, search: Search, folder: Path) -> None:
        """Manages `folder`/trials/TRIAL for every trial of the search."""
        self._search, self._folder = search, folder
        self._rankings: dict[str, ArmRanking] = {}
        self._on_disk: dict[str, set[str]] = {}  # by arm

    def add(self, row: Row) -> None:
        """Takes a committed trial into the order; removes nothing yet."""
        if row["role"] == TrialRole.SEARCH:
            self._rankings.setdefault(row["arm"], ArmRanking(self._search.cells)).add(row)
            self._on_disk.setdefault(row["arm"], set()).add(row["trial_id"])

    def best(self, arm: str) -> Row | None:
        """Returns the row of the arm's best trial; None when no trial has a score.

        With selection its score is the mean of its configuration over its folds.
        """
        first = self._rankings[arm].first(1) if arm in self._rankings else []
        if not first:
            return None
        return {**first[0].best_trial, "score": first[0].score} if self._search.selection.folds else first[0].best_trial

    def tidy(self, rows: Iterable[Row]) -> None:
        """Removes what is not to be kept, after `rows` have been committed and added."""
        ended: dict[str, set[str]] = {}
        for row in rows:
            if row["role"] == TrialRole.SEARCH:
                ended.setdefault(row["arm"], set()).add(row["trial_id"])
            elif row["role"] == TrialRole.REFIT:
                self._settle(row["trial_id"], is_kept=True)
            else:
                confirm = self._search.confirm
                self._settle(row["trial_id"], is_kept=confirm is not None and confirm.keep)
        for arm, trial_ids in ended.items():
            to_keep = self._to_keep(arm)
            leaving = trial_ids | (self._on_disk[arm] - to_keep)
            if len(leaving) > MANY:  # of a run that is resumed: most of their folders are gone
                leaving &= {path.name for path in path_inside(self._folder, TRIALS).glob("*")}
            for trial_id in sorted(leaving):
                self._settle(trial_id, is_kept=trial_id in to_keep)
            self._on_disk[arm] &= to_keep

    def _to_keep(self, arm: str) -> set[str]:
        """Returns the trials of an arm whose models stay."""
        keep, ranking = self._search.keep, self._rankings[arm]
        if keep < 0:
            return {row["trial_id"] for row in ranking.trials() if row["state"] == TrialState.COMPLETE}
        if self._search.selection.folds:
            return set()
        chosen = [*ranking.first(keep), *(ranking.unfinished() if keep else ())]
        return {configuration.best_trial["trial_id"] for configuration in chosen}

    def _settle(self, trial_id: str, *, is_kept: bool) -> None:
        if is_kept:
            TrialFolder(path_inside(self._folder, TRIALS, trial_id)).clear()
        else:
            remove_inside(self._folder, TRIALS, trial_id)
