"""The ledger: the only writer of a run's tables.

Rows are buffered, written to a journal, and compacted into Parquet parts (see `journal`). A trial is committed once.
What is committed is never lost, and the rows that a trial has reported are on disk before its commit is.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

import pyarrow as pa

from raysearch.errors import RunError, did_you_mean
from raysearch.storage import journal
from raysearch.storage.containment import check_contained
from raysearch.storage.durable import NotDurableError
from raysearch.storage.lock import take_lock
from raysearch.storage.row_checks import Rows, checked_rows
from raysearch.storage.schemas import TABLES
from raysearch.storage.states import ENDED_STATES, SEARCH_PURPOSE, EventName, TrialRole, TrialState

FLUSH_ROWS, FLUSH_SECONDS = 20_000, 1.0  # `append` flushes a table with more rows, or older ones
COMPACT_SECONDS, COMPACT_SHARE = 5.0, 0.05  # least time between compactions of a table, and their share of the time

Clock: TypeAlias = Callable[[], float]  # s, from any moment


class Ledger:
    """A run's tables, open for writing by one process. Its methods may be called from any thread.

    Call `flush` about once a second: it makes rows visible to readers.
    """

    def __init__(self, folder: Path, lock: IO[str], clock: Clock = time.monotonic) -> None:
        self.folder, self._lock, self._mutex, self._clock = folder, lock, threading.RLock(), clock
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
        self._since = dict.fromkeys(TABLES, 0.0)  # when the oldest pending row came, by the monotonic clock
        self._next_compaction = dict.fromkeys(TABLES, clock() + COMPACT_SECONDS)
        self._seq = 0
        self._committed: set[str] = set()
        self.missing: list[str] = []  # parts of tables that were lost, as paths

    @classmethod
    def open(cls, folder: Path | str, purpose: str = SEARCH_PURPOSE, clock: Clock = time.monotonic) -> Self:
        """Opens the ledger of a run's folder, which is created if it does not exist.

        `purpose` is recorded: only sessions with SEARCH_PURPOSE count as time spent on the search. `clock` says in s
        when buffered rows are old. Raises RunError when another process writes there, when a link in the folder leads
        out of it, or when the tables cannot be read.
        """
        folder = Path(folder)
        check_contained(folder)
        for name in ("log", *(f"tables/{table}" for table in TABLES)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        ledger = cls(folder, take_lock(folder), clock)
        try:
            ledger._seq, ledger._committed, ledger.missing = _recover(folder)
            detail = {"purpose": purpose, "pid": os.getpid(), "host": socket.gethostname()}
            ledger.event(EventName.OPENED, detail=detail | ({"missing": ledger.missing} if ledger.missing else {}))
            ledger.compact()
        except BaseException:
            ledger._lock.close()
            raise
        return ledger

    @property
    def committed(self) -> set[str]:
        """The ids of all committed trials, as a copy."""
        with self._mutex:
            return set(self._committed)

    def append(self, table: str, rows: Rows, durable: bool = False, fill: Mapping[str, object] | None = None) -> None:
        """Adds rows; a column that they lack is taken from `fill`, otherwise it is null, and `time` is now.

        `durable`: they are on disk on return, otherwise soon after. Raises ValueError for rows that do not fit the
        table.
        """
        if table == "trials":
            raise ValueError("a row of the table of trials is written by commit")
        checked = checked_rows(table, rows, fill or {})
        with self._mutex:
            self._buffer(table, checked)
            is_old = self._clock() - self._since[table] > FLUSH_SECONDS
            if durable or is_old or sum(map(len, self._pending[table])) > FLUSH_ROWS:
                self.flush()

    def event(
        self,
        name: str,
        trial_id: str = "",
        attempt: int = 0,
        detail: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        """Adds an event of a trial or, without `trial_id`, of the run."""
        self.append("events", [_event(name, trial_id, attempt, detail)], durable=durable)

    def commit(self, trial: dict[str, Any], events: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> None:
        """Writes a trial's only row, durably, after all rows that were appended before it.

        An event COMMITTED and `events` (name and detail) follow. Raises ValueError for a row that is wrong, and
        RunError if the trial has been committed before; nothing is written then.
        """
        row = checked_rows("trials", [trial], {})
        trial_id, state, score = trial["trial_id"], trial["state"], trial.get("score")
        if state not in ENDED_STATES:
            raise ValueError(f"state {state!r}{did_you_mean(str(state), map(str, ENDED_STATES))}")
        needs_score = state == TrialState.COMPLETE and trial["role"] != TrialRole.REFIT
        if (score is None and needs_score) or (score is not None and not math.isfinite(score)):
            raise ValueError(f"trial {trial_id} ({state}): score must be a finite number, got {score!r}")
        attempt = max(0, (trial.get("attempts") or 1) - 1)
        with self._mutex:
            if trial_id in self._committed:
                raise RunError(f"trial {trial_id} has been committed before; a trial is committed once")
            self.flush()
            try:
                self._write("trials", row)
            except NotDurableError:  # the row is there, and must not be written again
                self._committed.add(trial_id)
                raise
            self._committed.add(trial_id)
            followers = [(EventName.COMMITTED, {"state": state, "score": score}), *events]
            self.append("events", [_event(name, trial_id, attempt, detail) for name, detail in followers], durable=True)

    def restore(self, rows: Rows) -> None:
        """Writes rows of trials that were committed before, and whose rows are lost, durably."""
        checked = checked_rows("trials", rows, {})
        with self._mutex:
            self._committed |= set(checked["trial_id"].to_pylist())
            self._write("trials", checked)

    def flush(self) -> None:
        """Writes the buffered rows to the journal, durably, and compacts the tables whose time has come."""
        with self._mutex:
            for table, pending in self._pending.items():
                if pending:
                    try:
                        self._write(table, pa.concat_tables(pending))
                    except NotDurableError:  # the rows are in the journal, and must not be written there again
                        pending.clear()
                        raise
                    pending.clear()
            for table in TABLES:
                if self._clock() >= self._next_compaction[table]:
                    self._compact(table)

    def compact(self) -> None:
        """Writes the buffered rows, and moves the whole journal into the Parquet parts."""
        with self._mutex:
            self.flush()
            for table in TABLES:
                self._compact(table)

    def close(self) -> None:
        """Compacts, and releases the lock; closing again does nothing."""
        with self._mutex:
            if not self._lock.closed:
                try:
                    self.event(EventName.CLOSED)
                    self.compact()
                finally:
                    self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _buffer(self, table: str, rows: pa.Table) -> None:
        if self._lock.closed:
            raise RunError(f"{self.folder}: the ledger is closed")
        if not self._pending[table]:
            self._since[table] = self._clock()
        self._pending[table].append(rows)

    def _write(self, table: str, rows: pa.Table) -> None:
        if self._lock.closed:
            raise RunError(f"{self.folder}: the ledger is closed")
        self._seq += 1  # never used again, whatever becomes of the file
        journal.write_segment(self.folder, self._seq, table, rows)

    def _compact(self, table: str) -> None:
        started = self._clock()
        journal.compact(self.folder, table)
        now = self._clock()
        self._next_compaction[table] = now + max(COMPACT_SECONDS, (now - started) / COMPACT_SHARE)


def _recover(folder: Path) -> tuple[int, set[str], list[str]]:
    """Removes unfinished files; returns the last sequence number, the committed trials and the parts that were lost.

    An empty part takes the place of one that was lost.
    """
    seq, lost = 0, []
    for unfinished in (folder / "log").glob("*.tmp"):
        unfinished.unlink()
    for table in TABLES:
        lost += journal.replace_missing_parts(folder, table)
        parts = journal.list_parts(folder, table)
        if not parts:  # a pattern over the parts then always matches a file
            journal.append_to_part(folder, table, 0, 0, TABLES[table].empty_table())
        else:
            with journal.open_part(parts[-1], table) as part:
                seq = max(seq, journal.last_segment(part))
    seq = max([seq, *(segment.seq for segment in journal.list_segments(folder))])
    return seq, set(journal.read_table(folder, "trials")["trial_id"].to_pylist()), lost


def _event(name: str, trial_id: str, attempt: int, detail: Mapping[str, Any] | None) -> dict[str, Any]:
    text = json.dumps(detail or {}, sort_keys=True)
    return {"event": name, "trial_id": trial_id, "attempt": attempt, "detail": text}
