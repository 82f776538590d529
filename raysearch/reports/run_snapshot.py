"""A run's tables as the page needs them: each read once, as of one moment, and of the large ones only what is shown.

A search of 10 000 trials has a million evaluations and more weights. The page shows the curves of the best trials and
of those that stand for an arm, and the details of fewer; of the weights of the others it needs those of the objectives
of complete trials, for their ranking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.reports.query import VIEWS
from raysearch.storage import journal
from raysearch.storage.best import configurations
from raysearch.storage.run import Run, rows_once
from raysearch.storage.states import MAIN_ARM, EventName, TrialRole, TrialState

MAX_CURVES = 600  # trials whose curves are on the page
MAX_DETAILS = 120  # trials whose settings, weights and events are on the page
MAX_FAILED = 20  # of them trials that failed
MAX_RANKED = 2000  # complete trials whose weights are ranked
REDUCED = ("curves", "stages", "final", "optimism", "ranking", "signal", "trajectories")  # these need no other rows
_EVALUATIONS = ["trial_id", "attempt", "step", "phase", "split", "score", "loss", "train_loss", "aux_loss", "seconds"]
_WORDS = ["trial_id", "kind", "stage", "name"]  # columns of weights that repeat


class Snapshot(Run):
    """A run whose tables are read when they are first asked for, and then kept."""

    def searches(self) -> pa.Table:
        """Returns what `Run.searches` does."""
        return self._once("searches", super().searches)

    def trials(self, *, params: bool = False) -> pa.Table:
        """Returns what `Run.trials` does."""
        return super().trials(params=True) if params else self._once("trials", super().trials)

    def events(self) -> pa.Table:
        """Returns what `Run.events` does, without the plans of trials, which the table of trials has too."""
        return self._once("events", lambda: journal.read_table(self.path, "events", keep=_without_plans))

    def configurations(self) -> pa.Table:
        """Returns what `Run.configurations` does."""
        return self._once("configurations", lambda: configurations(self.trials(), self.cells, self.dropped()))

    @cached_property
    def search(self) -> dict[str, Any]:
        """The search as declared."""
        return super().search

    @cached_property
    def _tables(self) -> dict[str, pa.Table]:
        return {}

    def _once(self, name: str, read: Callable[[], pa.Table]) -> pa.Table:
        if name not in self._tables:
            self._tables[name] = read()
        return self._tables[name]

    @cached_property
    def best_trials(self) -> pa.Table:
        """The rows of the trials that are the best of their arms: the view `best`."""
        best: dict[str, str] = {}
        for row in self.configurations().select(["arm", "trial_id", "score"]).to_pylist():
            if row["score"] is not None:
                best.setdefault(row["arm"], row["trial_id"])
        chosen = pa.array(list(best.values()), pa.string())
        return self.trials().filter(pc.is_in(self.trials()["trial_id"], chosen))

    @cached_property
    def ranked_trials(self) -> list[str]:
        """All trials that have ended: those of configurations that are the best of their arms, then by their ranks."""
        rank = {(row["arm"], row["number"]): row["rank"] for row in self._rows(self.configurations(), "rank")}
        best = {(row["arm"], row["number"]) for row in self._rows(self.best_trials)}
        rows = self._rows(self.trials(), "trial_id", "role")
        last = len(rank) + 1

        def order(row: Mapping[str, Any]) -> tuple[Any, ...]:
            key = row["arm"], row["number"]
            return key not in best, rank.get(key, last), row["role"] != TrialRole.SEARCH

        return [row["trial_id"] for row in sorted(rows, key=order)]

    @staticmethod
    def _rows(table: pa.Table, *columns: str) -> list[dict[str, Any]]:
        return table.select(["arm", "number", *columns]).to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def detailed_trials(self) -> list[str]:
        """The trials of which the page has all details: the best ones, and some that failed."""
        states = zip(self.trials()["trial_id"].to_pylist(), self.trials()["state"].to_pylist(), strict=True)
        failed = [trial_id for trial_id, state in states if state == TrialState.FAILED][:MAX_FAILED]
        others = set(failed)
        best = [trial_id for trial_id in self.ranked_trials if trial_id not in others]
        return [*best[: MAX_DETAILS - len(failed)], *failed]

    @cached_property
    def curve_trials(self) -> list[str]:
        """The trials whose curves are on the page, those with details first."""
        return list(dict.fromkeys([*self.detailed_trials, *self.ranked_trials]))[:MAX_CURVES]

    def shown_evaluations(self) -> pa.Table:
        """Returns the evaluations of the trials that have curves on the page, or have not ended."""
        hidden = pa.array(sorted(set(self.ranked_trials) - set(self._evaluated())), pa.string())

        def keep(batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch.filter(pc.invert(pc.is_in(batch["trial_id"], hidden)))

        rows = journal.read_table(self.path, "evaluations", _EVALUATIONS, keep)
        return rows_once(rows, "evaluations", self.trials())

    def _evaluated(self) -> list[str]:
        repeated = [
            row["trial_id"] for row in self._rows(self.trials(), "trial_id", "role") if row["role"] == "confirm"
        ]
        return [*self.curve_trials, *repeated]

    def shown_weights(self) -> pa.Table:
        """Returns the weights of trials with details, and of the objectives of at most MAX_RANKED complete trials."""
        rows = self._rows(self.trials(), "trial_id", "state", "role")
        complete = {row["trial_id"] for row in rows if _is_complete(row)}
        ranked = pa.array([trial for trial in self.ranked_trials if trial in complete][:MAX_RANKED], pa.string())
        detailed, objective = pa.array(self.detailed_trials, pa.string()), pa.array(["objective"])

        def keep(batch: pa.RecordBatch) -> pa.RecordBatch:
            is_ranked = pc.and_(pc.is_in(batch["kind"], objective), pc.is_in(batch["trial_id"], ranked))
            return _encoded(batch.filter(pc.or_(is_ranked, pc.is_in(batch["trial_id"], detailed))))

        weights = journal.read_table(self.path, "weights", keep=keep)
        attempts = zip(self.trials()["trial_id"].to_pylist(), self.trials()["attempts"].to_pylist(), strict=True)
        again = pa.array([trial_id for trial_id, count in attempts if (count or 1) > 1], pa.string())
        if not len(again):
            return weights
        texts = pa.schema([field.with_type(pa.string()) if field.name in _WORDS else field for field in weights.schema])
        weights = weights.cast(texts)
        is_again = pc.is_in(weights["trial_id"], again)
        once = rows_once(weights.filter(is_again), "weights", self.trials())
        return pa.concat_tables([weights.filter(pc.invert(is_again)), once])

    @property
    def ranked_share(self) -> tuple[int, int]:
        """How many complete trials of the search have their weights ranked, and how many there are."""
        complete = sum(map(_is_complete, self._rows(self.trials(), "state", "role")))
        return min(complete, MAX_RANKED), complete


def _is_complete(row: Mapping[str, Any]) -> bool:
    of_search = row["arm"] == MAIN_ARM and row["role"] == TrialRole.SEARCH
    return bool(of_search and row["state"] == TrialState.COMPLETE)


def _encoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the rows with words that repeat as numbers of a dictionary."""
    columns = [batch[name].dictionary_encode() if name in _WORDS else batch[name] for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _without_plans(batch: pa.RecordBatch) -> pa.RecordBatch:
    is_asked = pc.is_in(batch["event"], pa.array([str(EventName.ASKED)]))
    place = batch.schema.get_field_index("detail")
    return batch.set_column(place, batch.schema.field(place), pc.if_else(is_asked, "{}", batch["detail"]))


def page_tables(run: Snapshot) -> dict[str, pa.Table]:
    """Returns the tables that the page's own reports may use, by name (see REDUCED)."""
    return {
        "searches": run.searches(),
        "trials": run.trials(),
        "events": run.events(),
        "evaluations": run.shown_evaluations(),
        "weights": run.shown_weights(),
        "best": run.best_trials,
        "configurations": run.configurations(),
    }


def needs_all_rows(name: str, sql: str) -> bool:
    """Says whether a report may use rows of large tables that `page_tables` lacks."""
    large: Collection[str] = ("evaluations", "weights", "predictions", *VIEWS)  # views are computed from these
    return name not in REDUCED and re.search(rf"\b({'|'.join(large)})\b", sql) is not None
