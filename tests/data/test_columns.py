"""Which column holds the texts and which the labels, of files as strangers have them."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch.data.columns import choose_label, choose_text, read_columns
from raysearch.errors import SpecError

TEXTS = [f"this is text number {i} and it has a few words" for i in range(60)]


def write_csv(path: Path, columns: dict[str, list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def guess(path: Path, text: str | None = None, label: str | None = None) -> tuple[str, str]:
    columns = read_columns(path)
    chosen_text = choose_text(columns, text, path)
    assert chosen_text is not None
    chosen_label = choose_label(columns, label, path, text=chosen_text.column.name)
    assert chosen_label is not None
    return chosen_text.column.name, chosen_label.column.name


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": TEXTS, "label": ["a", "b"] * 30}, ("text", "label")),
        ({"": list(range(60)), "Review": TEXTS, "Sentiment": [1, 0] * 30}, ("Review", "Sentiment")),
        ({"stars": [1, 2, 3] * 20, "title": ["good thing here"] * 60, "body": TEXTS}, ("body", "stars")),
        (
            {"id": list(range(60)), "source": ["web"] * 30 + ["app"] * 30, "text": TEXTS, "y": ["p", "n"] * 30},
            ("text", "y"),
        ),
        (
            {"passage": TEXTS, "split": ["x", "y"] * 30, "kind_of_relation": ["r", "s", "t"] * 20},
            ("passage", "kind_of_relation"),
        ),
    ],
)
def test_columns_are_guessed_by_name_and_content(
    tmp_path: Path, columns: dict[str, list[Any]], expected: tuple[str, str]
) -> None:
    assert guess(write_csv(tmp_path / "rows.csv", columns)) == expected


def test_named_columns_override_the_guess(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "rows.csv", {"text": TEXTS, "body": TEXTS, "label": [0, 1] * 30, "other": ["a", "b"] * 30}
    )
    assert guess(path, "body", "other") == ("body", "other")
    with pytest.raises(SpecError, match=r"rows.csv: --label: no column 'lable'; did you mean 'label'\?"):
        guess(path, label="lable")


def test_guess_names_other_columns_that_could_be_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", {"text": TEXTS, "label": [0, 1] * 30, "other": ["a", "b"] * 30})
    label = choose_label(read_columns(path), None, path, text="text")
    assert label is not None
    assert label.reason == "2 values; --label other would be another"


def test_columns_of_parquet_count_nulls_and_nans_as_empty(tmp_path: Path) -> None:
    table = pa.table({"text": ["one text here", None, "two texts here"], "x": [1.0, float("nan"), None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    columns = read_columns(tmp_path / "rows.parquet")
    assert {name: column.empty for name, column in columns.items()} == {"text": 1, "x": 2}


def test_column_that_numbers_rows_is_an_index(tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = {
        "n": list(range(5, 65)),
        "x": [chance.random() for _ in range(60)],
        "doc_id": chance.sample(range(1000), 60),
    }
    columns = read_columns(write_csv(tmp_path / "rows.csv", rows))
    assert [name for name, column in columns.items() if column.is_index] == ["n", "doc_id"]


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    with pytest.raises(
        SpecError, match=r"rows.xlsx: cannot read a .xlsx file as labelled data; use a folder of images"
    ):
        read_columns(tmp_path / "rows.xlsx")
