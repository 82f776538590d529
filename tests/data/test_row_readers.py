"""The reader of JSONL, CSV, TSV, Parquet and plain lines that all modalities share."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch.data.places import Place
from raysearch.data.row_readers import TABLE_SUFFIXES, is_hidden, label_notes, parse_label, read_rows
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


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "x \\ud83d y"}', r"text: holds half of a character, \\ud83d"),
        ('{"text": ["x", "\\uDC00"]}', r"text: holds half of a character, \\udc00"),
        ('{"text": "x", "text": "y"}', "the key 'text' stands twice"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON that can be read: its lists"),
        ('{"text": ' + "9" * 5000 + "}", "not JSON that can be read: Exceeds the limit"),
        ('{"text": "x"} {"text": "y"}', "not JSON: Extra data at column 15"),
        ('[{"text": "x"}]', "a line must be one JSON object"),
        ('{"text": "x\0"}', "holds NUL characters"),
    ],
)
def test_jsonl_line_that_is_unusable_is_rejected(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(SpecError, match=rf"a\.jsonl:2: {problem}"):
        list(read_rows(tmp_path / "a.jsonl", ["text"], "rows", TABLE_SUFFIXES))


def test_jsonl_strange_values_of_unused_keys_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00", "x": "\\ud83d", "x": 2}\n\n{"text": "y"}\n\n')
    notes: list[str] = []
    rows = [row["text"] for _, row in read_rows(tmp_path / "a.jsonl", ["text"], "rows", TABLE_SUFFIXES, notes)]
    assert rows == ["\U0001f600", "y"]
    assert notes == ["a.jsonl: 1 blank line was passed over"]


def test_txt_lines_are_rows_whatever_ends_them(tmp_path: Path) -> None:
    for content in ("a\nb\n", "a\r\nb\r\n", "a\rb\r"):
        (tmp_path / "a.txt").write_text(content, newline="")
        assert [row["text"] for _, row in read_rows(tmp_path / "a.txt", ["text"], "rows", (".txt",))] == ["a", "b"]


def test_parquet_that_is_damaged_names_its_file_or_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("text,label\nx,a\n")
    with pytest.raises(SpecError, match=r"a\.parquet: not Parquet: "):
        list(read_rows(path, ["text"], "rows", TABLE_SUFFIXES))
    pq.write_table(
        pa.table({"text": [f"{i:06}" for i in range(5000)]}), path, compression="snappy", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"a\.parquet: not Parquet: "):
        list(read_rows(path, ["text"], "rows", TABLE_SUFFIXES))
    text = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"text": text}), path)
    with pytest.raises(SpecError, match=r"a\.parquet: row 2: text: cannot be read: "):
        list(read_rows(path, ["text"], "rows", TABLE_SUFFIXES))
    pq.write_table(pa.table([pa.array(["x"]), pa.array(["y"])], names=["text", "text"]), path)
    with pytest.raises(SpecError, match=r"a\.parquet: 2 columns are called 'text'"):
        list(read_rows(path, ["text"], "rows", TABLE_SUFFIXES))


def test_parse_label_minus_one_is_hidden_where_it_may_be() -> None:
    place = Place("a.parquet", 1)
    assert parse_label(-1, "label", place, ("a", "b"), may_be_hidden=True) == "-1"
    with pytest.raises(SpecError, match="-1 is not the number of a class"):
        parse_label(-1, "label", place, ("a", "b"))
    assert is_hidden(["-1", "-1"], {"0", "1"})
    assert not is_hidden(["-1", "-1"], {"-1", "1"})
    assert not is_hidden(["-1", "0"], {"0", "1"})
    assert not is_hidden([], {"0", "1"})


def test_label_notes_name_missing_values_and_similar_labels() -> None:
    assert label_notes("a.csv", ["pos", "neg", "pos"]) == []
    assert label_notes("a.csv", ["Pos", "neg", "pos", "nan", "nan"]) == [
        "a.csv: 2 rows have the label 'nan', which may be a missing value",
        "a.csv: labels that differ only in how they are written: 'Pos', 'pos'",
    ]
