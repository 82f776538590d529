"""The data of the page's script: escaped, small, and what the tables say."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from helpers.pages import ReportPage
from helpers.runs import SYNTHETIC_SEARCH, SyntheticWriter, draw, synthetic_plan, write_run

from raysearch.reports import run_snapshot
from raysearch.reports.page import write_html
from raysearch.reports.page_data import left_out, make_page_data, to_script_json
from raysearch.reports.query import VIEWS, analyze, ask_reports, read_report
from raysearch.reports.run_snapshot import REDUCED, Snapshot, needs_all_rows, page_tables
from raysearch.schema import catalog
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>&amp;\u2028\x1b[2J\u202e"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return Snapshot(write_run(tmp_path_factory.mktemp("runs") / "synthetic"))


@pytest.fixture(scope="module")
def data(run: Snapshot) -> dict[str, object]:
    return make_page_data(run, page_tables(run), "title")


def test_script_json_has_no_markup_and_reads_back() -> None:
    text = to_script_json({"name": HOSTILE, HOSTILE: [HOSTILE]})
    assert not re.search("[<>&\u2028\u202e\x1b]", text)
    assert json.loads(text) == {"name": HOSTILE, HOSTILE: [HOSTILE]}


def test_trials_and_configurations_are_those_of_the_tables(run: Snapshot, data: dict) -> None:
    assert data["trials"]["id"] == run.trials()["trial_id"].to_pylist()
    ranked = run.configurations().to_pylist()
    assert [data["trials"]["id"][trial] for trial in data["configurations"]["trial"]] == [
        row["trial_id"] for row in ranked
    ]
    for place, row in enumerate(ranked):
        columns = zip(data["dimensions"], data["configurations"]["values"], strict=True)
        drawn = {dimension["name"]: values[place] for dimension, values in columns}
        assert {name: value for name, value in drawn.items() if value is not None} == json.loads(row["params"])
    assert data["trials"]["id"][data["best"]] == run.best()["trial_id"]


def test_fragment_and_drawn_values_are_the_configuration(run: Snapshot, data: dict) -> None:
    place = data["configurations"]["trial"].index(data["best"])
    fragment = data["fragments"][data["configurations"]["fragment"][place]]
    plan = run.best()["plan"]
    assert fragment["method"] == {"weighting": plan["weighting"], "schedule": plan["schedule"]}  # surgery is drawn
    assert fragment["space"] == "aang_td"


def test_details_have_what_differs_weights_signal_and_events(run: Snapshot, data: dict) -> None:
    other = next(trial for trial in data["details"] if int(trial) != data["best"])
    detail = data["details"][other]
    row = run.trials().to_pylist()[int(other)]
    settings = {**data["base"], **detail["settings"]}
    for name, value in json.loads(row["plan"])["settings"].items():
        assert settings[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
    assert data["details"][str(data["best"])]["settings"] == {}
    best = data["details"][str(data["best"])]
    assert [event[1] for event in best["events"]][:2] == ["asked", "started"]
    assert len(best["signal"]["mean"]) == 24
    signal = best["signal"]
    assert signal["mean"][0] / signal["errors"][0] == pytest.approx(0.01)
    for group in best["weights"]:
        assert all(len(values) == len(group["step"]) for values in group["values"])


def test_curves_keep_first_last_and_best_evaluation(run: Snapshot, data: dict) -> None:
    rows = run.evaluations().to_pylist()
    for trial, curve in data["curves"].items():
        trial_id = data["trials"]["id"][int(trial)]
        ours = [row for row in rows if row["trial_id"] == trial_id and row["split"] == "select_dev"]
        scores = {row["step"]: row["score"] for row in ours}
        assert (curve["step"][0], curve["step"][-1]) == (min(scores), max(scores))
        assert max(scores, key=lambda step: scores[step]) in curve["step"]
        assert all(curve["score"][i] == pytest.approx(scores[step], rel=1e-3) for i, step in enumerate(curve["step"]))


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of more trials than have details."""
    folder = tmp_path_factory.mktemp("runs") / "long"
    rng = random.Random(0)
    with Ledger.open(folder) as ledger:
        writer = SyntheticWriter(ledger, 0, moving=False)
        writer.declare(SYNTHETIC_SEARCH)
        for number in range(160):
            state = "complete" if number % 10 else "failed"
            writer.trial(synthetic_plan("search", number, 0, "search", draw(rng)), state, 120 if number % 10 else 40)
        ledger.event("finished")
    return folder


@pytest.mark.slow
def test_page_of_many_trials_is_small_and_says_what_is_missing(long_run: Path) -> None:
    page = ReportPage(write_html(open_run(long_run)))
    assert len(page.source.encode()) < 600_000
    assert "settings, weights and events of 120 of the 160 trials" in page.words
    data = json.loads(page.scripts[0])
    assert len(data["trials"]["id"]) == 160
    assert len(data["details"]) == run_snapshot.MAX_DETAILS
    assert left_out(Snapshot(long_run)) in page.words


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(REDUCED) - {"curves", "ranking"}))
def test_reports_on_the_rows_of_the_page_are_those_of_all_rows(long_run: Path, name: str, monkeypatch) -> None:
    monkeypatch.setattr(run_snapshot, "MAX_CURVES", 20)
    monkeypatch.setattr(run_snapshot, "MAX_DETAILS", 10)
    run = Snapshot(long_run)
    tables = page_tables(run)
    assert len(tables["evaluations"]) < len(run.evaluations()) / 5
    assert ask_reports(tables, [read_report(name)])[name].equals(analyze(run, [name])[name])


def test_only_reports_that_are_known_get_fewer_rows() -> None:
    for name in catalog.names("reports"):
        sql = read_report(name).sql
        tables = set(re.findall(r"[a-z_]+", sql)) & {"evaluations", "weights", "predictions", *VIEWS}
        assert needs_all_rows(name, sql) == (name not in REDUCED and bool(tables))
    assert needs_all_rows("another", "SELECT * FROM weights")


def test_snapshot_reads_a_table_once_and_drops_plans_of_events(run: Snapshot) -> None:
    assert run.trials() is run.trials()
    assert run.trials().equals(open_run(run.path).trials())
    plain = open_run(run.path)
    assert run.seconds() == pytest.approx(plain.seconds())
    assert run.dropped() == plain.dropped()
    assert run.state == plain.status()["state"]
    events = run.events().to_pylist()
    assert {row["detail"] for row in events if row["event"] == "asked"} == {"{}"}
    assert len(events) == len(plain.events())


def test_attempts_of_an_interrupted_trial_count_once(tmp_path: Path) -> None:
    plan = synthetic_plan("search", 0, 0, "search", draw(random.Random(0)))
    with Ledger.open(tmp_path / "run") as ledger:
        SyntheticWriter(ledger, 0, moving=False).declare(SYNTHETIC_SEARCH)
        for attempt, weight in ((0, 0.9), (1, 0.4)):
            row = {"trial_id": plan.trial_id, "attempt": attempt, "kind": "task", "stage": "", "name": "end_task"}
            ledger.append("weights", [{**row, "step": step, "weight": weight} for step in (20, 40, 60)])
        row = {"trial_id": plan.trial_id, "arm": "search", "role": "search", "number": 0, "seed": 0, "attempts": 2}
        ledger.commit({**row, "state": "complete", "score": 0.5, "steps": 40, "params": "{}", "plan": plan.to_json()})
    weights = Snapshot(tmp_path / "run").shown_weights().to_pylist()
    assert [(row["step"], row["weight"]) for row in weights] == [(20, 0.4), (40, 0.4)]
