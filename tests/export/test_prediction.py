"""What a model says of a file: the column of the texts, empty rows, order, probabilities, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from raysearch.cli import main
from raysearch.errors import SpecError
from raysearch.export import prediction
from raysearch.training.teachers.files import read_guesses


class ByLength:
    """A classifier of short and long texts: p(long) = words / 10."""

    def __init__(self, labels: Sequence[str] = ("short", "long")) -> None:
        self.labels = list(labels)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [self.labels[i] for i in self.predict_proba(texts).argmax(1)]

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float64]:
        p = np.array([len(text.split()) / 10 for text in texts])
        return np.stack([1 - p, p], axis=1)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "load_model", lambda _: ByLength())


ROWS = ["one two three", "", "a text of eight words is rather long"]


def write_csv(folder: Path, texts: Sequence[str] = ROWS) -> Path:
    lines = ["id,comment", *(f"{i},{text}" for i, text in enumerate(texts))]
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    return folder / "texts.csv"


def test_predict_file_labels_the_rows_in_their_order(tmp_path: Path) -> None:
    table = prediction.predict_file(tmp_path, write_csv(tmp_path), by_class=True)
    assert table.to_pylist() == [
        {"text": ROWS[0], "label": "short", "probability": 0.7, "short": 0.7, "long": 0.3},
        {"text": None, "label": None, "probability": None, "short": None, "long": None},
        {"text": ROWS[2], "label": "long", "probability": 0.8, "short": pytest.approx(0.2), "long": 0.8},
    ]


def test_predict_file_is_the_same_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_csv(tmp_path, [f"text {'word ' * (i % 8)}" for i in range(20)])
    whole = prediction.predict_file(tmp_path, file)
    monkeypatch.setattr(prediction, "BATCH", 3)
    assert prediction.predict_file(tmp_path, file) == whole


def test_predict_file_reads_lines_and_named_columns(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one two three\nfour five six seven eight nine\n")
    assert prediction.predict_file(tmp_path, tmp_path / "lines.txt")["label"].to_pylist() == ["short", "long"]
    table = prediction.predict_file(tmp_path, write_csv(tmp_path), "id")
    assert table["text"].to_pylist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "content", "text", "problem"),
    [
        ("a.csv", "id,comment\n1,one two three\n", "coment", "no column 'coment'; did you mean 'comment'"),
        ("a.csv", "id,number\n1,2\n2,3\n", None, "no column of texts; --text names it: id, number"),
        ("a.doc", "x", None, "cannot read a .doc file as texts"),
        ("a.csv", "", None, "holds no rows|is empty"),
    ],
)
def test_predict_file_says_what_it_cannot_read(
    tmp_path: Path, name: str, content: str, text: str | None, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=problem):
        prediction.predict_file(tmp_path, tmp_path / name, text)


def test_a_label_named_like_a_column_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "load_model", lambda _: ByLength(["text", "long"]))
    with pytest.raises(SpecError, match="has a label 'text'"):
        prediction.predict_file(tmp_path, write_csv(tmp_path), by_class=True)


def predict(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["predict", *map(str, arguments)])
    assert end.value.code == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_writes_what_the_teacher_file_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    file = write_csv(tmp_path, [ROWS[0], ROWS[2]])
    predict(tmp_path, file, "--by-class", "--output", tmp_path / f"guesses{suffix}")
    assert capsys.readouterr().out == f"2 rows   {tmp_path}/guesses{suffix}\n"
    guesses = read_guesses(tmp_path / f"guesses{suffix}", ["long", "short"], lambda texts: [t.encode() for t in texts])
    assert {key.decode(): p.argmax() for key, p in guesses.by_text.items()} == {ROWS[0]: 1, ROWS[2]: 0}


def test_predict_prints_csv_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_csv(tmp_path)
    predict(tmp_path, file)
    assert capsys.readouterr().out.splitlines()[:2] == ["text,label,probability", f"{ROWS[0]},short,0.7"]
    predict(tmp_path, file, "--json")
    assert [row["label"] for row in json.loads(capsys.readouterr().out)] == ["short", None, "long"]


def test_predict_refuses_a_kind_of_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["predict", "model", "texts.csv", "--output", "labels.xlsx"])
    assert "--output: cannot write a .xlsx file; use .csv, .json, .parquet, .md" in capsys.readouterr().err


def test_predict_file_returns_an_arrow_table(tmp_path: Path) -> None:
    schema = prediction.predict_file(tmp_path, write_csv(tmp_path)).schema
    assert schema.types == [pa.string(), pa.string(), pa.float64()]
