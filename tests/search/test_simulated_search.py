"""Whole searches under simulated time: late, lost and repeated messages, workers and drivers that die, faulty disks."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import simulated_search
from helpers.simulated_search import make_scenario, run_schedule

from raysearch.config.search_config import Search
from raysearch.executors.trial_queue import TrialQueue
from raysearch.storage.schemas import Report

FEW, MANY = range(12), range(100, 200)  # seeds


@pytest.fixture(scope="module")
def searches() -> dict[str, Search]:
    return {}


def problems_of(seeds: range, task: dict[str, str], folder: Path, searches: dict[str, Search]) -> dict[int, list[str]]:
    """What is wrong after the schedules of some seeds, by seed; benchmarks/simulation.py repeats one."""
    outcomes = {seed: run_schedule(seed, task, folder, searches)[0] for seed in seeds}
    return {seed: problems for seed, problems in outcomes.items() if problems}


def test_schedules_of_a_few_seeds_end_exactly(
    tiny_task: dict[str, str], tmp_path: Path, searches: dict[str, Search]
) -> None:
    assert problems_of(FEW, tiny_task, tmp_path, searches) == {}


@pytest.mark.slow
def test_schedules_of_many_seeds_end_exactly(
    tiny_task: dict[str, str], tmp_path: Path, searches: dict[str, Search]
) -> None:
    assert problems_of(MANY, tiny_task, tmp_path, searches) == {}


def test_schedule_of_a_seed_is_always_the_same(
    tiny_task: dict[str, str], tmp_path: Path, searches: dict[str, Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[list[Any]] = []
    check = simulated_search.violations

    def keep_end(run: Any, *others: Any) -> list[str]:
        ends.append([(row["trial_id"], row["attempts"], row["score"]) for row in run.trials().to_pylist()])
        return check(run, *others)

    monkeypatch.setattr(simulated_search, "violations", keep_end)
    counts = [run_schedule(3, tiny_task, tmp_path, searches)[1] for _ in range(2)]
    assert counts[0] == counts[1]
    assert ends[0] == ends[1] != []


def test_schedules_differ_in_all_that_they_vary(tiny_task: dict[str, str], searches: dict[str, Search]) -> None:
    scenarios = [make_scenario(random.Random(seed), tiny_task, searches) for seed in range(60)]
    assert {scenario.world for scenario in scenarios} == {1, 2}
    assert {scenario.search.scheduler.stops_trials for scenario in scenarios} == {False, True}
    assert {scenario.disorder.repeated > 0 for scenario in scenarios} == {False, True}
    assert {scenario.disorder.controller_life > 0 for scenario in scenarios} == {False, True}


def test_simulation_sees_a_report_that_is_lost(
    tiny_task: dict[str, str], tmp_path: Path, searches: dict[str, Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_reports, calls = TrialQueue.add_reports, Counter[str]()

    def add_most(self: TrialQueue, trial: Any, reports: list[Report]) -> None:
        calls["all"] += 1
        add_reports(self, trial, reports if calls["all"] != 3 else [])

    monkeypatch.setattr(TrialQueue, "add_reports", add_most)
    assert problems_of(range(1), tiny_task, tmp_path, searches)
