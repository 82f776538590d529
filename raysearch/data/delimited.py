"""Rows of CSV and TSV files.

    CSV   quoting as in RFC 4180: a field in double quotes may hold commas, line breaks and doubled quotes
    TSV   a line is a row and a tab ends a field, as most tools write it; quotes are part of the text, unless every
          field that begins with one is a whole quoted field

A header that another delimiter separates is read with that delimiter, and a note says so.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from raysearch.data.places import Place, Row
from raysearch.data.text_files import add_blank_note, read_utf8, refuse_duplicates, split_lines
from raysearch.errors import SpecError, did_you_mean

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_EXCEL_LINE = re.compile(r'"?sep=([,;|\t])"?')  # that Excel writes above the header
_WHOLE_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_LINE_END = re.compile(r"\r\n|\r|\n")
_Record = tuple[int, int, list[str]]  # the line in which it begins, its lines, its fields


def delimited_rows(path: Path, columns: Sequence[str] | None, notes: list[str]) -> Iterator[Row]:
    """Yields the rows of a CSV or TSV file; `columns` are those that are used, all if None.

    Raises SpecError with file and line for a row of another number of fields than the header, a quoted field that does
    not end, and a header without the columns. What was unusual is added to `notes` after the last row.
    """
    text = read_utf8(path)
    delimiter, skipped = _choose_delimiter(path, text, columns, notes)
    records = _tab_records(path, text, skipped, notes) if delimiter == "\t" else _csv_records(path, text, delimiter)
    header_line, header = next(((start, fields) for start, _, fields in records if start > skipped and fields), (0, []))
    _check_header(path, header, header_line, columns, delimiter)
    blank, pending, multiline = 0, 0, []
    for start, height, fields in records:
        if not fields:
            pending += 1
            continue
        blank, pending = blank + pending, 0
        if len(fields) != len(header):
            raise SpecError(_count_problem(fields, header, delimiter), file=str(path), line=start)
        if fields == header and len(header) > 1:
            problem = "repeats the header, as when files were joined; remove the line"
            raise SpecError(problem, file=str(path), line=start)
        if height > 1:
            multiline.append((height, -start))
        yield Place(str(path), start, is_line=True), dict(zip(header, fields, strict=True))
    add_blank_note(path, blank, notes)
    if multiline:
        height, start = max(multiline)
        quantity = "1 row has a" if len(multiline) == 1 else f"{len(multiline)} rows have a"
        place = f"the longest, of {height} lines, begins in line {-start}"
        notes.append(f"{path.name}: {quantity} line break inside quotes; {place}")


def _check_header(path: Path, header: Sequence[str], line: int, columns: Sequence[str] | None, delimiter: str) -> None:
    if not header:
        raise SpecError("is empty: it has no header", file=str(path))
    for column in columns or ():
        if column not in header:
            problem = f"no column {column!r} in the header{did_you_mean(column, header)}"
            raise SpecError(f"{problem} (separated by {DELIMITERS[delimiter]})", file=str(path), line=line)
    refuse_duplicates(path, header, columns, line)


def _count_problem(fields: Sequence[str], header: Sequence[str], delimiter: str) -> str:
    problem = f"{len(fields)} fields where the header has {len(header)}"
    if delimiter == "\t" and any(field.startswith('"') for field in fields):
        return f"{problem}; a field of a TSV holds no tab and no line break, even in quotes: save the file as CSV"
    if len(fields) > len(header) and delimiter != "\t":
        return f"{problem}; a field that holds the delimiter {delimiter!r} is put in double quotes"
    return problem


def _choose_delimiter(path: Path, text: str, columns: Sequence[str] | None, notes: list[str]) -> tuple[str, int]:
    """Returns the delimiter, and how many lines stand before the header."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    lines = _LINE_END.split(text[: 1 << 16])
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    declared = _EXCEL_LINE.fullmatch(lines[first])
    if declared:
        return declared[1], first + 1
    for delimiter in (usual, *(other for other in DELIMITERS if other != usual)):
        try:
            names = next(csv.reader([lines[first]], delimiter=delimiter), [])
        except csv.Error:
            continue
        fits = set(columns) <= set(names) if columns else len(names) > 1
        if fits:
            if delimiter != usual:
                notes.append(f"{path.name}: its fields are separated by {DELIMITERS[delimiter]} and are read so")
            return delimiter, 0
    return usual, 0


def _csv_records(path: Path, text: str, delimiter: str) -> Iterator[_Record]:
    """Yields each record, a blank line as one without fields. Raises SpecError where a quoted field begins badly."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(1 << 30)
    start = 1
    try:
        for fields in reader:
            yield start, reader.line_num - start + 1, fields
            start = reader.line_num + 1
    except csv.Error as error:
        opening = _opening_line(text, start, reader.line_num, delimiter)
        problem = f"not CSV: the quoted field that begins in this line does not end well (line {reader.line_num})"
        raise SpecError(f"{problem}: {error}", file=str(path), line=opening) from None
    finally:
        csv.field_size_limit(limit)


def _opening_line(text: str, first: int, last: int, delimiter: str) -> int:
    """Returns the line of the last quoted field that begins in these lines, from 1."""
    lines = io.StringIO(text, newline="").readlines()[first - 1 : last]
    opening, is_quoted, before = first, False, delimiter
    for number, line in enumerate(lines, first):
        for character in line:
            if character == '"' and (is_quoted or before in f"{delimiter}\r\n"):
                is_quoted = not is_quoted
                opening = number if is_quoted and before != '"' else opening
            before = character
    return opening


def _tab_records(path: Path, text: str, skipped: int, notes: list[str]) -> Iterator[_Record]:
    """Yields each line's fields; a blank line has none."""
    lines = split_lines(text)
    starting = [field for line in lines[skipped:] for field in line.split("\t") if field.startswith('"')]
    whole = [field for field in starting if _WHOLE_QUOTED.fullmatch(field)]
    is_quoted = bool(starting) and len(whole) == len(starting)
    if is_quoted:
        notes.append(f"{path.name}: {len(whole)} fields are in quotes, which are left out")
    elif starting:
        count = len(starting) - len(whole)
        quantity = "1 field is" if count == 1 else f"{count} fields are"
        notes.append(f"{path.name}: {quantity} only begun by a quote, so quotes are part of the text, as usual in TSV")
    for number, line in enumerate(lines, 1):
        fields = line.split("\t") if line.strip(" ") else []
        if is_quoted:
            fields = [field[1:-1].replace('""', '"') if field.startswith('"') else field for field in fields]
        yield number, 1, fields
