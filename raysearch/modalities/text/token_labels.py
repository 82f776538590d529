"""Words with a tag each, such as named entities or parts of speech: their rows, and the tags of their tokens.

A row is a list of words and a list of as many tags, in JSONL or Parquet. The words are joined by spaces and tokenised
like any other text. A word's first token has the tag of the word; its other tokens have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raysearch.data.parquet import stored_class_names
from raysearch.data.places import Place
from raysearch.data.row_readers import parse_label, read_rows
from raysearch.modalities.text.readers import TextRows

if TYPE_CHECKING:
    from raysearch.modalities.text.tokenizer import TaskTokenizer

NO_TAG = -1  # of a token that no loss is computed for
SUFFIXES = (".jsonl", ".ndjson", ".parquet")  # formats whose columns can hold lists


@dataclass(frozen=True)
class TaggedRows(TextRows):
    """Texts made of words joined by spaces, with a tag for each word; `labels` is empty."""

    words: Sequence[Sequence[str]] = ()
    tags: Sequence[Sequence[str]] = ()

    @property
    def tag_names(self) -> list[str]:
        """Every tag once, sorted."""
        return sorted({tag for tags in self.tags for tag in tags})


def read_tagged_rows(path: Path, words: str, tags: str) -> TaggedRows:
    """Reads the rows of a file whose columns `words` and `tags` hold lists.

    Raises SpecError with file and line for a row that cannot be used.
    """
    places: list[Place] = []
    word_lists: list[list[str]] = []
    tag_lists: list[list[str]] = []
    notes: list[str] = []
    class_names = stored_class_names(path, tags)
    for place, row in read_rows(path, [words, tags], "lists of words", SUFFIXES, notes):
        for column in (words, tags):
            if not isinstance(row[column], list) or not all(isinstance(value, str | int) for value in row[column]):
                raise place.error(column, f"must be a list of words, got {row[column]!r:.60}")
        if not row[words] or not all(str(word).strip() for word in row[words]):
            raise place.error(words, "is empty, or has an empty word")
        if len(row[words]) != len(row[tags]):
            raise place.error(tags, f"has {len(row[tags])} tags for {len(row[words])} words")
        places.append(place)
        word_lists.append([str(word).strip() for word in row[words]])
        tag_lists.append([parse_label(tag, tags, place, class_names) for tag in row[tags]])
    texts = [" ".join(row_words) for row_words in word_lists]
    return TaggedRows(str(path), texts, [], places, notes, words=word_lists, tags=tag_lists)


def encode_tags(rows: TaggedRows, tokenizer: TaskTokenizer, class_of: Mapping[str, int]) -> NDArray[np.int32]:
    """Returns a class for every token of `tokenizer.encode(rows.texts)`: its word's tag, or NO_TAG.

    Only the first token of a word has the word's tag.
    """
    encoded = []
    for text, words, tags in zip(rows.texts, rows.words, rows.tags, strict=True):
        encoding = tokenizer.encode_one(text)
        classes = np.full(len(encoding.ids), NO_TAG, dtype=np.int32)
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        tagged_words = set()
        for i, (start, stop) in enumerate(encoding.offsets):
            if stop <= start:  # a special token
                continue
            word = int(np.searchsorted(starts, stop - 1, side="right")) - 1
            if word not in tagged_words:
                tagged_words.add(word)
                classes[i] = class_of[tags[word]]
        encoded.append(classes)
    return np.concatenate(encoded) if encoded else np.empty(0, np.int32)
