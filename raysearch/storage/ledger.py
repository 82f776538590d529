"""Ledger: the only writer of a run's tables.

Rows are buffered, written to a journal, and compacted into Parquet (see `segments`). A trial is committed once; what
is committed is never lost, and rows that a trial said before are on disk before its commit is.
"""

from __future__ import annotations

import fcntl
import json
import math
import numbers
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

import pyarrow as pa

from raysearch.errors import RunError, did_you_mean
from raysearch.storage import journal
from raysearch.storage.schemas import TABLES
from raysearch.storage.states import ENDED_STATES, EventName, TrialState

Rows: TypeAlias = list[dict[str, Any]] | pa.RecordBatch | pa.Table

ROW_KEYS: dict[
    str, tuple[str, ...]
] = {  # what may not be null; with the attempt set aside, what makes a row one of a kind
    "searches": ("search", "time"),
    "trials": ("trial_id", "arm", "role", "number", "seed", "state"),
    "evaluations": ("trial_id", "attempt", "step", "split"),
    "weights": ("trial_id", "attempt", "step", "kind", "stage", "name"),
    "events": ("time", "event", "trial_id", "attempt"),
}

FLUSH_ROWS, FLUSH_SECONDS = 20_000, 1.0  # `append` flushes a table with more rows, or older ones, than this
COMPACT_SECONDS, COMPACT_SHARE = 5.0, 0.05  # between compactions of a table; the most of the time that they may take
PART_ROWS, PART_BYTES, PART_GROUPS = 1 << 20, 64 << 20, 32  # a part this large is left as it is, and another begun
_LOCK_TRIES, _LOCK_PAUSE = 10, 0.05  # a look at the lock (`writer_pid`) takes it for an instant


class Ledger:
    """A run's tables, open for writing by one process; its methods may be called from any thread.

    Call `flush` now and then (once a second will do): it is what makes rows visible to others.
    """

    def __init__(self, folder: Path, lock: IO[str]) -> None:
        self.folder, self._lock, self._mutex = folder, lock, threading.RLock()
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in TABLES}
        self._since = dict.fromkeys(TABLES, 0.0)  # when the oldest pending row came; monotonic clock
        self._next_compaction = dict.fromkeys(TABLES, time.monotonic() + COMPACT_SECONDS)
        self._seq = 0
        self._committed: set[str] = set()

    @classmethod
    def open(cls, folder: Path | str, purpose: str = "search") -> Self:
        """The ledger of a run's folder, which is made if need be.

        `purpose` is noted: only time spent on "search" counts as such. Raises RunError when another process writes
        there, or when what is there cannot be read.
        """
        folder = Path(folder)
        for name in ("log", *(f"tables/{table}" for table in TABLES)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        ledger = cls(folder, _take_lock(folder))
        try:
            ledger._recover()
        except BaseException:
            ledger._lock.close()
            raise
        ledger.event(EventName.OPENED, detail={"purpose": purpose, "pid": os.getpid(), "host": socket.gethostname()})
        ledger.compact()
        return ledger

    def _recover(self) -> None:
        """Clear away unfinished files, find the last seq and the committed trials."""
        for unfinished in (self.folder / "log").glob("*.tmp"):
            unfinished.unlink()
        for table in TABLES:
            parts = journal.list_parts(self.folder, table)
            if not parts:  # so that a glob over the parts always finds a file
                journal.append_to_part(self.folder, table, 0, 0, TABLES[table].empty_table())
            else:
                with journal.open_part(parts[-1], table) as part:
                    self._seq = max(self._seq, journal.last_segment(part))
        self._seq = max([self._seq, *(segment.seq for segment in journal.list_segments(self.folder))])
        self._committed = set(journal.read_table(self.folder, "trials")["trial_id"].to_pylist())

    @property
    def committed(self) -> set[str]:
        """The ids of all committed trials (a copy)."""
        with self._mutex:
            return set(self._committed)

    def append(self, table: str, rows: Rows, durable: bool = False, fill: Mapping[str, object] | None = None) -> None:
        """Add rows; columns left out are taken from `fill`, or are null; `time` is now.

        `durable`: they are on disk on return; else soon after. Raises ValueError for an unknown table or column, a
        wrong type, or a null where the row needs a value.
        """
        if table == "trials":
            raise ValueError("rows of trials are written by commit")
        checked = _validated(table, rows, fill or {})
        with self._mutex:
            self._buffer(table, checked)
            old = time.monotonic() - self._since[table] > FLUSH_SECONDS
            if durable or old or sum(map(len, self._pending[table])) > FLUSH_ROWS:
                self.flush()

    def event(
        self,
        name: str,
        trial_id: str = "",
        attempt: int = 0,
        detail: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        """Add an event, of a trial or (without `trial_id`) of the run."""
        self.append("events", [_event(name, trial_id, attempt, detail)], durable=durable)

    def commit(self, trial: dict[str, Any], events: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> None:
        """Write a trial's one row, durably, after all rows that were appended before; then its events, name and detail.

        An event "committed" is written too. Raises ValueError for a row that is wrong, RunError if the trial has been
        committed before; then nothing is written.
        """
        row = _validated("trials", [trial], {})
        trial_id, state, score = trial["trial_id"], trial["state"], trial.get("score")
        if state not in ENDED_STATES:
            raise ValueError(f"state {state!r}{did_you_mean(str(state), map(str, ENDED_STATES))}")
        if (score is None and state == TrialState.COMPLETE) or (score is not None and not math.isfinite(score)):
            raise ValueError(f"trial {trial_id} ({state}): score must be a finite number, got {score!r}")
        attempt = max(0, (trial.get("attempts") or 1) - 1)
        with self._mutex:
            if trial_id in self._committed:
                raise RunError(f"trial {trial_id} has been committed before; a trial is committed once")
            self.flush()
            self._write("trials", row)
            self._committed.add(trial_id)
            after = [(EventName.COMMITTED, {"state": state, "score": score}), *events]
            self.append("events", [_event(name, trial_id, attempt, detail) for name, detail in after], durable=True)

    def flush(self) -> None:
        """Write what is buffered to the journal, durably, and compact the tables that are due."""
        with self._mutex:
            for table, pending in self._pending.items():
                if pending:
                    self._write(table, pa.concat_tables(pending))
                    pending.clear()
            for table in TABLES:
                if time.monotonic() >= self._next_compaction[table]:
                    self._compact(table, journal.list_segments(self.folder, table))

    def compact(self) -> None:
        """Write what is buffered, and move the whole journal into the Parquet parts."""
        with self._mutex:
            self.flush()
            for table in TABLES:
                self._compact(table, journal.list_segments(self.folder, table))

    def close(self) -> None:
        """Compact, and let another process write; closing again does nothing."""
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
            self._since[table] = time.monotonic()
        self._pending[table].append(rows)

    def _write(self, table: str, rows: pa.Table) -> None:
        if self._lock.closed:
            raise RunError(f"{self.folder}: the ledger is closed")
        journal.write_segment(self.folder, self._seq + 1, table, rows)
        self._seq += 1

    def _compact(self, table: str, found: list[journal.Segment]) -> None:
        """Take a table's segments into its newest part: first the part grows, then they are removed."""
        if not found:
            return
        began = time.monotonic()
        newest = journal.list_parts(self.folder, table)[-1]
        with journal.open_part(newest, table) as part:
            through, rows, groups = journal.last_segment(part), part.metadata.num_rows, part.metadata.num_row_groups
        fresh = [journal.read_segment(segment) for segment in found if segment.seq > through]
        if fresh:
            full = groups >= PART_GROUPS or rows >= PART_ROWS or newest.stat().st_size >= PART_BYTES
            number = int(newest.stem.removeprefix("part-")) + full
            journal.append_to_part(self.folder, table, number, found[-1].seq, pa.concat_tables(fresh))
        for segment in found:
            segment.path.unlink()
        now = time.monotonic()
        self._next_compaction[table] = now + max(COMPACT_SECONDS, (now - began) / COMPACT_SHARE)


def writer_pid(folder: Path | str) -> int | None:
    """The process that writes a run now, or None."""
    try:
        with (Path(folder) / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().split()[0])
    except FileNotFoundError:
        pass
    return None


def _take_lock(folder: Path) -> IO[str]:
    lock = (folder / "lock").open("a+")
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
            continue
        lock.truncate(0)
        lock.write(f"{os.getpid()} {socket.gethostname()}\n")
        lock.flush()
        return lock
    lock.seek(0)
    pid, host = [*lock.read().split(), "?", "?"][:2]
    lock.close()
    raise RunError(f"{folder}: process {pid} on {host} is writing this run; wait for it, or stop it")


def _event(name: str, trial_id: str, attempt: int, detail: Mapping[str, Any] | None) -> dict[str, Any]:
    known = json.dumps(detail or {}, sort_keys=True)
    return {"event": name, "trial_id": trial_id, "attempt": attempt, "detail": known}


def _validated(table: str, rows: Rows, fill: Mapping[str, object]) -> pa.Table:
    """The rows as a table of the declared schema."""
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}{did_you_mean(table, TABLES)}")
    schema = TABLES[table]
    if isinstance(rows, list):
        names = {name for row in rows for name in row}
        given = {name: [row.get(name) for row in rows] for name in names}
    else:
        names = set(rows.schema.names)
        given = {name: rows[name] for name in names}
    for name in sorted({*names, *fill}):
        if name not in schema.names:
            raise ValueError(f"{table}: unknown column {name!r}{did_you_mean(name, schema.names)}")
    columns = []
    for field in schema:
        values = given.get(field.name)
        if values is None:
            default = datetime.now(UTC) if field.name == "time" else None
            values = [fill.get(field.name, default)] * len(rows)
        columns.append(_column(table, field, values))
    return pa.Table.from_arrays(columns, schema=schema)


def _column(table: str, field: pa.Field, values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, list):
        for value in values:
            if value is not None and (isinstance(value, bool) or not isinstance(value, _python_type(field.type))):
                raise ValueError(f"{table}.{field.name} holds {field.type}, got {value!r}")
        try:
            values = pa.array(values, type=field.type)
        except (pa.ArrowInvalid, OverflowError) as error:
            raise ValueError(f"{table}.{field.name} holds {field.type}: {str(error).splitlines()[0]}") from error
    if values.type != field.type:
        raise ValueError(f"{table}.{field.name} holds {field.type}, got {values.type}")
    if values.null_count and field.name in ROW_KEYS[table]:
        raise ValueError(f"{table}.{field.name} must have a value in every row")
    return values


def _python_type(kind: pa.DataType) -> type:
    if pa.types.is_integer(kind):
        return numbers.Integral
    if pa.types.is_floating(kind):
        return numbers.Real
    return datetime if pa.types.is_timestamp(kind) else str
