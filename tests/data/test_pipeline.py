"""The pipeline that prepares the data of any modality, with a modality of words."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysearch.data.pipeline import prepare
from raysearch.data.prepared import PreparedData, Split, Splits, load_prepared_data, write_split
from raysearch.data.splits import split_parts
from raysearch.errors import SpecError


@dataclass(frozen=True)
class WordTask:
    base: str
    train: str = "train.txt"
    test: str | None = None
    name: str = "words"


@dataclass(frozen=True)
class Words:
    source: str
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> Words:
        return Words(self.source, [self.keys[i] for i in rows])


@dataclass(frozen=True)
class WordSplit:
    words: pa.Array
    labels: None = None

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(word.as_py()) for word in self.words])

    def __len__(self) -> int:
        return len(self.words)

    def row(self, i: int) -> np.ndarray:
        raise NotImplementedError


class WordPreparation:
    folder_suffixes: Collection[str] = (".txt",)

    def files(self, task: WordTask) -> dict[str, str | None]:
        return {"train": task.train, "test": task.test}

    def source(self, task: WordTask, model: Mapping[str, Any], digests: Mapping[str, str | None]) -> dict[str, Any]:
        return {**digests, "model": dict(model), "name": task.name}

    def read_splits(self, task: WordTask, paths: Mapping[str, Path | None]) -> dict[str, Words]:
        del task
        parts = {part: Words(str(path), path.read_text().split()) for part, path in paths.items() if path}
        return split_parts(parts, {"dev": 0.4}, 0.5)

    def write_splits(
        self, folder: Path, task: WordTask, model: Mapping[str, Any], splits: Mapping[str, Words]
    ) -> dict[str, Any]:
        del model
        for name, words in splits.items():
            if "unwritable" in words.keys:
                raise SpecError("cannot be written", file=words.source)
            write_split(folder / f"{name}.arrow", pa.RecordBatch.from_pydict({"words": list(words.keys)}))
        sizes = {name: len(words) for name, words in splits.items()}
        return {"task": task.name, "metric": "accuracy", "labels": [], "sizes": sizes}

    def notes(self, splits: Mapping[str, Words], metadata: Mapping[str, Any]) -> list[str]:
        return [f"{len(splits)} splits", f"{metadata['leaks']['test in train']} leaks"]

    def decode(self, batch: pa.RecordBatch) -> Split:
        return WordSplit(batch.column("words"))


@pytest.fixture
def task(tmp_path: Path) -> WordTask:
    (tmp_path / "train.txt").write_text(" ".join(f"word{i}" for i in range(10)))
    (tmp_path / "test.txt").write_text("other words words")
    return WordTask(str(tmp_path), test="test.txt")


def prepare_words(task: WordTask, folder: Path, model: Mapping[str, Any] | None = None) -> PreparedData:
    return prepare(WordPreparation(), task, model or {}, folder, None)


def test_prepare_writes_splits_and_metadata(task: WordTask, tmp_path: Path) -> None:
    prepared = prepare_words(task, tmp_path / "data")
    assert prepared == load_prepared_data(tmp_path / "data")
    assert prepared.sizes == {"train": 6, "meta_dev": 2, "select_dev": 2, "test": 3}
    assert prepared.notes == ("4 splits", "0 leaks")
    metadata = json.loads((tmp_path / "data" / "data.json").read_text())
    assert metadata["duplicates"] == {"train": 0, "meta_dev": 0, "select_dev": 0, "test": 1}
    assert list(metadata["source"]) == ["train", "test", "model", "name"]


def test_prepare_again_keeps_the_folder(task: WordTask, tmp_path: Path) -> None:
    prepared = prepare_words(task, tmp_path / "data")
    stamps = {file: file.stat().st_mtime_ns for file in prepared.folder.iterdir()}
    assert prepare_words(task, tmp_path / "data") == prepared
    assert {file: file.stat().st_mtime_ns for file in prepared.folder.iterdir()} == stamps


def test_prepare_for_another_model_names_what_changed(task: WordTask, tmp_path: Path) -> None:
    prepare_words(task, tmp_path / "data")
    with pytest.raises(SpecError, match=r"data: was prepared from other data or settings \(model changed\)"):
        prepare_words(task, tmp_path / "data", {"size": 2})


def test_prepare_failure_leaves_no_folder_and_no_draft(task: WordTask, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("unwritable")
    with pytest.raises(SpecError, match=r"test\.txt: cannot be written"):
        prepare_words(task, tmp_path / "run" / "data")
    assert list((tmp_path / "run").iterdir()) == []


def test_prepare_missing_file_error_names_its_key(task: WordTask, tmp_path: Path) -> None:
    (tmp_path / "test.txt").unlink()
    with pytest.raises(SpecError, match=r"^task\.test: no file .*test\.txt; name the folder"):
        prepare_words(task, tmp_path / "data")


def test_trial_splits_refuse_test_and_unknown_names(task: WordTask, tmp_path: Path) -> None:
    prepared = prepare_words(task, tmp_path / "data")
    splits = Splits(prepared.folder, WordPreparation().decode)
    assert len(splits("train")) == 6
    assert splits("train") is splits("train")
    with pytest.raises(ValueError, match="a trial may not open the test split"):
        splits("test")
    with pytest.raises(SpecError, match="no split 'trian'; did you mean 'train'"):
        splits("trian")
