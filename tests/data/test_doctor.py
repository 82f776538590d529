"""The data doctor counts what a plain count gives, and says it with a remedy."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from raysearch.data import doctor
from raysearch.data.doctor import DataFacts


@dataclass(frozen=True)
class Rows:
    keys: Sequence[str]
    labels: Sequence[object] = field(default_factory=list)
    source: str = "rows"

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> Rows:
        return Rows([self.keys[i] for i in rows], [self.labels[i] for i in rows])


def test_facts_count_repetitions_apart_from_case_and_spaces() -> None:
    facts = doctor.gather_facts(
        {
            "train": Rows(["A cat", "a  cat", "a dog", "a bird"], ["x", "y", "x", "x"]),
            "select_dev": Rows(["A CAT", "a dog", "a cow"], ["x", "x", "y"]),
            "test": Rows(["a cow", "a horse"], ["x", "y"]),
            "domain": Rows(["a cat", "a cat"]),
        }
    )
    assert facts.rows == {"train": 4, "select_dev": 3, "test": 2, "domain": 2}
    assert facts.duplicates == {"train": 1, "select_dev": 0, "test": 0, "domain": 1}
    assert facts.leaks == {"select_dev in train": 2, "test in train": 0, "test in select_dev": 1}
    assert facts.exact_leaks == {"select_dev in train": 1, "test in train": 0, "test in select_dev": 1}
    assert (facts.conflicts, facts.exact_conflicts) == (1, 0)
    assert facts.classes == {"train": {"x": 3, "y": 1}, "select_dev": {"x": 2, "y": 1}, "test": {"x": 1, "y": 1}}
    assert DataFacts.from_plain(facts.to_plain()) == facts


@pytest.mark.parametrize("labels", [[0.5, 1.5, 2.5], [(0, 1), (1, 1), (0, 0)]])
def test_facts_of_numbers_and_several_labels_have_no_classes(labels: list[object]) -> None:
    facts = doctor.gather_facts({"train": Rows(["a", "b", "c"], labels)})
    assert (facts.classes, facts.conflicts) == ({}, 0)
    assert doctor.majority_score(facts, "macro_f1") is None
    assert doctor.describe(facts, "mean_auc") == {"rows": "train 3"}


@pytest.mark.parametrize("metric", ["accuracy", "micro_f1", "macro_f1"])
def test_majority_score_is_that_of_a_constant_prediction(metric: str) -> None:
    chance = random.Random(0)
    labels = {name: chance.choices("abc", (6, 3, 1), k=80) for name in ("train", "select_dev")}
    facts = doctor.gather_facts({name: Rows(list(map(str, range(80))), split) for name, split in labels.items()})
    constant = ["a"] * 80
    dev = labels["select_dev"]
    expected = (
        accuracy_score(dev, constant)
        if metric == "accuracy"
        else f1_score(dev, constant, average=metric.removesuffix("_f1"), labels=list("abc"), zero_division=0)
    )
    assert doctor.majority_score(facts, metric) == pytest.approx(expected)


def test_standard_error_is_the_spread_of_simulated_scores() -> None:
    counts = {"a": 60, "b": 40, "c": 20}
    facts = DataFacts(rows={"select_dev": 120}, classes={"select_dev": counts})
    hits = np.random.default_rng(0).random((4000, 120)) < doctor.TYPICAL_SCORE
    error = doctor.standard_error(facts, "accuracy")
    assert error == pytest.approx(hits.mean(axis=1).std(), rel=0.05)
    recalls = np.stack([part.mean(axis=1) for part in np.split(hits, [60, 100], axis=1)])
    assert doctor.standard_error(facts, "macro_f1") == pytest.approx(recalls.mean(axis=0).std(), rel=0.05)


def test_standard_error_of_r2_is_the_spread_of_simulated_scores() -> None:
    chance = np.random.default_rng(0)
    x, noise = chance.standard_normal((2, 2000, 400))
    y = math.sqrt(0.75) * x + math.sqrt(0.25) * noise
    squares = np.array([np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(x, y, strict=True)])
    error = doctor.standard_error(DataFacts(rows={"select_dev": 400}), "r2")
    assert error == pytest.approx(squares.std(), rel=0.1)


def test_cross_validated_score_rests_on_all_labelled_rows() -> None:
    facts = DataFacts(rows={"train": 100, "meta_dev": 20, "select_dev": 20, "test": 50})
    wide = doctor.standard_error(facts, "accuracy")
    narrow = doctor.standard_error(facts, "accuracy", is_cross_validated=True)
    assert wide is not None
    assert narrow is not None
    assert wide / narrow == pytest.approx(math.sqrt(140 / 20))
    assert any("only 20 rows" in note for note in doctor.warn(facts, "accuracy"))
    assert doctor.warn(facts, "accuracy", is_cross_validated=True) == []


def test_warning_states_the_share_that_max_length_cuts() -> None:
    facts = doctor.gather_facts({"train": Rows(["a"])}, list(range(1, 201)))
    assert facts.share_cut(64) == pytest.approx(136 / 200, abs=0.01)
    (note,) = doctor.warn(facts, "accuracy", max_length=64)
    assert note.startswith("max_length 64 cuts 68% of the train texts (half have 101 tokens or more)")
    assert "--set settings.max_length=192 cuts 4%" in note
    assert doctor.warn(facts, "accuracy", max_length=192) == []
    assert doctor.warn(facts, "accuracy", max_length=None) == []


def test_warnings_name_rare_classes_and_near_leaks() -> None:
    train = Rows([f"t{i}" for i in range(300)], ["a"] * 297 + ["b"] * 3)
    dev = Rows([*(f"d{i}" for i in range(299)), "T5"], ["a"] * 298 + ["b"] * 2)
    notes = doctor.warn(doctor.gather_facts({"train": train, "select_dev": dev}), "macro_f1")
    assert notes == [
        "1 select_dev row stands in train with another case or other spaces: scores on select_dev are too high",
        "class b has fewer than 5 train rows",
        "class b has fewer than 5 select-dev rows: there one prediction moves macro_f1 by about 0.25",
    ]
