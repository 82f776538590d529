"""CSV and TSV as other programs write them: quotes, delimiters, blank lines, headers."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from raysearch.data.row_readers import TABLE_SUFFIXES, read_rows
from raysearch.errors import SpecError

COLUMNS = ("text", "label")


def read(path: Path, content: str, columns: tuple[str, ...] | None = COLUMNS) -> tuple[list[Any], list[str]]:
    """Returns the values of each row of a file with this content, and the notes."""
    path.write_text(content, newline="", encoding="utf-8")
    notes: list[str] = []
    rows = [tuple(row.values()) for _, row in read_rows(path, columns, "rows", TABLE_SUFFIXES, notes)]
    return rows, notes


def problem_of(path: Path, content: str, columns: tuple[str, ...] | None = COLUMNS) -> str:
    with pytest.raises(SpecError) as caught:
        read(path, content, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path.parent}/")


def test_tsv_with_raw_quotes_keeps_every_line(tmp_path: Path) -> None:
    content = 'text\tlabel\n"It was good, he said\tneg\nfine\tpos\nall "well" here\tneg\nanother "\tpos\n'
    rows, notes = read(tmp_path / "a.tsv", content)
    assert rows == [('"It was good, he said', "neg"), ("fine", "pos"), ('all "well" here', "neg"), ('another "', "pos")]
    assert notes == ["a.tsv: 1 field is only begun by a quote, so quotes are part of the text, as usual in TSV"]


def test_tsv_of_whole_quoted_fields_is_read_without_quotes(tmp_path: Path) -> None:
    rows, notes = read(tmp_path / "a.tsv", '"text"\tlabel\n"he said ""no"""\tneg\nfine\tpos\n')
    assert rows == [('he said "no"', "neg"), ("fine", "pos")]
    assert notes == ["a.tsv: 2 fields are in quotes, which are left out"]


@pytest.mark.parametrize("field", ['"a\tb"', '"a\nb"'])
def test_tsv_with_a_quoted_tab_or_newline_is_rejected(tmp_path: Path, field: str) -> None:
    problem = problem_of(tmp_path / "a.tsv", f"text\tlabel\nfine\tpos\n{field}\tneg\n")
    assert problem.startswith("a.tsv:3: ")
    assert problem.endswith("holds no tab and no line break, even in quotes: save the file as CSV")


@pytest.mark.parametrize(
    ("content", "line", "where"),
    [
        ('text,label\nx,a\n"open,b\ny,a\nz,b\n', 3, "(line 5): unexpected end of data"),
        ('text,label\nx,a\n"open,b\ny,a\nhe "said",b\n', 3, "(line 5): ',' expected after '\"'"),
        ('text,label\n"two\nlines","open\nx,a\n', 3, "(line 4): unexpected end of data"),
        ('text,label\n"say "no"",a\n', 2, "(line 2): ',' expected after '\"'"),
    ],
)
def test_csv_unclosed_quote_is_reported_where_it_opens(tmp_path: Path, content: str, line: int, where: str) -> None:
    problem = problem_of(tmp_path / "a.csv", content)
    assert problem.startswith(f"a.csv:{line}: not CSV: the quoted field that begins in this line")
    assert problem.endswith(where)


def test_csv_with_an_unquoted_comma_says_what_to_do(tmp_path: Path) -> None:
    problem = problem_of(tmp_path / "a.csv", "text,label\nwell, well,a\n")
    counts = "3 fields where the header has 2; a field that holds the delimiter ',' is put in double quotes"
    assert problem == f"a.csv:2: {counts}"


def test_csv_rows_of_several_lines_are_noted(tmp_path: Path) -> None:
    rows, notes = read(tmp_path / "a.csv", 'text,label\n"one\ntwo",a\nx,b\n"1\n2\n3",a\n')
    assert [text for text, _ in rows] == ["one\ntwo", "x", "1\n2\n3"]
    assert notes == ["a.csv: 2 rows have a line break inside quotes; the longest, of 3 lines, begins in line 5"]


@pytest.mark.parametrize(
    ("name", "delimiter", "word"),
    [("a.csv", ";", "semicolons"), ("a.csv", "\t", "tabs"), ("a.csv", "|", "vertical bars"), ("a.tsv", ",", "commas")],
)
def test_header_of_another_delimiter_is_read_and_noted(tmp_path: Path, name: str, delimiter: str, word: str) -> None:
    rows, notes = read(tmp_path / name, f"text{delimiter}label\nso so{delimiter}pos\n")
    assert rows == [("so so", "pos")]
    assert notes == [f"{name}: its fields are separated by {word} and are read so"]
    assert read(tmp_path / name, f"a{delimiter}b\n1{delimiter}2\n", None)[0] == [("1", "2")]


def test_header_without_the_column_names_its_delimiter(tmp_path: Path) -> None:
    problem = problem_of(tmp_path / "a.csv", "body;label\nx;a\n")
    assert problem.startswith("a.csv:1: no column 'text' in the header; known: body;label")
    assert problem.endswith("(separated by commas)")


def test_csv_line_of_excel_above_the_header_is_obeyed(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "sep=;\r\ntext;label\r\nx, y;a\r\n")[0] == [("x, y", "a")]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.csv", "text,label\r\nx,a\r\ny,b\r\n", [("x", "a"), ("y", "b")]),
        ("a.csv", "text,label\rx,a\ry,b", [("x", "a"), ("y", "b")]),
        ("a.tsv", "text\tlabel\r\nx\ta\r\n", [("x", "a")]),
        ("a.tsv", "text\tlabel\rx\ta\ry\tb\r", [("x", "a"), ("y", "b")]),
        ("a.csv", "\ufefftext,label\nx,a\n", [("x", "a")]),
        ("a.csv", 'text,label\nhe said "hi",a\n', [('he said "hi"', "a")]),
        ("a.csv", "\n\ntext,label\nx,a\n", [("x", "a")]),
        ("a.csv", "text,label\nx\u2028y\x85z\x0b,a\n", [("x\u2028y\x85z\x0b", "a")]),
    ],
)
def test_line_ends_and_marks_of_other_systems_are_read(
    tmp_path: Path, name: str, content: str, rows: list[tuple[str, str]]
) -> None:
    assert read(tmp_path / name, content)[0] == rows


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_blank_lines_between_rows_are_noted(tmp_path: Path, name: str) -> None:
    separator = "\t" if name == "a.tsv" else ","
    content = f"text{separator}label\nx{separator}a\n\n\ny{separator}b\n\n"
    rows, notes = read(tmp_path / name, content)
    assert len(rows) == 2
    assert notes == [f"{name}: 2 blank lines were passed over"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_header_with_a_name_twice_is_rejected_if_used(tmp_path: Path, name: str) -> None:
    content = "text,label,text,x,x\na,b,c,d,e\n".replace(",", "\t" if name == "a.tsv" else ",")
    assert problem_of(tmp_path / name, content) == f"{name}:1: 2 columns are called 'text'"
    assert problem_of(tmp_path / name, content, None).startswith(f"{name}:1: 2 columns are called ")
    assert problem_of(tmp_path / name, content, ("x",)) == f"{name}:1: 2 columns are called 'x'"
    assert read(tmp_path / name, content, ("label",))[0] == [("c", "b", "e")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_header_repeated_between_rows_is_rejected(tmp_path: Path, name: str) -> None:
    content = "text,label\nx,a\ntext,label\ny,b\n".replace(",", "\t" if name == "a.tsv" else ",")
    assert (
        problem_of(tmp_path / name, content)
        == f"{name}:3: repeats the header, as when files were joined; remove the line"
    )


def test_file_without_header_is_said_to_be_empty(tmp_path: Path) -> None:
    for name, content in (("a.csv", ""), ("a.tsv", "\n\n"), ("a.csv", "\ufeff")):
        assert problem_of(tmp_path / name, content) == f"{name}: is empty: it has no header"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("text,label\nx,a\n".encode("utf-16"), "is UTF-16; save the file as UTF-8"),
        ("text,label\nx,a\n".encode("utf-16-le"), "holds NUL characters, as binary files and UTF-16 do"),
        ("text,label\ncaf\u00e9,a\n".encode("latin-1"), "not UTF-8; save the file as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS; fetch the file"),
        (gzip.compress(b"text,label\nx,a\n"), "is compressed by gzip; unpack it"),
        (b"PK\x03\x04\x14\x00", "is a zip archive, as .xlsx is too; save the table as CSV"),
    ],
)
def test_file_of_another_kind_is_rejected(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(SpecError, match=rf"a\.csv(:[12])?: {problem}"):
        list(read_rows(tmp_path / "a.csv", COLUMNS, "rows", TABLE_SUFFIXES))
