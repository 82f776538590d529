"""Which arm is exported: by means over fresh seeds, else by what the search has scored."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from raysearch.storage.arm_choice import best_arm
from raysearch.storage.best import best_trial
from raysearch.storage.cells import Cell
from raysearch.storage.schemas import TRIALS

CELLS = [Cell(0)]
ARMS = ["search", "fine_tune", "tfidf_lr"]


def trial(arm: str, number: int, score: float | None, seed: int = 0, role: str = "search", **more: Any) -> Any:
    row = {"trial_id": f"{arm}-{number}-s{seed}", "arm": arm, "role": role, "number": number, "seed": seed}
    row |= {"state": "complete", "score": score, "best_step": 80, "steps": 100, "seconds": 1.5}
    return row | {"params": json.dumps({"k": number}), "plan": "{}"} | more


def table(rows: list[Any]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TRIALS)


def confirmed(arm: str, number: int, *scores: float | None) -> list[Any]:
    return [trial(arm, number, score, 101 + i, "confirm") for i, score in enumerate(scores) if score is not None]


def test_best_arm_without_fresh_seeds_uses_search_scores() -> None:
    choice = best_arm(
        table([trial("search", 0, 0.3), trial("fine_tune", 2, 0.5), trial("search", 1, 0.4)]), CELLS, ARMS
    )
    assert choice is not None
    assert [(each.arm, each.number, each.score) for each in choice.ranked] == [
        ("fine_tune", 2, 0.5),
        ("search", 1, 0.4),
    ]
    assert not choice.is_fresh
    best = "it has the highest accuracy of its best configuration: 0.5000; search 0.4000."
    assert choice.reason("accuracy") == f"Arm fine_tune is exported because {best}"


def test_best_arm_with_fresh_seeds_ignores_what_chose() -> None:
    rows = [trial("search", 0, 0.9), trial("fine_tune", 0, 0.3), trial("tfidf_lr", 0, 0.99)]
    rows += [*confirmed("search", 0, 0.2, 0.3), *confirmed("fine_tune", 0, 0.4, 0.5)]
    choice = best_arm(table(rows), CELLS, ARMS)
    assert choice is not None
    assert [(each.arm, each.score, each.seeds) for each in choice.ranked] == [
        ("fine_tune", pytest.approx(0.45), (101, 102)),
        ("search", pytest.approx(0.25), (101, 102)),
    ]
    assert choice.unrepeated == ("tfidf_lr",)
    assert choice.reason("accuracy") == (
        "Arm fine_tune is exported because it has the highest mean accuracy over 2 fresh seeds: 0.4500; search 0.2500."
    )


def test_best_arm_means_are_over_the_seeds_that_all_share() -> None:
    rows = [trial("search", 0, 0.9), trial("fine_tune", 0, 0.3)]
    rows += [*confirmed("search", 0, 0.5, 0.1, 0.1), *confirmed("fine_tune", 0, 0.4, None, 0.15)]
    choice = best_arm(table(rows), CELLS, ARMS)
    assert choice is not None
    assert [(each.arm, each.score) for each in choice.ranked] == [
        ("search", pytest.approx(0.3)),
        ("fine_tune", pytest.approx(0.275)),
    ]
    assert choice.best.fresh == {101: 0.5, 102: 0.1, 103: 0.1}


def test_best_arm_uses_the_configuration_repeated_last() -> None:
    rows = [
        trial("search", 0, 0.5),
        *confirmed("search", 0, 0.9),
        trial("search", 1, 0.6),
        *confirmed("search", 1, 0.4),
    ]
    choice = best_arm(table(rows), CELLS, ARMS)
    assert choice is not None
    assert (choice.best.number, choice.best.score) == (1, 0.4)
    assert best_trial(table(rows), CELLS, "search", number=0)["trial_id"] == "search-0-s0"


def test_best_arm_on_a_tie_is_the_one_declared_first() -> None:
    choice = best_arm(table([trial("fine_tune", 0, 0.5), trial("search", 0, 0.5)]), CELLS, ARMS)
    assert choice is not None
    assert choice.best.arm == "search"


def test_best_arm_ignores_failures_and_nothing_gives_none() -> None:
    failed = [trial("search", 0, None, state="failed")]
    assert best_arm(table(failed), CELLS, ARMS) is None
    rows = [*failed, trial("fine_tune", 0, 0.1), trial("fine_tune", 0, None, 101, "confirm", state="failed")]
    choice = best_arm(table(rows), CELLS, ARMS)
    assert choice is not None
    assert choice.reason("accuracy").startswith("Arm fine_tune is exported, the only one with a score; accuracy of its")
    assert "it has no score to compare" in choice.reason("accuracy", "search")
