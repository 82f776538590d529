"""Generated files of every format, whole and damaged: each is read, or refused in one line with its file.

RAYSEARCH_FUZZ_EXAMPLES is the number of examples of each test, for a longer run than that of the suite.
"""

from __future__ import annotations

import csv
import io
import json
import os
import string
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from raysearch.errors import SpecError
from raysearch.modalities.image.config import Source
from raysearch.modalities.image.pictures import PictureFacts, decode_picture
from raysearch.modalities.image.readers import read_images
from raysearch.modalities.table.readers import read_table
from raysearch.modalities.text.readers import read_text_rows
from raysearch.modalities.text.token_labels import read_tagged_rows

EXAMPLES = int(os.environ.get("RAYSEARCH_FUZZ_EXAMPLES", "60"))
SECONDS = 20.0  # of processor time that one file may take
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

# Characters that mean something to some reader, and others.
CHARACTERS = st.sampled_from('",;|\t\r\n \'\\{}[]:0aé"\u2028\u0085\u200b\ufeff\x00\x1a') | st.characters(codec="utf-8")
WORDS = st.text(CHARACTERS, max_size=12) | st.sampled_from(
    ["", " ", "nan", "-1", "0", "1.0", "text", "label", "\ufeff"]
)
NUMBERS = st.sampled_from(
    ["0", "-1", "1e39", "1e-300", "nan", "1_0", "0x1", "", " 7 ", "9" * 400, "\u0661", "1,5", "True"]
)
NUMBERS |= st.integers(-(10**20), 10**20).map(str) | st.floats(allow_nan=True).map(repr)
ROWS = st.lists(st.tuples(WORDS, st.sampled_from(["a", "b", "A", "-1", "", "7", "nan"]) | WORDS), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.just("\ud800"),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(WORDS, child, max_size=3),
    max_leaves=6,
)


def damage(data: st.DataObject, content: bytes) -> bytes:
    """Returns the content, or with bytes cut off, changed or put in."""
    kind = data.draw(st.sampled_from(["whole", "whole", "cut", "change", "insert", "zeros"]))
    if kind == "whole" or not content:
        return content
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return content[:at]
    extra = bytes(8) if kind == "zeros" else data.draw(st.binary(min_size=1, max_size=8))
    return content[:at] + extra + content[at + (len(extra) if kind == "change" else 0) :]


def read_or_refuse(path: Path, read: Callable[[Path], Any]) -> Any:
    """Returns what was read, or None if the file was refused as it has to be: in one line, with its name, in time."""
    start = time.process_time()
    try:
        return read(path)
    except SpecError as error:
        message = str(error)
        assert str(path.parent) in message, f"no file in {message!r}"
        assert "\n" not in message, message
        assert len(message) < 2000, message
        return None
    finally:
        assert time.process_time() - start < SECONDS


def in_file(name: str, content: bytes, read: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        (Path(folder) / name).write_bytes(content)
        return read_or_refuse(Path(folder) / name, read)


def read_texts(path: Path) -> Any:
    return read_text_rows(path, "text", "label", needs_labels=False, may_be_hidden=True)


def delimited(rows: Sequence[Sequence[str]], delimiter: str, quoting: Any, end: str) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    for row in rows:
        writer.writerow(row)
    return file.getvalue()


@FUZZ
@given(st.data(), ROWS)
def test_delimited_texts_are_read_whole_or_refused(data: st.DataObject, rows: list[tuple[str, str]]) -> None:
    delimiter, end = data.draw(st.sampled_from(",;|\t")), data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    name = data.draw(st.sampled_from(["a.csv", "a.tsv"]))
    content = delimited([("text", "label"), *rows], delimiter, quoting, end).encode()
    damaged = damage(data, content)
    result = in_file(name, damaged, read_texts)
    if result is not None and damaged == content:
        assert len(result) == len(result.labels) == len(rows)
        if delimiter != "\t":  # a TSV may have its quotes as text
            assert list(result.texts) == [text.strip() for text, _ in rows]


@FUZZ
@given(st.data(), st.lists(st.text(CHARACTERS, max_size=15), min_size=1, max_size=12))
def test_raw_lines_with_tabs_are_all_rows_or_refused(data: st.DataObject, lines: list[str]) -> None:
    lines = [line.translate(str.maketrans("\r\n\0", "   ")) for line in lines]
    content = "\n".join(["text\tlabel", *lines, ""]).encode()
    damaged = damage(data, content)
    result = in_file("a.tsv", damaged, read_texts)
    if result is not None and damaged == content:
        stated = sum(int(note.split()[1]) for note in result.notes if "blank line" in note)
        trailing = len(lines) - next((i for i in range(len(lines), 0, -1) if lines[i - 1].strip(" ")), 0)
        assert len(result) + stated + trailing >= len([line for line in lines if line.strip(" ")])


@FUZZ
@given(
    st.data(), st.lists(st.dictionaries(st.sampled_from(["text", "label", "x"]) | WORDS, JSON, max_size=4), max_size=8)
)
def test_json_lines_are_read_whole_or_refused(data: st.DataObject, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if data.draw(st.booleans()):
            row |= {"text": data.draw(WORDS), "label": data.draw(st.sampled_from(["a", "b", None, 3, True]))}
    content = "".join(json.dumps(row, ensure_ascii=data.draw(st.booleans())) + "\n" for row in rows)
    encoded = content.encode("utf-8", "surrogatepass")
    damaged = damage(data, encoded)
    result = in_file("a.jsonl", damaged, read_texts)
    if result is not None and damaged == encoded:
        assert len(result) == len(rows)
    in_file("b.jsonl", damaged, lambda path: read_tagged_rows(path, "text", "label"))


@FUZZ
@given(st.data(), st.lists(st.text(CHARACTERS, max_size=20), max_size=8))
def test_plain_lines_are_rows_or_noted(data: st.DataObject, lines: list[str]) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    lines = [line.translate(str.maketrans("\r\n\0", "   ")) for line in lines]
    content = end.join(lines).encode()
    damaged = damage(data, content)
    result = in_file("a.txt", damaged, lambda path: read_text_rows(path, "text", None))
    if result is not None and damaged == content:
        assert list(result.texts) == [
            line.removeprefix("\ufeff" * (i == 0)).strip() for i, line in enumerate(lines) if line.strip()
        ]


COLUMNS: list[tuple[st.SearchStrategy[Any], pa.DataType, list[pa.DataType]]] = [  # values, their type, seen as
    (st.none() | WORDS, pa.string(), [pa.string()]),
    (st.integers(-2, 3), pa.int64(), [pa.int64()]),
    (st.none() | st.floats(), pa.float64(), [pa.float64()]),
    (st.binary(max_size=6), pa.binary(), [pa.string(), pa.binary()]),
    (st.integers(-(2**63), 2**63 - 1), pa.int64(), [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")]),
    (st.lists(WORDS, max_size=2), pa.list_(pa.string()), [pa.list_(pa.string())]),
]


def column(data: st.DataObject, count: int) -> pa.Array:
    values, kind, views = data.draw(st.sampled_from(COLUMNS))
    array = pa.array(data.draw(st.lists(values, min_size=count, max_size=count)), kind)
    return array.view(data.draw(st.sampled_from(views)))


@FUZZ
@given(st.data(), st.integers(0, 15))
def test_parquet_is_read_whole_or_refused(data: st.DataObject, count: int) -> None:
    names = data.draw(
        st.lists(st.sampled_from(["text", "label", "x", "__index_level_0__", ""]), min_size=1, max_size=4)
    )
    table = pa.table([column(data, count) for _ in names], names=names)
    metadata = data.draw(st.none() | st.sampled_from(["huggingface", "pandas", "classes"]))
    if metadata:
        table = table.replace_schema_metadata({metadata: json.dumps(data.draw(JSON)).encode()})
    file = pa.BufferOutputStream()
    try:
        pq.write_table(table, file, compression=data.draw(st.sampled_from(["none", "snappy", "zstd"])))
    except pa.ArrowInvalid:  # a time that Parquet cannot have
        return
    whole = file.getvalue().to_pybytes()
    content = damage(data, whole)
    for read in (
        read_texts,
        lambda path: read_table(path, "label", numbers=data.draw(st.booleans())),
        lambda path: read_images(path, Source(image="x", label="label")),
        lambda path: read_tagged_rows(path, "text", "label"),
    ):
        result = in_file("a.parquet", content, read)
        if result is not None and content == whole:
            assert len(result) == count


@FUZZ
@given(st.data(), st.integers(1, 12), st.integers(1, 4))
def test_numbers_in_columns_are_read_whole_or_refused(data: st.DataObject, count: int, width: int) -> None:
    names = data.draw(
        st.lists(st.sampled_from(["x", "y", "", "Unnamed: 0", "id", "x"]), min_size=width, max_size=width)
    )
    rows = [[data.draw(NUMBERS) for _ in names] + [data.draw(st.sampled_from("ab"))] for _ in range(count)]
    content = delimited([[*names, "label"], *rows], data.draw(st.sampled_from(",;")), csv.QUOTE_MINIMAL, "\n").encode()
    damaged = damage(data, content)
    numbers = data.draw(st.booleans())
    result = in_file("a.csv", damaged, lambda path: read_table(path, "label", numbers=numbers))
    if result is not None and damaged == content:
        assert len(result) == count
        assert np.isfinite(result.features).all()


@FUZZ
@given(st.data(), st.integers(0, 8))
def test_archives_are_read_whole_or_refused(data: st.DataObject, count: int) -> None:
    kinds = st.sampled_from(["u1", "i8", "f4", "f8", "U3", "c8", "M8[s]", "?"])
    shapes = st.sampled_from([(count,), (count, 2), (count, 3, 3), (count + 1,), ()])
    arrays = {name: np.zeros(data.draw(shapes), data.draw(kinds)) for name in ("image", "label", "x")}
    file = io.BytesIO()
    np.savez(file, **arrays)
    damaged = damage(data, file.getvalue())
    in_file("a.npz", damaged, lambda path: read_table(path, "label", numbers=False))
    in_file("a.npz", damaged, lambda path: read_images(path, Source()))


@FUZZ
@given(st.data())
def test_pictures_are_decoded_or_refused(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]))
    image = Image.new(mode, (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))))
    fits = {"I;16": ["png", "tiff"], "I": ["tiff"], "F": ["tiff"], "CMYK": ["tiff", "jpeg"], "LA": ["png"]}
    formats = fits.get(mode, ["png", "tiff", "gif"] + ["jpeg", "bmp", "webp"] * (mode == "RGB"))
    exif = Image.Exif()
    exif[0x0112] = data.draw(st.integers(0, 9))
    file = io.BytesIO()
    image.save(file, data.draw(st.sampled_from(formats)), exif=exif)
    damaged = damage(data, file.getvalue())
    facts = PictureFacts()
    pixels = in_file("a.png", damaged, lambda path: decode_picture(path, "", facts))
    assert pixels is not None or damaged != file.getvalue()
    if pixels is not None:
        assert pixels.dtype == np.uint8
        assert pixels.ndim in (2, 3)
    in_file("a.parquet", b"", lambda path: decode_picture(damaged, f"{path}: row 1"))


@FUZZ
@given(st.data())
def test_idx_files_are_read_or_refused(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 5))
    images = b"\0\0\x08\x03" + struct.pack(">3i", count, 2, 2) + bytes(4 * count)
    labels = b"\0\0\x08\x01" + struct.pack(">i", count) + bytes(count)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t-idx3-ubyte").write_bytes(damage(data, images))
        (Path(folder) / "t-idx1-ubyte").write_bytes(damage(data, labels))
        read_or_refuse(Path(folder) / "t-idx3-ubyte", lambda path: read_images(path, Source()))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.npz", "a.txt", "a.png"])
@settings(FUZZ, max_examples=max(20, EXAMPLES // 2))
@given(content=st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
def test_bytes_of_any_kind_are_read_or_refused(name: str, content: bytes) -> None:
    if name == "a.png":
        in_file(name, content, lambda path: decode_picture(path, ""))
        return
    if name != "a.npz":
        in_file(name, content, lambda path: read_text_rows(path, "text", None))
    in_file(name, content, lambda path: read_table(path, "label", numbers=False))
    in_file(name, content, lambda path: read_images(path, Source()))
