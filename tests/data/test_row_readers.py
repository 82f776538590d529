"""The reader of JSONL, CSV, TSV, Parquet and plain lines that all modalities share."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch.data.row_readers import TABLE_SUFFIXES, Place, parse_label, read_rows
from raysearch.errors import SpecError

ROWS = [{"a": "x", "b": "1"}, {"a": "y, z", "b": "2"}]


def write_rows(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix == ".tsv" else ","
        lines = [delimiter.join(f'"{value}"' for value in values) for values in (ROWS[0], *(r.values() for r in ROWS))]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
@pytest.mark.parametrize("columns", [None, ["b", "a"]])
def test_read_rows_gives_equal_rows_for_all_formats(tmp_path: Path, suffix: str, columns: list[str] | None) -> None:
    path = write_rows(tmp_path / f"rows{suffix}")
    places, rows = zip(*read_rows(path, columns, "rows", TABLE_SUFFIXES), strict=True)
    assert list(rows) == ROWS
    first = {".csv": 2, ".tsv": 2}.get(suffix, 1)
    assert [place.number for place in places] == [first, first + 1]
    assert {place.is_line for place in places} == {suffix != ".parquet"}


def test_read_rows_unknown_suffix_names_the_readable_ones(tmp_path: Path) -> None:
    for name, shown in (("rows.xls", r"\.xls"), ("rows", "nameless")):
        (tmp_path / name).write_text("x")
        with pytest.raises(SpecError, match=rf"cannot read a {shown} file as sounds; use \.jsonl, \.csv"):
            list(read_rows(tmp_path / name, None, "sounds", (".jsonl", ".csv")))


def test_read_rows_file_without_rows_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(SpecError, match=r"rows\.csv: holds no rows"):
        list(read_rows(tmp_path / "rows.csv", ["a"], "rows", TABLE_SUFFIXES))


def test_place_error_names_the_line_or_the_row() -> None:
    assert str(Place("a.csv", 3, is_line=True).error("b", "is empty")) == "a.csv:3: b: is empty"
    assert str(Place("a.parquet", 3).error("b", "is empty")) == "a.parquet: row 3: b: is empty"


@pytest.mark.parametrize(
    ("value", "names", "label"), [(" x ", (), "x"), (3, (), "3"), ("1", "ab", "b"), (0, "ab", "a")]
)
def test_parse_label_reads_words_and_class_numbers(value: object, names: str, label: str) -> None:
    assert parse_label(value, "label", Place("a.csv", 1), names) == label


@pytest.mark.parametrize(
    ("value", "problem"),
    [(" ", "the label is empty"), (None, "the label is empty"), (0.5, "a label is a word"), (2, "2 is not the number")],
)
def test_parse_label_of_another_kind_is_rejected(value: object, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_label(value, "label", Place("a.csv", 1), ("a", "b"))
