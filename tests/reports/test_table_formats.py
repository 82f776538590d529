from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch.errors import SpecError
from raysearch.reports.table_formats import TableFormat, format_tables, to_csv, to_markdown, write_tables

TABLE = pa.table(
    {
        "arm": ["search", "a|b\nc, \x1b[31m"],
        "mean": [0.123456789, None],
        "seeds": [3, -1],
        "d": [[0.5, float("nan")], None],
    }
)


def test_csv_gives_the_values_back() -> None:
    first, second = csv.DictReader(io.StringIO(to_csv(TABLE)))
    assert (first["arm"], float(first["mean"]), int(first["seeds"])) == ("search", 0.123456789, 3)
    assert json.loads(first["d"]) == [0.5, None]
    assert second == {"arm": "a|b\nc, \x1b[31m", "mean": "", "seeds": "-1", "d": ""}


def test_markdown_escapes_bars_lines_and_controls() -> None:
    head, rule, first, second = to_markdown(TABLE).splitlines()
    assert head == "| arm | mean | seeds | d |"
    assert rule == "| --- | ---: | ---: | --- |"
    assert first == "| search | 0.1235 | 3 | 0.5, nan |"
    assert second == r"| a\|b c, \x1b[31m | - | -1 | - |"


@pytest.mark.parametrize("form", ["csv", "json", "parquet", "markdown"])
def test_written_files_are_one_for_each_report(tmp_path: Path, form: TableFormat) -> None:
    files = write_tables({"arms": TABLE, "final": TABLE.slice(0, 1)}, form, tmp_path / "new" / "folder")
    assert [file.stem for file in files] == ["arms", "final"]
    assert all(file.read_bytes() for file in files)
    if form == "parquet":
        assert pq.read_table(files[0]).select(["arm", "mean", "seeds"]) == TABLE.select(["arm", "mean", "seeds"])


def test_json_text_is_an_object_of_reports() -> None:
    parsed = json.loads(format_tables({"arms": TABLE}, "json"))
    assert parsed["arms"][0] == {"arm": "search", "mean": 0.123456789, "seeds": 3, "d": [0.5, None]}


def test_formats_that_need_files_say_so() -> None:
    with pytest.raises(SpecError, match="add --output FOLDER"):
        format_tables({"arms": TABLE}, "parquet")
    with pytest.raises(SpecError, match="2 reports do not fit into one CSV"):
        format_tables({"a": TABLE, "b": TABLE}, "csv")
