"""Files of text: UTF-8 and nothing else, in lines that end in LF, CRLF or, in a file without LF, in CR."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from raysearch.errors import SpecError, shorten

_OTHER_ENCODINGS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"} | {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


_SIGNATURES = {
    b"version https://git-lfs.github.com/spec/": "is a pointer of Git LFS; fetch the file itself by git lfs pull",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"PK\x03\x04": "is a zip archive, as .xlsx is too; save the table as CSV",
    b"PAR1": "is Parquet; call it .parquet",
}


def refuse_other_kinds(path: Path, content: bytes) -> None:
    """Raises SpecError for a file whose first bytes say that it is of another kind than its name."""
    for signature, problem in _SIGNATURES.items():
        if content.startswith(signature):
            raise SpecError(problem, file=str(path))


def read_utf8(path: Path) -> str:
    """Returns the text of a file without its byte order mark. Raises SpecError with the line that is not UTF-8."""
    content = path.read_bytes()
    refuse_other_kinds(path, content)
    for mark, encoding in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise SpecError(f"is {encoding}; save the file as UTF-8", file=str(path), line=1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8; save the file as UTF-8", file=str(path), line=line) from None
    if (place := text.find("\0")) >= 0:
        problem = "holds NUL characters, as binary files and UTF-16 do; save the file as UTF-8 text"
        raise SpecError(problem, file=str(path), line=text.count("\n", 0, place) + 1)
    return text


def split_lines(text: str) -> list[str]:
    """Returns the lines without their ends; other separators, such as U+2028, are part of a line."""
    if "\n" not in text:
        return text.split("\r")
    return [line.removesuffix("\r") for line in text.split("\n")]


def number_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, str]]:
    """Yields each line that is not blank, with its number from 1, and adds a note on the blank lines between them."""
    lines = split_lines(read_utf8(path))
    while lines and not lines[-1].strip():
        lines.pop()
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    add_blank_note(path, sum(not line.strip() for line in lines), notes)


def add_blank_note(path: Path, count: int, notes: list[str]) -> None:
    """Adds a note on blank lines that were passed over, if there are any."""
    if count:
        notes.append(f"{path.name}: {count} blank {'line was' if count == 1 else 'lines were'} passed over")


def refuse_duplicates(path: Path, names: Sequence[str], used: Sequence[str] | None, line: int = 0) -> None:
    """Raises SpecError if a used column, or any column if `used` is None, has a name that stands twice."""
    counts = Counter(names)
    for name in counts if used is None else used:
        if name and counts[name] > 1:
            raise SpecError(f"{counts[name]} columns are called {shorten(name)!r}", file=str(path), line=line)
