"""The files behind a run's tables, and how they are read while a process writes them.

    log/<seq>-<table>-<crc32>.arrow    the journal: one Arrow IPC file (a segment) per write, complete or absent
    tables/<table>/part-<n>.parquet    the same rows, compacted; its metadata `through` is the last seq that it holds

Every row is in exactly one part, or in one segment with a seq above `through`. A segment up to `through` is in a part
already: readers skip it, and the next compaction removes it. Only the newest part changes: it grows at its end.

The parts are plain Parquet and complete at every moment, so that any program can read `*.parquet` without an extension.
That is why they are grown in place by splicing row groups: a table format (Delta Lake, Iceberg) would need its reader,
and a file for each compaction would leave thousands of small files.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysearch.errors import RunError, shorten
from raysearch.storage.durable import write_durably
from raysearch.storage.names import PLAIN_PATTERN
from raysearch.storage.schemas import ADDED_LATER, TABLES, VERSION

PART_ROWS, PART_BYTES, PART_GROUPS = 1 << 20, 64 << 20, 32  # a part with so much is full
_SEGMENT = re.compile(r"(\d{10})-([a-z]+)-([0-9a-f]{8})\.arrow")
_MAGIC, _FOOTER_END = b"PAR1", 8  # a Parquet file begins with the magic and ends with a length and the magic
BATCH_ROWS = 1 << 16  # that are in memory at a time where only some are kept
_TRIES = 50  # a reader starts again when a segment is compacted while it reads


@dataclass(frozen=True)
class Segment:
    """One file of the journal, as its name describes it."""

    seq: int
    table: str
    crc32: int
    path: Path


def write_atomically(folder: Path, target: Path, *content: bytes | memoryview | pa.Buffer) -> None:
    """Writes `content` to `target` durably; readers and crashes find either the old file or the new one."""
    write_durably(target, folder / "log" / f"{target.name}.tmp", *content)


def write_segment(folder: Path, seq: int, table: str, rows: pa.Table) -> None:
    """Adds rows to the journal, durably."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLES[table]) as writer:
        writer.write_table(rows)
    content = memoryview(sink.getvalue())
    write_atomically(folder, folder / "log" / f"{seq:010d}-{table}-{zlib.crc32(content):08x}.arrow", content)


def list_segments(folder: Path, table: str = "") -> list[Segment]:
    """Returns the journal's segments, of one table or of all, in the order of writing, without unfinished files."""
    segments = []
    log = folder / "log"
    for path in log.iterdir() if log.is_dir() else ():  # a copy made with git lacks an empty folder
        if path.name.startswith(".") or path.suffix == ".tmp":
            continue
        match = _SEGMENT.fullmatch(path.name)
        if match is None or match[2] not in TABLES:
            raise RunError(f"{path}: not a segment of a raysearch journal; move it elsewhere")
        if table in ("", match[2]):
            segments.append(Segment(int(match[1]), match[2], int(match[3], 16), path))
    return sorted(segments, key=lambda segment: segment.seq)


def read_segment(segment: Segment) -> pa.Table:
    """Returns the rows of one segment.

    Raises FileNotFoundError if it has been compacted meanwhile, and RunError if it is damaged.
    """
    content = segment.path.read_bytes()
    if zlib.crc32(content) != segment.crc32:
        raise RunError(f"{segment.path}: damaged (its checksum is wrong); delete the file to continue without its rows")
    rows = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    _check_schema(rows.schema, segment.table, segment.path)
    return rows


def list_parts(folder: Path, table: str) -> list[Path]:
    """Returns the Parquet files of a table, oldest first."""
    return sorted((folder / "tables" / table).glob("part-*.parquet"))


def missing_parts(folder: Path, table: str) -> list[Path]:
    """Returns the parts of a table that the run has had and that are not there: those before another, or all.

    A run that has begun has at least one part of each table.
    """
    numbers = [int(part.stem.removeprefix("part-")) for part in list_parts(folder, table)]
    if not numbers and (table in ADDED_LATER or not (folder / "search.json").exists()):
        return []
    return [part_path(folder, table, number) for number in range(max(numbers, default=0) + 1) if number not in numbers]


def replace_missing_parts(folder: Path, table: str) -> list[str]:
    """Writes an empty part in the place of each that is missing; returns their paths in the run's folder."""
    missing = missing_parts(folder, table)
    for lost in missing:
        append_to_part(folder, table, int(lost.stem.removeprefix("part-")), 0, TABLES[table].empty_table())
    return [str(lost.relative_to(folder)) for lost in missing]


def part_path(folder: Path, table: str, number: int) -> Path:
    """Returns the path of the part of that number."""
    return folder / "tables" / table / f"part-{number:05d}.parquet"


def compact(folder: Path, table: str) -> bool:
    """Moves a table's segments into its newest part: first the part grows, then they are removed.

    Returns False when there are no segments. A part that has become large is left, and a new one begins.
    """
    segments = list_segments(folder, table)
    if not segments:
        return False
    newest = list_parts(folder, table)[-1]
    with open_part(newest, table) as part:
        last, rows, groups = last_segment(part), part.metadata.num_rows, part.metadata.num_row_groups
    new_rows = [read_segment(segment) for segment in segments if segment.seq > last]
    if new_rows:
        is_full = groups >= PART_GROUPS or rows >= PART_ROWS or newest.stat().st_size >= PART_BYTES
        number = int(newest.stem.removeprefix("part-")) + is_full
        append_to_part(folder, table, number, segments[-1].seq, pa.concat_tables(new_rows))
    for segment in segments:
        segment.path.unlink()
    return True


def append_to_part(folder: Path, table: str, number: int, through: int, rows: pa.Table) -> None:
    """Adds `rows`, a row group that ends with segment `through`, to a part, which is created if it does not exist.

    The bytes of the part so far, with its footer, stay where they are. A reader that has seen the old length or the old
    footer (Polars opens a file several times, by name) therefore reads the new file as if it were the old one.
    """
    schema = TABLES[table].with_metadata({**TABLES[table].metadata, "through": str(through)})
    path = part_path(folder, table, number)
    before = pa.py_buffer(path.read_bytes() if path.exists() else b"")
    grown, groups = _write_group(schema, rows, before)
    if before:
        _, whole = _write_group(schema, None)
        whole.append_row_groups(pq.read_metadata(before))
        whole.append_row_groups(groups)
        groups = whole
    footer = io.BytesIO()
    groups.write_metadata_file(footer)
    write_atomically(folder, path, grown, footer.getbuffer()[len(_MAGIC) :])


def _write_group(schema: pa.Schema, rows: pa.Table | None, before: bytes = b"") -> tuple[pa.Buffer, pq.FileMetaData]:
    """Returns `before` and the bytes of one row group, without a footer, and the metadata of that group alone."""
    sink = pa.BufferOutputStream()
    # Statistics of JSON columns would bloat the footer.
    indexed = [f.name for f in schema if f.name == "trial_id" or not pa.types.is_string(f.type)]
    options = {"compression": "zstd", "write_page_checksum": True, "write_statistics": indexed}
    with pq.ParquetWriter(sink, schema, **options) as writer:
        sink.write(before[len(_MAGIC) :])  # the writer has written the magic and continues at its position
        if rows:
            writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=len(rows))
    content = sink.getvalue()
    metadata = pq.read_metadata(pa.BufferReader(content))
    return content[: -(metadata.serialized_size + _FOOTER_END)], metadata


@contextmanager
def open_part(path: Path, table: str) -> Iterator[pq.ParquetFile]:
    """Opens and checks a part. Raises RunError if it is damaged, also while it is read, or of another version."""
    try:
        with path.open("rb") as file:
            part = pq.ParquetFile(file, page_checksum_verification=True)
            _check_schema(part.schema_arrow, table, path)
            yield part
    except RunError:
        raise
    except Exception as error:  # what Parquet raises for a damaged file depends on where it is damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "put it back from a copy, or move it away and `raysearch resume` the run without them"
        raise RunError(f"{path}: damaged ({reason}); its rows of {table} cannot be read: {remedy}") from error


def last_segment(part: pq.ParquetFile) -> int:
    """Returns the seq of the last segment that a part holds."""
    return int(part.metadata.metadata[b"through"])


Keep = Callable[[pa.RecordBatch], pa.RecordBatch]  # returns what is wanted of some rows


def read_table(folder: Path, table: str, columns: Sequence[str] | None = None, keep: Keep | None = None) -> pa.Table:
    """Returns every row of a table, parts and journal, in the order of writing, as of one moment during this call.

    With `columns` it has these alone, and the others are not read. With `keep` it has what that returns of the rows,
    which are then never all in memory. Raises RunError for a file that is damaged or of another version, and for an id
    that can be no name of a folder.
    """
    if table in ADDED_LATER and (folder / "tables").is_dir() and not (folder / "tables" / table).exists():
        return TABLES[table].empty_table().select(list(columns or TABLES[table].names))
    if not (folder / "tables" / table).is_dir():
        raise RunError(f"{folder}: not the folder of a run (it has no tables/{table})")
    if missing := missing_parts(folder, table):
        remedy = "put it back from a copy, or `raysearch resume` the run, which makes again what can be made again"
        raise RunError(f"{missing[0]}: is missing, and with it rows of {table}: {remedy}")
    for _ in range(_TRIES):
        segments = list_segments(folder, table)  # before the parts: what is compacted meanwhile is in a part
        try:
            names = list(columns or TABLES[table].names)
            if keep is None:
                rows = pa.concat_tables(_rows(folder, table, segments, names))
            else:
                first = keep(pa.RecordBatch.from_pylist([], TABLES[table]).select(names))
                rows = pa.Table.from_batches(_kept_batches(folder, table, segments, keep, names), first.schema)
            _check_trial_ids(folder, table, rows)
            return rows
        except FileNotFoundError:
            continue
    raise RunError(f"{folder}: {table} is compacted faster than it can be read; try again")


def _rows(folder: Path, table: str, segments: list[Segment], columns: list[str]) -> Iterator[pa.Table]:
    schema, last = pa.schema([TABLES[table].field(name) for name in columns], TABLES[table].metadata), 0
    yield pa.Table.from_batches([], schema)  # `empty_table` would import pandas
    for path in list_parts(folder, table):
        with open_part(path, table) as part:
            yield part.read(columns).select(columns).cast(schema)
            last = last_segment(part)
    for segment in segments:
        if segment.seq > last:
            yield read_segment(segment).select(columns)


def _kept_batches(
    folder: Path, table: str, segments: list[Segment], keep: Keep, names: list[str]
) -> Iterator[pa.RecordBatch]:
    last, schema = 0, pa.schema([TABLES[table].field(name) for name in names])
    for path in list_parts(folder, table):
        with open_part(path, table) as part:
            for batch in part.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                yield keep(batch.select(names).cast(schema))
            last = last_segment(part)
    for segment in segments:
        if segment.seq > last:
            yield from map(keep, read_segment(segment).select(names).to_batches())


def _check_trial_ids(folder: Path, table: str, rows: pa.Table) -> None:
    """Raises RunError for the id of a trial that is no plain word: it becomes the name of a folder."""
    if "trial_id" not in rows.column_names:
        return
    names = pc.unique(rows["trial_id"].cast(pa.string())).drop_null()
    is_bad = pc.invert(pc.match_substring_regex(names, f"{PLAIN_PATTERN}|^$"))  # empty: an event of the run
    if pc.any(is_bad).as_py():
        first = shorten(names.filter(is_bad)[0].as_py())
        raise RunError(
            f"{folder}/tables/{table}: {first!r} cannot be the id of a trial; these tables are not to be used"
        )


def _check_schema(schema: pa.Schema, table: str, path: Path) -> None:
    version = (schema.metadata or {}).get(b"version", b"none").decode()
    if version != VERSION:
        remedy = "read it with the raysearch that wrote it"
        raise RunError(f"{path}: tables of version {version}; this raysearch reads version {VERSION}; {remedy}")
    if not schema.equals(TABLES[table], check_metadata=False):
        raise RunError(f"{path}: its columns are not those of {table!r}, version {VERSION}")
