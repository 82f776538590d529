"""Partitions of labelled rows: a law for all sizes, and what a fold's trial sees of prepared data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.data.folds import FoldedSplits, FoldView, classes_of, partition
from raysearch.data.prepared import write_split
from raysearch.modalities.table.dataset import TablePreparation


@given(
    labels=st.lists(st.integers(0, 4), min_size=10, max_size=80),
    folds=st.integers(2, 6),
    duplicates=st.lists(st.integers(0, 9), max_size=8),
    salt=st.text(max_size=4),
)
def test_partition_spreads_labels_and_keeps_duplicates(
    labels: list[int], folds: int, duplicates: list[int], salt: str
) -> None:
    rows = [*range(len(labels)), *duplicates]
    contents = [str(row).encode() for row in rows]
    fold_of = partition(contents, [labels[row] for row in rows], folds, salt)
    assert set(fold_of) <= set(range(folds))
    first = dict(zip(rows[: len(labels)], fold_of, strict=False))
    assert all(first[row] == fold for row, fold in zip(rows, fold_of, strict=True))
    sizes = Counter(fold_of[: len(labels)].tolist())
    assert max(sizes.values()) - min(sizes[fold] for fold in range(folds)) <= len(set(labels))
    for label in set(labels):
        counts = Counter(int(first[row]) for row in range(len(labels)) if labels[row] == label)
        assert max(counts.values()) - min(counts[fold] for fold in range(folds)) <= 1


def test_partition_follows_contents_not_their_order() -> None:
    contents = [bytes([i]) for i in range(40)]
    labels = [i % 3 for i in range(40)]
    order = np.random.default_rng(0).permutation(40)
    straight = partition(contents, labels, 5, "0/0")
    shuffled = partition([contents[i] for i in order], [labels[i] for i in order], 5, "0/0")
    assert (shuffled == straight[order]).all()
    assert (partition(contents, labels, 5, "0/1") != straight).any()


def test_partition_of_too_few_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="2 distinct rows cannot be divided into 3 folds"):
        partition([b"a", b"b", b"a"], None, 3, "")


def test_classes_of_labels_are_patterns_and_numbers_have_none() -> None:
    assert classes_of(np.array([1, 0])) == [1, 0]
    several = classes_of(np.array([[1, 0], [0, 1], [1, 0]]))
    assert several is not None
    assert several[0] == several[2] != several[1]
    assert classes_of(np.array([0.5, 1.5])) is None


def write_rows(folder: Path, name: str, numbers: list[int]) -> None:
    features = pa.FixedSizeListArray.from_arrays(pa.array([float(n) for n in numbers], pa.float32()), 1)
    labels = pa.array([n % 2 for n in numbers], pa.int32())
    write_split(folder / f"{name}.arrow", pa.RecordBatch.from_pydict({"features": features, "label": labels}))


def numbers_of(splits: FoldedSplits, name: str) -> set[int]:
    split = splits(name)
    numbers = [int(split.row(i)[0]) for i in range(len(split))]
    assert split.labels is not None
    assert [n % 2 for n in numbers] == split.labels.tolist()
    return set(numbers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, first in (("train", 0), ("meta_dev", 20), ("select_dev", 23), ("extra_more", 50), ("test", 90)):
        write_rows(
            tmp_path, name, list(range(first, first + (20 if name == "train" else 3 if name == "meta_dev" else 7)))
        )
    return tmp_path


@pytest.mark.parametrize("has_meta_dev", [False, True])
def test_folds_score_every_labelled_row_once(folder: Path, has_meta_dev: bool) -> None:
    scored: list[int] = []
    for fold in range(5):
        splits = FoldedSplits(folder, TablePreparation().decode, FoldView(5, fold, "0/0", has_meta_dev))
        parts = [numbers_of(splits, name) for name in ("train", "meta_dev", "select_dev")]
        assert sum(map(len, parts)) == 30
        assert set.union(*parts) == set(range(30))
        assert len(parts[1]) == (6 if has_meta_dev else 0)
        scored += parts[2]
        assert numbers_of(splits, "extra_more") == set(range(50, 57))
        with pytest.raises(ValueError, match="may not open the test split"):
            splits("test")
    assert sorted(scored) == list(range(30))


def test_refit_trains_on_all_labelled_rows(folder: Path) -> None:
    splits = FoldedSplits(folder, TablePreparation().decode, FoldView(5, None, "0/0", False))
    assert numbers_of(splits, "train") == numbers_of(splits, "select_dev") == set(range(30))
    splits = FoldedSplits(folder, TablePreparation().decode, FoldView(5, None, "0/0", True))
    assert len(numbers_of(splits, "meta_dev")) == 6
    assert numbers_of(splits, "train") | numbers_of(splits, "meta_dev") == set(range(30))
