"""What an exported model says of the texts of a file, as a table that people, programs and teachers read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from raysearch.data.columns import choose_text, columns_of
from raysearch.data.row_readers import TABLE_SUFFIXES, is_empty, read_rows
from raysearch.errors import SpecError, shorten_list
from raysearch.modalities.exported import load_model

COLUMNS = ("text", "label", "probability")
BATCH = 256  # texts at a time


def predict_file(folder: Path, file: Path, text: str | None = None, *, by_class: bool = False) -> pa.Table:
    """Returns the texts of a file in their order, the most probable label of each, and its probability.

    `text` names the column of the texts; None guesses it as `init` does. With `by_class`, a column for each label
    holds its probability. Rows without text have no label. Raises RunError for a folder without a classifier of
    texts, and SpecError with its place for a file that cannot be read.
    """
    model = load_model(folder)
    if by_class and (repeated := [name for name in model.labels if name in COLUMNS]):
        raise SpecError(f"has a label {repeated[0]!r}, which is the name of another column", file=str(folder))
    texts = read_texts(file, text)
    rows = [i for i, value in enumerate(texts) if not is_empty(value)]
    label: list[str | None] = [None] * len(texts)
    probability: list[float | None] = [None] * len(texts)
    of_class: list[list[float | None]] = [[None] * len(texts) for _ in model.labels]
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        for i, p in zip(part, model.predict_proba([str(texts[i]) for i in part]), strict=True):
            best = int(p.argmax())
            label[i], probability[i] = model.labels[best], float(p[best])
            for c, value in enumerate(p.tolist()):
                of_class[c][i] = value
    columns = {"text": pa.array(texts, pa.string()), "label": pa.array(label, pa.string())}
    columns["probability"] = pa.array(probability, pa.float64())
    if by_class:
        columns |= {name: pa.array(values, pa.float64()) for name, values in zip(model.labels, of_class, strict=True)}
    return pa.table(columns)


def read_texts(file: Path, column: str | None) -> list[str | None]:
    """Returns the texts of a CSV, TSV, JSONL or Parquet file, or the lines of a text file; None for empty ones."""
    suffixes = (*TABLE_SUFFIXES, ".txt")
    if file.suffix.lower() == ".txt":
        return [str(row["text"]) for _, row in read_rows(file, ["text"], "texts", suffixes)]
    rows = [row for _, row in read_rows(file, None, "texts", suffixes)]
    columns = columns_of(rows)
    guess = choose_text(columns, column, file)
    if guess is None:
        raise SpecError(f"no column of texts; --text names it: {shorten_list(list(columns))}", file=str(file))
    values = [row.get(guess.column.name) for row in rows]
    return [None if is_empty(value) else str(value) for value in values]
