"""The one order of configurations and trials, by mean, state, number and seed."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pytest

from raysearch.storage.best import CONFIGURATIONS, best_trial, best_trials, configurations, rank_configurations
from raysearch.storage.cells import Cell, list_cells
from raysearch.storage.schemas import TRIALS


def trial(
    number: int, score: float | None, *, seed: int = 0, state: str = "complete", arm: str = "search", **more: Any
) -> dict[str, Any]:
    row = {"trial_id": f"{arm}-{number}-s{seed}", "arm": arm, "role": "search", "number": number, "seed": seed}
    row |= {"state": state, "score": score, "best_step": 80, "steps": 100, "seconds": 1.5}
    return row | {"params": json.dumps({"k": number}), "plan": "{}"} | more


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TRIALS)


def best_id(rows: list[dict[str, Any]], seeds: list[int]) -> str | None:
    best = best_trial(table(rows), list_cells(seeds, 0, 1), "search")
    return best and best["trial_id"]


def test_best_trial_uses_the_mean_and_needs_all_seeds() -> None:
    scores = enumerate([(0.5, 0.5), (0.7, 0.2), (0.9,), (0.45, 0.56)])
    rows = [trial(number, score, seed=seed) for number, pair in scores for seed, score in enumerate(pair)]
    assert best_id(rows, [0, 1]) == "search-3-s1"
    assert best_id(rows, [0]) == "search-2-s0"
    assert best_id(rows, [0, 1, 2]) == "search-2-s0", "no configuration is complete on all seeds"


@pytest.mark.parametrize("shuffle", range(3))
def test_best_trial_on_ties_is_the_earliest_number_then_seed(shuffle: int) -> None:
    rows = [trial(number, 0.5, seed=seed) for number in (3, 1, 2) for seed in (7, 4)]
    rows += [trial(0, 0.25, seed=7), trial(0, 0.75, seed=4)]  # the same mean, from other scores
    random.Random(shuffle).shuffle(rows)
    assert best_id(rows, [7, 4]) == "search-0-s4"
    assert best_id([row for row in rows if row["number"]], [7, 4]) == "search-1-s7"


def test_best_trial_prefers_complete_and_is_never_failed() -> None:
    rows = [trial(0, 0.9, state="failed"), trial(1, 0.8, state="stopped"), trial(2, 0.1)]
    assert best_id(rows, [0]) == "search-2-s0"
    assert best_id(rows[:2], [0]) == "search-1-s0"
    assert best_id(rows[:1], [0]) is None
    assert best_id([trial(0, None, state="failed")], [0]) is None


def test_best_trial_ignores_other_arms_and_confirmations() -> None:
    rows = [trial(0, 0.2), trial(1, 0.9, arm="other"), trial(0, 0.95, seed=9, role="confirm")]
    assert best_id(rows, [0]) == "search-0-s0"
    assert best_trials(table(rows), [Cell(0)])["trial_id"].to_pylist() == ["search-0-s0", "other-1-s0"]


def test_configurations_are_ranked_over_all_arms() -> None:
    rows = [trial(0, 0.5), trial(0, 0.75, seed=1), trial(1, 0.65), trial(1, 0.65, seed=1), trial(5, 0.9)]
    rows += [trial(2, 0.9, state="stopped"), trial(3, None, state="failed"), trial(0, 0.65, arm="other")]
    rows += [trial(0, 0.65, arm="other", seed=1)]
    ranked = configurations(table(rows), list_cells([0, 1], 0, 1))
    assert ranked.schema.equals(CONFIGURATIONS, check_metadata=False)
    assert [(row["arm"], row["number"], row["state"], row["seeds"]) for row in ranked.to_pylist()] == [
        ("other", 0, "complete", 2),
        ("search", 1, "complete", 2),
        ("search", 0, "complete", 2),
        ("search", 5, "running", 1),
        ("search", 2, "stopped", 1),
        ("search", 3, "failed", 1),
    ]
    row = ranked.to_pylist()[2]
    assert (row["trial_id"], row["seconds"], row["params"]) == ("search-0-s1", 3.0, '{"k": 0}')
    assert (row["score"], row["sd"]) == (0.625, pytest.approx(0.25 / 2**0.5))


def test_rank_configurations_tells_which_are_unfinished() -> None:
    rows = [trial(0, 0.5), trial(1, 0.4), trial(1, None, seed=1, state="failed"), trial(2, 0.3), trial(2, 0.3, seed=1)]
    ranked = rank_configurations(rows, list_cells([0, 1], 0, 1))
    assert [(c.number, c.is_complete, c.is_unfinished) for c in ranked] == [
        (2, True, False),
        (0, False, True),
        (1, False, False),
    ]
