"""Words with a tag for each, as named entities or parts of speech: their rows, and the tokens that carry the tags.

A row is a list of words and a list of as many tags, in JSONL or Parquet. The words are joined by spaces and tokenised
as any text is; a word's tag is asked for at its first token, and at no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raysearch.data.row_readers import READERS, TextRows
from raysearch.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from raysearch.modalities.text.tokenizer import TaskTokenizer

NO_TAG = -1  # of a token that is asked for nothing
KINDS = (".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class TaggedRows(TextRows):
    """Texts of words joined by spaces; `labels` is empty."""

    words: Sequence[Sequence[str]] = ()
    tags: Sequence[Sequence[str]] = ()

    @property
    def names(self) -> list[str]:
        """Every tag once, sorted."""
        return sorted({tag for tags in self.tags for tag in tags})


def read_tagged_rows(path: Path, words: str, tags: str) -> TaggedRows:
    """The rows of a file whose columns `words` and `tags` hold lists.

    Raises SpecError, with its line, for a row that does not fit.
    """
    if path.suffix.lower() not in KINDS:
        raise SpecError(
            f"cannot read lists of words from a {path.suffix or 'nameless'} file; use {', '.join(KINDS)}",
            file=str(path),
        )
    by_line = path.suffix.lower() != ".parquet"
    empty = TextRows(str(path), [], [], (), by_line)
    found: list[tuple[list[str], list[str]]] = []
    places: list[int] = []
    for place, row in READERS[path.suffix.lower()](path, [words, tags]):
        at = TextRows(str(path), [], [], (place,), by_line)
        for column in (words, tags):
            if column not in row:
                raise at.error(0, column, f"no such column{did_you_mean(column, row)}")
            if not isinstance(row[column], list) or not all(isinstance(part, str | int) for part in row[column]):
                raise at.error(0, column, "must be a list of words")
        if not row[words] or not all(str(word).strip() for word in row[words]):
            raise at.error(0, words, "is empty, or has an empty word")
        if len(row[words]) != len(row[tags]):
            raise at.error(0, tags, f"has {len(row[tags])} tags for {len(row[words])} words")
        found.append(([str(word).strip() for word in row[words]], [str(tag).strip() for tag in row[tags]]))
        places.append(place)
    if not found:
        raise SpecError("holds no rows", file=empty.source)
    texts = [" ".join(own) for own, _ in found]
    return TaggedRows(empty.source, texts, [], places, by_line, [own for own, _ in found], [tags for _, tags in found])


def encode_tags(rows: TaggedRows, vocabulary: TaskTokenizer, number: Mapping[str, int]) -> NDArray[np.int32]:
    """For every token of `vocabulary.encode(rows.texts)` its word's tag if it is the word's first; else NO_TAG."""
    parts = []
    for text, words, tags in zip(rows.texts, rows.words, rows.tags, strict=True):
        encoding = vocabulary.tokenizer.encode(text)
        own = np.full(len(encoding.ids), NO_TAG, dtype=np.int32)
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        taken = set()
        for i, (begin, end) in enumerate(encoding.offsets):
            if end <= begin:  # a special token
                continue
            word = int(np.searchsorted(starts, end - 1, side="right")) - 1
            if word not in taken:
                taken.add(word)
                own[i] = number[tags[word]]
        parts.append(own)
    return np.concatenate(parts) if parts else np.empty(0, np.int32)
