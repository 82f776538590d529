"""The files behind a run's tables, and how they are read while a writer is at work.

    log/<seq>-<table>-<crc32>.arrow    journal: one Arrow IPC file a write, there whole or not at all
    tables/<table>/part-<n>.parquet    the same rows, compacted; metadata `through`: the last seq within

Each row lies in exactly one part, or in one segment with a seq above `through`. A segment at or below `through` is
already in a part: readers pass over it, the next compaction removes it. Only the newest part changes, by
growing at its end.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.errors import RunError
from raysearch.storage.schemas import TABLES, VERSION

_SEGMENT = re.compile(r"(\d{10})-([a-z]+)-([0-9a-f]{8})\.arrow")
_MAGIC, _FOOTER_END = b"PAR1", 8  # Parquet: a file opens with the first, and ends with a length and the magic
_TRIES = 50  # a reader begins again when a segment was compacted under its hands


@dataclass(frozen=True)
class Segment:
    """One file of the journal, by its name."""

    seq: int
    table: str
    crc32: int
    path: Path


def write_atomically(folder: Path, target: Path, *content: bytes | memoryview | pa.Buffer) -> None:
    """Put `content` at `target` durably: a reader, or a crash, meets the old file or the new one, nothing between."""
    unfinished = folder / "log" / f"{target.name}.tmp"
    with unfinished.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(target)
    entries = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def write_segment(folder: Path, seq: int, table: str, rows: pa.Table) -> None:
    """Add rows to the journal, durably."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLES[table]) as writer:
        writer.write_table(rows)
    content = memoryview(sink.getvalue())
    write_atomically(folder, folder / "log" / f"{seq:010d}-{table}-{zlib.crc32(content):08x}.arrow", content)


def list_segments(folder: Path, table: str = "") -> list[Segment]:
    """The journal's segments, of one table or of all, in the order of writing; unfinished files are left out."""
    found = []
    for path in (folder / "log").iterdir():
        if path.name.startswith(".") or path.suffix == ".tmp":
            continue
        match = _SEGMENT.fullmatch(path.name)
        if match is None or match[2] not in TABLES:
            raise RunError(f"{path}: not a segment of a raysearch journal; move it elsewhere")
        if table in ("", match[2]):
            found.append(Segment(int(match[1]), match[2], int(match[3], 16), path))
    return sorted(found, key=lambda segment: segment.seq)


def read_segment(segment: Segment) -> pa.Table:
    """The rows of one segment; FileNotFoundError if it has been compacted away, RunError if it is damaged."""
    content = segment.path.read_bytes()
    if zlib.crc32(content) != segment.crc32:
        raise RunError(f"{segment.path}: damaged (its checksum is wrong); delete the file to go on without its rows")
    rows = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    _check_schema(rows.schema, segment.table, segment.path)
    return rows


def list_parts(folder: Path, table: str) -> list[Path]:
    """The Parquet files of a table, oldest first."""
    return sorted((folder / "tables" / table).glob("part-*.parquet"))


def part_path(folder: Path, table: str, number: int) -> Path:
    """Where the part of that number lies."""
    return folder / "tables" / table / f"part-{number:05d}.parquet"


def append_to_part(folder: Path, table: str, number: int, through: int, rows: pa.Table) -> None:
    """Add `rows`, a row group that ends with segment `through`, to a part, which is begun if need be.

    The bytes of the part so far, its footer among them, stay where they are: a reader that has seen its old length or
    its old footer (Polars looks at a file several times, by name) reads on in the new file as if in the old.
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
    """The bytes before and those of one row group (no footer), and metadata of that group alone."""
    sink = pa.BufferOutputStream()
    indexed = [f.name for f in schema if f.name == "trial_id" or not pa.types.is_string(f.type)]  # no JSON in footers
    options = {"compression": "zstd", "write_page_checksum": True, "write_statistics": indexed}
    with pq.ParquetWriter(sink, schema, **options) as writer:
        sink.write(before[len(_MAGIC) :])  # the writer has written the magic, and goes on from where it finds itself
        if rows:
            writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=len(rows))
    content = sink.getvalue()
    metadata = pq.read_metadata(pa.BufferReader(content))
    return content[: -(metadata.serialized_size + _FOOTER_END)], metadata


@contextmanager
def open_part(path: Path, table: str) -> Iterator[pq.ParquetFile]:
    """A part, opened and checked; RunError if it is damaged or of another version."""
    try:
        with path.open("rb") as file:
            part = pq.ParquetFile(file, page_checksum_verification=True)
            _check_schema(part.schema_arrow, table, path)
            yield part
    except (pa.ArrowInvalid, OSError) as error:  # what Parquet says of damage
        raise RunError(f"{path}: damaged ({str(error).splitlines()[0]}); its rows cannot be read") from error


def last_segment(part: pq.ParquetFile) -> int:
    """The last segment that a part holds."""
    return int(part.metadata.metadata[b"through"])


def read_table(folder: Path, table: str) -> pa.Table:
    """Every row of a table, parts and journal, in the order of writing, as they stood at one moment of this call."""
    if not (folder / "tables" / table).is_dir():
        raise RunError(f"{folder}: not the folder of a run (it has no tables/{table})")
    for _ in range(_TRIES):
        waiting = list_segments(folder, table)  # before the parts: what leaves this list meanwhile is in them
        try:
            return pa.concat_tables([pa.Table.from_batches([], TABLES[table]), *_rows(folder, table, waiting)])
        except FileNotFoundError:
            continue
    raise RunError(f"{folder}: {table} is compacted faster than it can be read; try again")


def _rows(folder: Path, table: str, waiting: list[Segment]) -> Iterator[pa.Table]:
    last = 0
    for path in list_parts(folder, table):
        with open_part(path, table) as part:
            yield part.read().cast(TABLES[table])
            last = last_segment(part)
    for segment in waiting:
        if segment.seq > last:
            yield read_segment(segment)


def _check_schema(found: pa.Schema, table: str, path: Path) -> None:
    version = (found.metadata or {}).get(b"version", b"none").decode()
    if version != VERSION:
        remedy = "read it with the raysearch that wrote it"
        raise RunError(f"{path}: tables of version {version}; this raysearch reads version {VERSION}; {remedy}")
    if not found.equals(TABLES[table], check_metadata=False):
        raise RunError(f"{path}: its columns are not those of {table!r}, version {VERSION}")
