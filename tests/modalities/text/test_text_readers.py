import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysearch.errors import SpecError
from raysearch.modalities.text.readers import read_hub_data_set, read_text_rows
from raysearch.modalities.text.token_labels import read_tagged_rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text": \n', r"a\.jsonl:2: not JSON: "),
        ("a.jsonl", b'\n["x", "y"]\n', r"a\.jsonl:2: a line must be one JSON object"),
        ("a.jsonl", b'{"text": "x", "lable": "y"}\n', r"a\.jsonl:1: label: no such column; did you mean 'lable'\?"),
        ("a.jsonl", b'{"text": " ", "label": "y"}\n', r"a\.jsonl:1: text: the text is empty"),
        ("a.jsonl", b'{"text": 3, "label": "y"}\n', r"a\.jsonl:1: text: not a text: 3"),
        ("a.jsonl", b'{"text": "x", "label": null}\n', r"a\.jsonl:1: label: the label is empty"),
        (
            "a.jsonl",
            b'{"text": "x", "label": 0.5}\n',
            r"a\.jsonl:1: label: a label is a word or a whole number, got 0\.5",
        ),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n\xff\n', r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", b"\n", r"a\.jsonl: holds no rows"),
        ("a.csv", b'text,label\n"x\ny",z\nw\n', r"a\.csv:4: 1 fields where the header has 2"),
        ("a.csv", b"txt,label\nx,y\n", r"a\.csv:1: no column 'text' in the header; did you mean 'txt'\?"),
        ("a.csv", b'text,label\n"x', r"a\.csv:2: not CSV: "),
        ("a.csv", b'text,label\n"x\n\ny",z\n"",z\n', r"a\.csv:5: text: the text is empty"),
        ("a.parquet", b"no parquet", r"a\.parquet: not Parquet: "),
        ("a.txt", b"x\n", r"a\.txt: cannot read a \.txt file as rows; use \.jsonl, "),
    ],
)
def test_read_text_rows_invalid_row_is_rejected_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError, match=message):
        read_text_rows(tmp_path / name, "text", "label")


def test_read_text_rows_gives_equal_rows_for_all_file_types(tmp_path: Path) -> None:
    texts, labels = ['one,\n two \u2028 "three"', "four\u0085five"], ["a", "b"]
    lines = [json.dumps({"label": label, "text": text, "x": 1}) for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\r\n".join(lines))
    (tmp_path / "a.csv").write_text('x,label,text\n1,a,"one,\n two \u2028 ""three"""\n1,b,four\u0085five\n', newline="")
    pq.write_table(pa.table({"text": texts, "label": labels, "x": [1, 1]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        rows = read_text_rows(tmp_path / name, "text", "label")
        assert (rows.texts, rows.labels) == (texts, labels)
        assert read_text_rows(tmp_path / name, "text", None).labels == []


def test_read_text_rows_parquet_error_has_the_row_number(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x", None], "label": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(SpecError, match=r"a\.parquet: row 2: text: the text is empty"):
        read_text_rows(tmp_path / "a.parquet", "text", "label")


def test_read_hub_uses_the_datasets_package(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    labelled = [(f"text {i}", "ab"[i % 2]) for i in range(6)]
    lines = [json.dumps({"text": text, "label": label}) for text, label in labelled]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    rows = read_hub_data_set(str(tmp_path), "text", "label")
    assert sorted(rows) == ["dev", "test", "train"]
    assert list(zip(rows["dev"].texts, rows["dev"].labels, strict=True)) == labelled


def test_read_hub_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SpecError, match=r"task\.hub: hub data set 'imdb' needs .*pip install 'raysearch\[datasets\]'"):
        read_hub_data_set("imdb", "text", "label")


def class_label_table(columns: dict[str, list[object]], features: dict[str, object]) -> pa.Table:
    """A table with the features that the datasets library stores in a Parquet file's schema."""
    stored = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": stored})


def test_read_text_rows_uses_stored_names_of_classes(tmp_path: Path) -> None:
    names: dict[str, object] = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    pq.write_table(class_label_table({"text": ["x", "y"], "label": [1, 0]}, names), tmp_path / "a.parquet")
    assert read_text_rows(tmp_path / "a.parquet", "text", "label").labels == ["pos", "neg"]
    pq.write_table(class_label_table({"text": ["x", "y"], "label": [1, -1]}, names), tmp_path / "a.parquet")
    assert read_text_rows(tmp_path / "a.parquet", "text", "label", may_be_hidden=True).labels == ["pos", "-1"]
    with pytest.raises(SpecError, match=r"a\.parquet: row 2: label: -1 is not the number of a class"):
        read_text_rows(tmp_path / "a.parquet", "text", "label")


@pytest.mark.parametrize(
    "metadata", [b"", b"[]", b"null", b"{", b'{"info": null}', b'{"info": {"features": {"label": 3}}}', b"\xff"]
)
def test_read_text_rows_ignores_metadata_of_another_kind(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"text": ["x", "y"], "label": [1, 0]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_text_rows(tmp_path / "a.parquet", "text", "label").labels == ["1", "0"]


@pytest.mark.parametrize("is_list", [True, False])
def test_read_tagged_rows_uses_stored_names_of_tags(tmp_path: Path, is_list: bool) -> None:
    names = {"names": ["O", "PER"], "_type": "ClassLabel"}
    feature = [names] if is_list else {"feature": names, "_type": "Sequence"}
    table = class_label_table({"words": [["Ann", "ran"]], "tags": [[1, 0]]}, {"tags": feature})
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_tagged_rows(tmp_path / "a.parquet", "words", "tags").tags) == [["PER", "O"]]


def stub_datasets(monkeypatch: pytest.MonkeyPatch, splits: dict[str, pa.Table], names: list[str] | None) -> None:
    """Puts a module `datasets` in place whose load_dataset returns these splits."""

    class Table:
        def __init__(self, table: pa.Table) -> None:
            self.table, self.column_names = table, table.column_names
            self.features = {name: types.SimpleNamespace(names=names) for name in table.column_names}

        def __len__(self) -> int:
            return int(self.table.num_rows)

        def select_columns(self, columns: list[str]) -> list[dict[str, object]]:
            rows: list[dict[str, object]] = self.table.select(columns).to_pylist()
            return rows

    tables = {name: Table(table) for name, table in splits.items()}
    module = types.SimpleNamespace(load_dataset=lambda *_: tables)
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_read_hub_notes_splits_that_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"text": ["x", "y"], "label": [0, 1]})
    hidden = pa.table({"text": ["x", "y"], "label": [-1, -1]})
    stub_datasets(monkeypatch, {"train": table, "valid": table, "test": hidden, "unsupervised": table}, ["neg", "pos"])
    parts = read_hub_data_set("films", "text", "label")
    assert {name: rows.labels for name, rows in parts.items()} == {
        "train": ["neg", "pos"],
        "dev": ["neg", "pos"],
        "test": ["-1", "-1"],
    }
    assert list(parts["train"].notes) == ["films: splits that are not used: unsupervised (2 rows)"]
