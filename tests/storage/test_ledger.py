"""What is committed to a ledger is never lost, and readers never fail."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch.errors import RunError
from raysearch.storage import journal
from raysearch.storage import ledger as ledger_module
from raysearch.storage.journal import list_parts, list_segments, read_table
from raysearch.storage.ledger import Ledger
from raysearch.storage.lock import writer_pid
from raysearch.storage.schemas import EVALUATIONS, ROW_KEYS, TABLES, WEIGHTS


def trial(number: int, **changed: object) -> dict[str, object]:
    row = {"trial_id": f"search-{number:04d}", "arm": "search", "role": "search", "number": number, "seed": 0}
    return {**row, "state": "complete", "score": 0.5, "attempts": 1, **changed}


def evaluations(count: int) -> list[dict[str, object]]:
    return [{"step": step, "split": "select_dev", "score": step / 100} for step in range(count)]


def of(number: int) -> dict[str, object]:
    return {"trial_id": f"search-{number:04d}", "attempt": 0}


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "COMPACT_SECONDS", 1e9)  # tests compact when they need to
    with Ledger.open(tmp_path / "run") as opened:
        yield opened


@pytest.mark.parametrize("table", TABLES)
def test_new_run_has_every_table_with_declared_columns(ledger, table):
    assert read_table(ledger.folder, table).schema.equals(TABLES[table], check_metadata=True)
    pattern = str(ledger.folder / "tables" / table / "*.parquet")
    assert duckdb.sql(f"SELECT * FROM '{pattern}'").columns == TABLES[table].names
    assert pl.read_parquet(pattern).columns == TABLES[table].names
    assert list(pd.read_parquet(Path(pattern).parent).columns) == TABLES[table].names
    assert set(ROW_KEYS[table]) <= set(TABLES[table].names)


def test_rows_are_read_in_write_order_across_compaction(ledger):
    for step in range(12):
        ledger.append("evaluations", [{"step": step, "split": "select_dev"}], fill=of(0), durable=True)
        if step % 4 == 3:
            ledger.compact()
    assert read_table(ledger.folder, "evaluations")["step"].to_pylist() == list(range(12))


def test_missing_columns_are_filled_or_null(ledger):
    before = datetime.now(UTC)
    ledger.append("evaluations", [{"step": 1, "split": "select_dev", "attempt": 3}], fill=of(7), durable=True)
    (row,) = read_table(ledger.folder, "evaluations").to_pylist()
    assert (row["trial_id"], row["attempt"], row["score"]) == ("search-0007", 3, None)
    assert before <= row["time"] <= datetime.now(UTC)


def test_append_accepts_arrow_batches(ledger):
    batch = pa.RecordBatch.from_pylist(
        [{"step": 5, "kind": "objective", "stage": "", "name": "a", "weight": 1.0}],
        schema=pa.schema([WEIGHTS.field(name) for name in ("step", "kind", "stage", "name", "weight")]),
    )
    ledger.append("weights", batch, fill=of(0), durable=True)
    assert read_table(ledger.folder, "weights").select(batch.schema.names).to_pylist() == batch.to_pylist()


def test_buffered_rows_are_on_disk_after_flush(ledger):
    ledger.append("evaluations", evaluations(3), fill=of(0))
    assert len(read_table(ledger.folder, "evaluations")) == 0
    ledger.flush()
    assert len(read_table(ledger.folder, "evaluations")) == 3


def test_rows_are_flushed_automatically_by_count_or_age(ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "FLUSH_ROWS", 10)
    ledger.append("evaluations", evaluations(11), fill=of(0))
    assert len(read_table(ledger.folder, "evaluations")) == 11
    monkeypatch.setattr(ledger_module, "FLUSH_SECONDS", 0.0)
    ledger.append("evaluations", evaluations(1), fill=of(1))
    assert len(read_table(ledger.folder, "evaluations")) == 12


@pytest.mark.parametrize(
    ("table", "row", "problem"),
    [
        ("evaluation", {}, "unknown table 'evaluation'; did you mean 'evaluations'"),
        ("evaluations", {"scor": 1.0}, "evaluations: unknown column 'scor'; did you mean 'score'"),
        ("evaluations", {"score": "0.5"}, "evaluations.score holds double"),
        ("evaluations", {"step": 1.5}, "evaluations.step holds int64"),
        ("evaluations", {"step": True}, "evaluations.step holds int64"),
        ("evaluations", {"attempt": 1 << 40}, "evaluations.attempt holds int32"),
        ("evaluations", {"split": None}, "evaluations.split must have a value in every row"),
        ("events", {"event": None}, "events.event must have a value in every row"),
        ("trials", {}, "a row of the table of trials is written by commit"),
    ],
)
def test_row_outside_the_schema_is_rejected(ledger, table, row, problem):
    good = evaluations(1)[0] if table == "evaluations" else {}
    with pytest.raises(ValueError, match=problem):
        ledger.append(table, [{**good, **row}], fill=of(0))
    batch = pa.RecordBatch.from_pylist([{"step": 1, "split": "select_dev", "score": 1}])
    with pytest.raises(ValueError, match=r"evaluations\.score holds double, got int64"):
        ledger.append("evaluations", batch, fill=of(0))
    ledger.flush()
    assert len(read_table(ledger.folder, "evaluations")) == 0


def test_commit_writes_buffered_rows_and_events(ledger):
    ledger.append("evaluations", evaluations(4), fill=of(0))
    ledger.commit(trial(0, attempts=2), [("told", {"score": 0.5})])
    assert len(read_table(ledger.folder, "evaluations")) == 4
    assert read_table(ledger.folder, "trials")["trial_id"].to_pylist() == ["search-0000"]
    last = read_table(ledger.folder, "events").select(["event", "trial_id", "attempt", "detail"]).to_pylist()[-2:]
    committed = {"event": "committed", "detail": '{"score": 0.5, "state": "complete"}'}
    assert last[0] == {**committed, "trial_id": "search-0000", "attempt": 1}
    assert (last[1]["event"], last[1]["detail"]) == ("told", '{"score": 0.5}')


def test_rows_of_a_trial_are_written_before_its_commit(ledger, monkeypatch):
    order = []
    write = journal.write_segment
    monkeypatch.setattr(
        journal,
        "write_segment",
        lambda folder, seq, table, rows: (order.append(table), write(folder, seq, table, rows)),
    )
    ledger.append("evaluations", evaluations(1), fill=of(0))
    ledger.commit(trial(0))
    assert order == ["evaluations", "trials", "events"]


def test_trial_is_committed_only_once(ledger):
    ledger.commit(trial(0))
    with pytest.raises(RunError, match="search-0000 has been committed before"):
        ledger.commit(trial(0, score=0.9))
    ledger.close()
    with Ledger.open(ledger.folder) as again, pytest.raises(RunError, match="search-0000 has been committed before"):
        again.commit(trial(0, state="failed", score=None))
    assert read_table(ledger.folder, "trials")["score"].to_pylist() == [0.5]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"state": "completed"}, "state 'completed'; did you mean 'complete'"),
        ({"score": float("nan")}, "score must be a finite number, got nan"),
        ({"score": None}, "score must be a finite number, got None"),
        ({"trial_id": None}, "trials.trial_id must have a value"),
        ({"epochs": 3}, "trials: unknown column 'epochs'"),
    ],
)
def test_invalid_trial_is_rejected_and_can_be_committed_later(ledger, changed, problem):
    with pytest.raises(ValueError, match=problem):
        ledger.commit(trial(0, **changed))
    assert ledger.committed == set()
    ledger.commit(trial(0, state="failed", score=None))
    assert ledger.committed == {"search-0000"}


def test_second_writer_error_names_the_first(ledger):
    code = f"from raysearch.storage.ledger import Ledger; Ledger.open({str(ledger.folder)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    pid = writer_pid(ledger.folder)
    assert f"process {pid} on " in other.stderr.splitlines()[-1]
    assert "is writing this run" in other.stderr.splitlines()[-1]


def test_writer_pid_is_this_process_only_while_ledger_is_open(ledger):
    assert isinstance(writer_pid(ledger.folder), int)
    ledger.close()
    assert writer_pid(ledger.folder) is None
    assert writer_pid(ledger.folder / "nothing") is None


def test_closed_ledger_rejects_writes(ledger):
    ledger.close()
    ledger.close()
    with pytest.raises(RunError, match="the ledger is closed"):
        ledger.event("asked")
    with pytest.raises(RunError, match="the ledger is closed"):
        ledger.commit(trial(0))


def test_compaction_empties_journal_and_keeps_each_row_once(ledger):
    for number in range(5):
        ledger.append("evaluations", evaluations(10), fill=of(number))
        ledger.commit(trial(number))
    before = {table: read_table(ledger.folder, table) for table in TABLES}
    ledger.compact()
    assert list_segments(ledger.folder) == []
    for table in TABLES:
        assert read_table(ledger.folder, table).equals(before[table])
        assert len(pl.read_parquet(ledger.folder / "tables" / table / "*.parquet")) == len(before[table])


def test_part_only_grows_and_old_footer_stays_valid(ledger):
    """Polars opens a file several times by name, and what it has read of it must stay valid."""
    rng = random.Random(0)
    path = journal.part_path(ledger.folder, "evaluations", 0)
    old, count = path.read_bytes(), 0
    for number in range(6):
        rows = [{"step": step, "split": "select_dev", "score": rng.random()} for step in range(rng.randrange(1, 300))]
        ledger.append("evaluations", rows, fill=of(number))
        ledger.compact()
        count += len(rows)
        assert path.read_bytes().startswith(old)
        old = path.read_bytes()
        assert pq.read_metadata(path).num_rows == count


def test_full_part_is_unchanged_and_a_new_part_starts(ledger, monkeypatch):
    monkeypatch.setattr(journal, "PART_ROWS", 10)
    contents = []
    for number in range(4):
        ledger.append("evaluations", evaluations(6), fill=of(number))
        ledger.compact()
        contents.append([path.read_bytes() for path in list_parts(ledger.folder, "evaluations")])
    assert [len(parts) for parts in contents] == [1, 1, 2, 2]
    assert contents[3][0] == contents[1][0]
    assert len(read_table(ledger.folder, "evaluations")) == 24
    ledger.close()
    with Ledger.open(ledger.folder) as again:
        again.append("evaluations", evaluations(1), fill=of(9), durable=True)
        assert len(read_table(ledger.folder, "evaluations")) == 25


def test_crash_during_compaction_duplicates_no_rows(ledger):
    ledger.append("evaluations", evaluations(5), fill=of(0))
    ledger.commit(trial(0))
    shutil.copytree(ledger.folder / "log", ledger.folder / "saved")
    ledger.close()
    shutil.copytree(ledger.folder / "saved", ledger.folder / "log", dirs_exist_ok=True)
    assert len(list_segments(ledger.folder)) >= 3
    assert len(read_table(ledger.folder, "evaluations")) == 5
    with Ledger.open(ledger.folder) as again:
        assert again.committed == {"search-0000"}
        assert len(read_table(ledger.folder, "evaluations")) == 5
        again.append("evaluations", evaluations(2), fill=of(1), durable=True)
        again.compact()
    assert len(read_table(ledger.folder, "evaluations")) == 7
    assert len(read_table(ledger.folder, "trials")) == 1
    assert list_segments(ledger.folder) == []


def test_compaction_is_deferred_until_due(ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "COMPACT_SECONDS", 0.5)
    monkeypatch.setattr(ledger_module, "COMPACT_SHARE", 1e9)  # however long a compaction takes on a busy machine
    ledger.append("evaluations", evaluations(1), fill=of(0))
    ledger.compact()
    ledger.append("evaluations", evaluations(1), fill=of(1), durable=True)
    assert len(list_segments(ledger.folder, "evaluations")) == 1
    time.sleep(0.6)
    ledger.flush()
    assert list_segments(ledger.folder, "evaluations") == []


def test_reader_retries_when_a_segment_is_compacted(ledger, monkeypatch):
    ledger.append("evaluations", evaluations(3), fill=of(0), durable=True)
    read = journal.read_segment
    calls = []

    def vanishing(segment):
        calls.append(segment)
        monkeypatch.setattr(journal, "read_segment", read)
        if len(calls) == 1:
            ledger.compact()
            raise FileNotFoundError(segment.path)
        return read(segment)

    monkeypatch.setattr(journal, "read_segment", vanishing)
    assert len(read_table(ledger.folder, "evaluations")) == 3


def test_damaged_segment_raises_one_line_naming_the_file(ledger):
    ledger.append("evaluations", evaluations(3), fill=of(0), durable=True)
    (segment,) = list_segments(ledger.folder, "evaluations")
    whole = segment.path.read_bytes()
    for damaged in (whole[:-7], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
        segment.path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"-evaluations-.*\.arrow: damaged") as error:
            read_table(ledger.folder, "evaluations")
        assert "\n" not in str(error.value)
    segment.path.write_bytes(whole)


def test_damaged_part_raises_one_line_naming_the_file(ledger):
    ledger.append("evaluations", evaluations(300), fill=of(0))
    ledger.compact()
    path = journal.part_path(ledger.folder, "evaluations", 0)
    whole = path.read_bytes()
    middle = pq.read_metadata(path).row_group(0).column(3).data_page_offset + 30
    for damaged in (whole[:-7], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"part-00000\.parquet: damaged") as error:
            read_table(ledger.folder, "evaluations")
        assert "\n" not in str(error.value)
    path.write_bytes(whole)


def test_unfinished_file_is_ignored_and_removed_by_next_writer(ledger):
    ledger.append("evaluations", evaluations(3), fill=of(0), durable=True)
    unfinished = ledger.folder / "log" / "0000000099-evaluations-00000000.arrow.tmp"
    unfinished.write_bytes(b"half a seg")
    assert len(read_table(ledger.folder, "evaluations")) == 3
    ledger.close()
    with Ledger.open(ledger.folder):
        assert not unfinished.exists()


def test_foreign_file_in_the_journal_is_named(ledger):
    stranger = ledger.folder / "log" / "notes.txt"
    stranger.write_text("a note")
    with pytest.raises(RunError, match=r"notes\.txt: not a segment of a raysearch journal"):
        read_table(ledger.folder, "trials")
    stranger.unlink()


def test_tables_of_other_version_are_rejected_by_name(ledger, monkeypatch):
    ledger.append("evaluations", evaluations(1), fill=of(0), durable=True)
    old = EVALUATIONS.with_metadata({"table": "evaluations", "version": "0"})
    with monkeypatch.context() as patch:
        patch.setitem(journal.TABLES, "evaluations", old)
        journal.write_segment(ledger.folder, 50, "evaluations", old.empty_table())
    with pytest.raises(RunError, match=r"arrow: tables of version 0; this raysearch reads version 1; read it with"):
        read_table(ledger.folder, "evaluations")
    list_segments(ledger.folder, "evaluations")[-1].path.unlink()
    with monkeypatch.context() as patch:
        patch.setitem(journal.TABLES, "events", TABLES["events"].with_metadata({"version": "0"}))
        journal.append_to_part(ledger.folder, "events", 1, 60, TABLES["events"].empty_table())
    with pytest.raises(RunError, match=r"part-00001\.parquet: tables of version 0"):
        read_table(ledger.folder, "events")
    journal.part_path(ledger.folder, "events", 1).unlink()


def test_reading_a_folder_without_a_run_raises(tmp_path):
    with pytest.raises(RunError, match="not the folder of a run"):
        read_table(tmp_path, "trials")


def test_concurrent_threads_lose_no_rows(ledger):
    def write_trial(number: int) -> None:
        for step in range(20):
            ledger.append(
                "evaluations", [{"step": step, "split": "select_dev"}], fill=of(number), durable=step % 7 == 0
            )
        ledger.commit(trial(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_trial, range(16)))
    rows = read_table(ledger.folder, "evaluations").to_pandas()
    assert (rows.groupby("trial_id")["step"].apply(list).map(sorted) == pd.Series([list(range(20))] * 16).values).all()
    assert len(set(read_table(ledger.folder, "trials")["trial_id"].to_pylist())) == 16


WRITER = """
import sys
from raysearch.storage import journal, ledger as module
module.COMPACT_SECONDS, module.COMPACT_SHARE, journal.PART_GROUPS = 0.02, 1.0, 8
with module.Ledger.open(sys.argv[1]) as ledger:
    number = len(ledger.committed)
    while True:
        this = f"search-{number:04d}"
        ledger.event("asked", this, durable=True)
        for step in range(7):
            ledger.append("evaluations", [{"trial_id": this, "attempt": 0, "step": step, "split": "select_dev"}])
        ledger.commit({"trial_id": this, "arm": "search", "role": "search", "number": number, "seed": 0,
                       "state": "complete", "score": 0.5, "attempts": 1})
        print(this, flush=True)
        number += 1
"""


class Readers(threading.Thread):
    """Reads the parts with DuckDB, pandas and Polars, again and again, and keeps every problem."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.table, self.stop, self.rounds, self.problems = folder / "tables" / "evaluations", False, 0, []

    def run(self) -> None:
        most = 0
        while not self.stop:
            if not (self.table / "part-00000.parquet").exists():
                continue
            pattern = str(self.table / "*.parquet")
            try:
                with duckdb.connect() as connection:
                    counts = connection.sql(f"SELECT count(*), count(step) FROM '{pattern}'").fetchall()[0]
                counts = [*counts, len(pd.read_parquet(self.table)), len(pl.read_parquet(pattern))]
                counts.append(pl.scan_parquet(pattern).select(pl.len()).collect().item())
            except Exception as problem:  # the test is about any failure of any reader
                self.problems.append(repr(problem))
                continue
            if counts[0] < most or counts != sorted(counts):
                self.problems.append(f"rows were lost: {most}, {counts}")
            most, self.rounds = counts[-1], self.rounds + 1


@pytest.mark.slow
def test_killed_writer_loses_no_commit_and_readers_never_fail(tmp_path):
    rng, folder, acknowledged = random.Random(1), tmp_path / "run", []
    readers = Readers(folder)
    readers.start()
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        acknowledged += [writer.stdout.readline().strip() for _ in range(rng.randrange(1, 9))]
        time.sleep(rng.uniform(0.0, 0.05))
        writer.kill()
        acknowledged += writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        trials = read_table(folder, "trials")["trial_id"].to_pylist()
        assert len(trials) == len(set(trials))
        assert set(acknowledged) <= set(trials)
    while not readers.rounds and not readers.problems:
        time.sleep(0.05)
    readers.stop = True
    readers.join()
    assert readers.problems == []
    rows = read_table(folder, "evaluations").to_pandas()
    complete = rows[rows["trial_id"].isin(trials)].drop_duplicates(["trial_id", "step"])
    assert (complete.groupby("trial_id").size() == 7).all()
    assert complete["trial_id"].nunique() == len(trials)
