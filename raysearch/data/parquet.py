"""Parquet files: their rows, and what they say of their columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raysearch.data.places import Place, Row
from raysearch.data.text_files import refuse_duplicates, refuse_other_kinds
from raysearch.errors import SpecError, did_you_mean

INDEX_COLUMN = re.compile(r"|Unnamed: \d+(\.\d+)*|__index_level_\d+__|level_\d+")  # as pandas names an index


def read_parquet(path: Path, columns: Sequence[str] | None) -> Any:
    """Returns a pyarrow table of these columns, or of all. Raises SpecError for a missing column or another format."""
    import pyarrow.parquet as pq

    with path.open("rb") as opened:
        beginning = opened.read(64)
    if not beginning.startswith(b"PAR1"):
        refuse_other_kinds(path, beginning)
    try:
        names = pq.read_schema(path).names
        refuse_duplicates(path, names, columns)
        for column in columns or ():
            if column not in names:
                raise SpecError(f"no column {column!r}{did_you_mean(column, names)}", file=str(path))
        return pq.read_table(path, columns=None if columns is None else list(dict.fromkeys(columns)))
    except SpecError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise SpecError(f"not Parquet: {' '.join(str(error).split())[:200]}", file=str(path)) from None


def column_values(path: Path, table: Any, column: str) -> list[Any]:
    """Returns the values of a column. Raises SpecError with the row of one that is no value of Python."""
    values = table[column]
    try:
        converted: list[Any] = values.to_pylist()
    except Exception:  # text that is not UTF-8, a date out of range, ...
        for number, value in enumerate(values, 1):
            try:
                value.as_py()
            except Exception as error:
                problem = f"cannot be read: {' '.join(str(error).split())[:120]}"
                raise Place(str(path), number).error(column, problem) from None
        raise
    return converted


def parquet_rows(path: Path, columns: Sequence[str] | None, notes: list[str]) -> Iterator[Row]:
    """Yields the rows of a file; `columns` are those that are used, all if None."""
    del notes
    table = read_parquet(path, columns)
    values = [column_values(path, table, name) for name in table.column_names]
    for number in range(table.num_rows):
        row = {name: column[number] for name, column in zip(table.column_names, values, strict=True)}
        yield Place(str(path), number + 1), row


def stored_class_names(path: Path, column: str) -> list[str]:
    """Returns the names of a column's class numbers, if the file is Parquet and stores them; see `class_names_of`."""
    if path.suffix.lower() != ".parquet":
        return []
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except Exception:  # the reader of the rows says what is wrong
        return []
    return class_names_of(schema, column)


def class_names_of(schema: Any, column: str) -> list[str]:
    """Returns the names of a column's class numbers: a ClassLabel of `datasets`, also in lists, or our `classes`."""
    metadata = schema.metadata or {}
    try:
        if b"huggingface" in metadata:
            feature = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {}).get(column) or {}
            while isinstance(feature, list) or "feature" in feature:
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            return [str(name) for name in feature.get("names") or []]
        if b"classes" in metadata and column == "label":
            return [str(name) for name in json.loads(metadata[b"classes"])]
    except (ValueError, AttributeError, TypeError, LookupError):  # another program's metadata
        pass
    return []


def index_columns(path: Path) -> list[str]:
    """Returns the columns that pandas has stored as the index of a Parquet file's rows."""
    if path.suffix.lower() != ".parquet":
        return []
    import pyarrow.parquet as pq

    stored = (pq.read_schema(path).metadata or {}).get(b"pandas", b"{}")
    try:
        return [name for name in json.loads(stored).get("index_columns", []) if isinstance(name, str)]
    except (ValueError, AttributeError):  # another program's metadata
        return []
