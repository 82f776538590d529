"""A run whose scores say less than they seem to is told so, in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raysearch.data.doctor import DataFacts
from raysearch.reports import run_doctor
from raysearch.reports.page import write_html
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run

Trial = tuple[float | None, int]  # its score, None if it failed, and the step of that score

FACTS = DataFacts(
    rows={"train": 80, "meta_dev": 10, "select_dev": 10},
    classes={"train": {"a": 48, "b": 32}, "meta_dev": {"a": 6, "b": 4}, "select_dev": {"a": 6, "b": 4}},
)


def write_run(
    folder: Path,
    arms: dict[str, list[Trial]],
    *,
    metric: str = "accuracy",
    dimensions: int = 1,
    facts: DataFacts | None = None,
    selection: Any = "none",
) -> Run:
    """Writes a run of trials of 40 steps each."""
    search: dict[str, Any] = {"name": "mine", "task": {"name": "mine", "metric": metric}, "seeds": [0], "runs": "runs"}
    search |= {"dimensions": {f"d{i}": {} for i in range(dimensions)}, "baselines": {}, "selection": selection}
    search |= {"method": {"weighting": "static"}, "budget": {"trials": 2}}
    with Ledger.open(folder) as ledger:
        row = {"search": "mine", "spec": json.dumps(search), "fingerprint": "5" * 64, "data": "{}"}
        ledger.append("searches", [row], durable=True)
        for arm, trials in arms.items():
            for number, (score, best_step) in enumerate(trials):
                state = "failed" if score is None else "complete"
                row = {"trial_id": f"{arm}-{number}", "arm": arm, "role": "search", "number": number, "seed": 0}
                row |= {"state": state, "why": "-", "score": score, "best_step": best_step, "steps": 40, "attempts": 1}
                row |= {"started": datetime(2026, 1, 1, tzinfo=UTC), "ended": datetime(2026, 1, 2, tzinfo=UTC)}
                row |= {"seconds": 1.0, "workers": 1, "device": "cpu", "params": "{}", "plan": '{"objectives": []}'}
                ledger.commit(row)
        ledger.event("finished")
    if facts is not None:
        (folder / "data").mkdir()
        (folder / "data" / "data.json").write_text(json.dumps({"facts": facts.to_plain()}))
    return open_run(folder)


def test_run_without_faults_has_no_warning(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", {"search": [(0.95, 20), (0.7, 40), (0.65, 10)]}, facts=FACTS)
    assert run_doctor.warn(run) == []


def test_ties_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", {"search": [(0.8, 20), (0.8, 10)], "fine_tune": [(0.8, 10)]}, facts=FACTS)
    (note,) = run_doctor.warn(run)
    assert note.startswith("all 3 trials have the same score, 0.800 accuracy: nothing that was varied changed")


@pytest.mark.parametrize(("metric", "score"), [("accuracy", 0.6), ("macro_f1", 0.375)])
def test_constant_prediction_is_told_and_no_tie(tmp_path: Path, metric: str, score: float) -> None:
    run = write_run(tmp_path / "mine", {"search": [(score, 20), (score, 10)]}, metric=metric, facts=FACTS)
    (note,) = run_doctor.warn(run)
    assert note.startswith(f"no trial is better than always predicting a ({score:.3f} {metric}; the best trial has")


def test_one_learned_trial_is_no_constant_prediction(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", {"search": [(0.6, 20), (0.9, 10)]}, facts=FACTS)
    assert run_doctor.warn(run) == []


def test_trials_best_at_their_end_ask_for_steps(tmp_path: Path) -> None:
    trials: list[Trial] = [(0.9, 40), (0.5, 40), (0.7, 40), (0.8, 40), (0.6, 20)]
    run = write_run(tmp_path / "mine", {"search": trials, "fine_tune": [(0.5, 40)] * 2})
    (note,) = run_doctor.warn(run)
    assert note.startswith("4 of 5 trials of the search were best at their last evaluation, so that more steps may be")
    assert "--set settings.steps=N" in note


def test_fewer_configurations_than_dimensions_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", {"search": [(0.9, 20), (0.2, 20)]}, dimensions=5)
    (note,) = run_doctor.warn(run)
    assert note.startswith("2 configurations of the search for 5 dimensions: too few")


def test_spread_below_the_standard_error_is_told(tmp_path: Path) -> None:
    scores: list[Trial] = [(0.80, 20), (0.81, 20)]
    run = write_run(tmp_path / "mine", {"search": scores}, facts=FACTS)
    (note,) = run_doctor.warn(run)
    assert note.startswith(
        "the scores of the search's configurations span 0.010 accuracy, less than the standard error"
    )
    assert "on 10 rows (about 0.137)" in note
    folds = write_run(tmp_path / "folds", {"search": scores}, facts=FACTS, selection={"folds": 5, "repeats": 1})
    assert "on 100 rows (about 0.043)" in run_doctor.warn(folds)[0]


def test_failed_trials_are_told_first_and_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", {"search": [(None, 0), (0.9, 20), (0.2, 20)]})
    (note,) = run_doctor.warn(run)
    assert note.startswith("1 of 3 trials failed, and no result rests on these: raysearch analyze ")
    assert "1 of 3 trials failed" in write_html(run).read_text()
