"""Splitting by hash, leaks between splits, and the order of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from raysearch.data.splits import (
    count_leaks,
    leak_notes,
    sort_labels,
    split_by_hash,
    split_keeping_classes,
    split_parts,
)
from raysearch.errors import SpecError


@dataclass(frozen=True)
class Words:
    """Examples that are their own keys."""

    source: str
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> Words:
        return Words(self.source, [self.keys[i] for i in rows])


def test_split_by_hash_depends_on_content_and_not_on_order() -> None:
    texts = [f"text {i}" for i in range(100)]
    split_of = split_by_hash(texts, {"dev": 0.2, "test": 0.3}, "split")
    assert split_of == split_by_hash(texts[::-1], {"dev": 0.2, "test": 0.3}, "split")
    assert [list(split_of.values()).count(name) for name in ("dev", "test", "")] == [20, 30, 50]
    assert split_of != split_by_hash(texts, {"dev": 0.2, "test": 0.3}, "meta_dev")


def test_split_by_hash_takes_at_least_one_and_leaves_remainder() -> None:
    assert list(split_by_hash("ab", {"dev": 0.1}, "split").values()).count("dev") == 1
    assert split_by_hash("a", {"dev": 0.1}, "split") == {"a": "dev"}
    assert split_by_hash("a", {"dev": 0.1}, "split", remainder=1) == {"a": ""}
    assert split_by_hash("ab", {"dev": 0.0}, "split") == {"a": "", "b": ""}


def test_split_by_hash_with_fractions_of_one_is_rejected() -> None:
    with pytest.raises(SpecError, match=r"task\.split: the fractions leave nothing to train on"):
        split_by_hash("abc", {"dev": 0.5, "test": 0.5}, "split")


def test_split_parts_splits_train_only_for_missing_parts() -> None:
    train = Words("train.csv", [f"{i}" for i in range(20)])
    test, extra = Words("test.csv", ["x", "y"]), Words("extra.csv", ["z"])
    splits = split_parts({"train": train, "test": test, "extra_more": extra}, {"dev": 0.2}, 0.5)
    assert list(splits) == ["train", "meta_dev", "select_dev", "test", "extra_more"]
    assert [len(words) for words in splits.values()] == [16, 2, 2, 2, 1]
    assert splits["test"] is test


@pytest.mark.parametrize(("rows", "empty"), [(["a"], "train"), (["a", "b"], "select_dev")])
def test_split_parts_with_too_few_rows_names_the_empty_split(rows: list[str], empty: str) -> None:
    with pytest.raises(SpecError, match=rf"^few\.csv: no rows are left for {empty}"):
        split_parts({"train": Words("few.csv", rows)}, {"dev": 0.5, "test": 0}, 0.9)


def test_count_leaks_counts_rows_of_held_out_splits() -> None:
    keys = {"train": ["a", "b"], "select_dev": ["a"], "test": ["a", "a", "c"], "domain": ["c"], "extra_x": ["c"]}
    leaks = count_leaks(keys)
    assert leaks == {
        "select_dev in train": 1,
        "select_dev in domain": 0,
        "select_dev in extra_x": 0,
        "test in train": 2,
        "test in domain": 1,
        "test in extra_x": 1,
        "test in select_dev": 2,
    }
    sizes = {name: len(rows) for name, rows in keys.items()}
    assert leak_notes(leaks, sizes, "rows also stand") == [
        "1 of 1 select_dev rows also stand in train",
        "2 of 3 test rows also stand in train",
        "1 of 3 test rows also stand in extra_x",
        "2 of 3 test rows also stand in select_dev",
    ]


def test_sort_labels_puts_numbers_by_value_before_words() -> None:
    assert sort_labels(["b", "10", "9", "a", "10"]) == ["9", "10", "a", "b"]


def test_sort_labels_of_thousands_of_digits_are_sorted() -> None:
    long = "1" * 5000
    assert sort_labels([long, "07", "7", "12", "x"]) == ["07", "7", "12", long, "x"]


@pytest.mark.parametrize("seed", range(30))
def test_split_parts_keeps_rare_classes_in_every_split(seed: int) -> None:
    counts = {"common": 70} | {f"rare{i}": 3 for i in range(9)} | {"single": 1}
    classes = {f"{seed} {name} {i}": name for name, count in counts.items() for i in range(count)}
    train = Words("train.csv", list(classes))
    splits = split_parts({"train": train}, None, 0.5, lambda words: [classes[key] for key in words.keys])
    present = {name: {classes[key] for key in words.keys} for name, words in splits.items()}
    assert present["train"] == set(counts)
    assert present["test"] == set(counts) - {"single"}
    assert present["meta_dev"] | present["select_dev"] == set(counts) - {"single"}
    assert sorted(key for words in splits.values() for key in words.keys) == sorted(classes)


def test_split_keeping_classes_changes_nothing_if_none_is_lost() -> None:
    keys = [f"{i}" for i in range(300)]
    classes = [f"{i % 3}" for i in range(300)]
    plain = split_by_hash(keys, {"dev": 0.1, "test": 0.1}, "split")
    assert split_keeping_classes(keys, classes, {"dev": 0.1, "test": 0.1}, "split", rest_has_all=True) == plain


def test_split_keeping_classes_leaves_equal_keys_together() -> None:
    keys, classes = ["same", "same", "a", "b", "c"], ["x", "y", "x", "y", "y"]
    split_of = split_keeping_classes(keys, classes, {"dev": 0.4}, "split", rest_has_all=True)
    assert set(split_of) == {"same", "a", "b", "c"}


def test_split_keeping_classes_leaves_some_of_every_class() -> None:
    keys = [f"{i % 700}" for i in range(1000)]  # 300 keys are of two classes
    classes = [f"{i // 2}" for i in range(1000)]
    split_of = split_keeping_classes(keys, classes, {"dev": 0.1, "test": 0.1}, "split", rest_has_all=True)
    assert {name for key, name in zip(keys, classes, strict=True) if not split_of[key]} == set(classes)


def test_split_parts_says_how_many_labels_left_no_rows() -> None:
    words = Words("texts.csv", [f"{i}" for i in range(50)])
    problem = r"no rows are left for select_dev \(50 rows, 50 distinct, with 50 labels\)"
    with pytest.raises(SpecError, match=problem):
        split_parts({"train": words}, None, 0.5, lambda words: words.keys)
