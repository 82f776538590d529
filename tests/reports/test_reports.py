"""Every SQL report fits the tables and gives the right answer, and the page shows all answers."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.pages import ReportPage
from helpers.runs import SYNTHETIC_SEARCH, write_run
from scipy import stats

from raysearch.errors import RunError, SpecError
from raysearch.reports import page as page_module
from raysearch.reports import plots, query
from raysearch.reports.page import write_html
from raysearch.reports.plots_weights import trajectories
from raysearch.schema import catalog
from raysearch.storage.best import CONFIGURATIONS, configurations
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run
from raysearch.storage.schemas import TABLES, TRIALS

REPORTS = catalog.names("reports")
EMPTY_TABLES = {name: schema.empty_table() for name, schema in TABLES.items()} | {
    "best": TRIALS.empty_table(),
    "configurations": CONFIGURATIONS.empty_table(),
    **{name: view.schema.empty_table() for name, view in query.VIEWS.items()},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return open_run(write_run(tmp_path_factory.mktemp("runs") / "synthetic"))


@pytest.fixture(scope="module")
def answers(run) -> dict[str, pa.Table]:
    return query.analyze(run)


def report_rows(name: str, **tables: list[dict[str, object]]) -> list[dict[str, object]]:
    """Returns a report's answer on these rows; omitted columns are null."""
    filled_tables = {
        table: pa.Table.from_pylist(rows, schema=EMPTY_TABLES[table].schema) for table, rows in tables.items()
    }
    return query.ask_reports({**EMPTY_TABLES, **filled_tables}, [query.read_report(name)])[name].to_pylist()


def trial(arm, number, score, *, seed=0, role="search", state="complete", **more):
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * number + seed)
    row = {"trial_id": f"{arm}-{number}-{seed}-{role}", "arm": arm, "role": role, "number": number, "seed": seed}
    return {**row, "state": state, "score": score, "ended": moment, "params": "{}", **more}


def rows_by_arm(
    scores: dict[str, list[float]], role: str = "confirm", **declared: object
) -> dict[str, dict[str, object]]:
    """Returns the row of each arm whose one configuration has these scores on seeds 1, 2, ..."""
    winners = [trial(arm, 1, values[0] if values else 0.5, seed=1) for arm, values in scores.items()]
    trials = [trial(arm, 1, s, seed=i, role=role) for arm, values in scores.items() for i, s in enumerate(values, 1)]
    if role == "confirm":
        trials += [{**winner, "seed": 0} for winner in winners]
    spec = {"baselines": {arm: {} for arm in scores if arm != "search"}, **declared}
    searches = [{"spec": json.dumps(spec), "time": datetime(2026, 1, 1, tzinfo=UTC)}]
    return {row["arm"]: row for row in report_rows("arms", trials=trials, best=winners, searches=searches)}


def arms(search: list[float], baseline: list[float]) -> dict[str, object]:
    """Returns the baseline's row when both arms were confirmed with these scores on seeds 1, 2, ..."""
    return rows_by_arm({"search": search, "fine_tune": baseline})["fine_tune"]


# ---- the files ----


@pytest.mark.parametrize("name", REPORTS)
def test_report_file_begins_with_its_question(name):
    read = query.read_report(name)
    assert read.title
    assert read.question.endswith("?")
    assert read.sql.startswith(("SELECT", "WITH"))


@pytest.mark.parametrize("name", REPORTS)
def test_report_on_empty_tables_has_no_rows(name):
    assert report_rows(name) == []


@pytest.mark.parametrize("name", REPORTS)
def test_report_on_a_run_has_rows_valid_in_json(answers, name):
    assert len(answers[name]) > 0
    json.dumps(answers[name].to_pylist(), allow_nan=False)


def test_report_of_the_user_is_read_by_path(run, tmp_path):
    user_report = tmp_path / "seeds.sql"
    user_report.write_text("-- Seeds: how many seeds?\nSELECT count(DISTINCT seed) AS seeds FROM trials")
    assert query.analyze(run, [user_report])["seeds"].to_pylist() == [{"seeds": 4}]


def test_report_invalid_sql_error_is_one_line_with_the_file(run, tmp_path):
    user_report = tmp_path / "bad.sql"
    user_report.write_text("-- Bad: what?\nSELECT scores FROM trials;\n")
    with pytest.raises(SpecError, match=r"bad\.sql: .*scores.*not found") as error:
        query.analyze(run, [user_report])
    assert "\n" not in str(error.value)
    user_report.write_text("SELECT 1")
    with pytest.raises(SpecError, match=r"bad\.sql:1: a report begins with the comment `-- Title: the question"):
        query.analyze(run, [user_report])
    with pytest.raises(SpecError, match="no such report 'leaderbord'; did you mean 'leaderboard'"):
        query.analyze(run, ["leaderbord"])


# ---- their answers ----


def test_arms_interval_is_student_t_on_paired_differences():
    rng = np.random.default_rng(0)
    for pairs in (2, 3, 5, 12, 31, 32, 80):
        search, baseline = rng.normal(0.5, 0.1, pairs), rng.normal(0.45, 0.1, pairs)
        row = arms(search.tolist(), baseline.tolist())
        d = search - baseline
        low, high = stats.t.interval(0.95, pairs - 1, d.mean(), stats.sem(d))
        assert row["difference"] == pytest.approx(d.mean())
        assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("search", "baseline", "verdict"),
    [
        ([0.50, 0.51, 0.52], [0.40, 0.41, 0.43], "the search is better"),
        ([0.40, 0.41, 0.43], [0.50, 0.51, 0.52], "the baseline is better"),
        ([0.50, 0.40, 0.45], [0.41, 0.44, 0.47], "no difference found"),
        ([0.50, 0.50], [0.50, 0.50], "no difference found"),
        ([0.50], [0.40], "one seed is not enough"),
        ([0.50, 0.51], [], "not repeated on fresh seeds"),
        ([], [0.50, 0.51], "no common seed"),
    ],
)
def test_arms_verdict_claims_no_more_than_the_interval(search, baseline, verdict):
    assert arms(search, baseline)["verdict"] == verdict


def test_arms_verdict_uses_p_value_only_with_enough_seeds():
    few = arms([0.50, 0.51, 0.52, 0.50, 0.51], [0.40, 0.41, 0.43, 0.41, 0.40])
    assert (few["p"], few["rests_on"], few["verdict"]) == (2 / 32, "interval", "the search is better")
    shaky = arms([0.50, 0.50, 0.50, 0.50, 0.50], [0.40, 0.40, 0.40, 0.40, 0.501])
    assert (shaky["low"] > 0, shaky["verdict"]) == (True, "no difference found")  # one seed disagrees in sign
    many = arms([0.5] * 8, [0.4, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47])
    assert (many["p"], many["rests_on"], many["verdict"]) == (2 / 256, "p_holm", "the search is better")
    assert many["boot_low"] == pytest.approx(many["low"], abs=0.01)


def test_arms_several_baselines_use_holm_correction():
    rng = np.random.default_rng(0)
    scores = {arm: rng.normal(mean, 0.01, 6) for arm, mean in {"search": 0.5, "a": 0.49, "b": 0.45, "c": 0.495}.items()}
    rows = rows_by_arm({arm: values.tolist() for arm, values in scores.items()})
    p = sorted(rows[arm]["p"] for arm in "abc")
    assert sorted(rows[arm]["p_holm"] for arm in "abc") == pytest.approx([3 * p[0], max(3 * p[0], 2 * p[1]), p[2]])
    assert {rows[arm]["rests_on"] for arm in "abc"} == {"interval"}  # 3 / 32 at best
    d = scores["search"] - scores["b"]
    low, high = stats.t.interval(1 - 0.05 / 3, 5, d.mean(), stats.sem(d))
    assert (rows["b"]["low"], rows["b"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (rows["b"]["verdict"], rows["c"]["verdict"]) == ("the search is better", "no difference found")


def test_arms_are_compared_with_first_baseline_and_ranked():
    rows = rows_by_arm({"search": [0.5, 0.6], "none": [0.4, 0.45], "pcgrad": [0.6, 0.61], "late": []})
    assert {arm: row["place"] for arm, row in rows.items()} == {"pcgrad": 1, "search": 2, "none": 3, "late": None}
    gains = {arm: row["gain"] for arm, row in rows.items()}
    assert gains == {"search": pytest.approx(0.125), "none": None, "pcgrad": pytest.approx(0.18), "late": None}
    d = np.array([0.2, 0.16])
    low, high = stats.t.interval(1 - 0.05 / 2, 1, d.mean(), stats.sem(d))
    assert (rows["pcgrad"]["gain_low"], rows["pcgrad"]["gain_high"]) == (pytest.approx(low), pytest.approx(high))


def test_arms_without_confirmation_are_compared_if_not_selected():
    rows = rows_by_arm({"search": [0.50, 0.51, 0.52], "none": [0.40, 0.41, 0.43]}, role="search")
    none = rows["none"]
    assert (none["seeds"], none["fresh"], none["verdict"]) == (3, False, "the search is better")
    assert none["mean"] == pytest.approx(1.24 / 3)
    trials = [trial("search", n, s, seed=i) for n, s in ((1, 0.5), (2, 0.4)) for i in (1, 2, 3)]
    trials += [trial("none", 1, 0.4, seed=i) for i in (1, 2, 3)]
    chosen = report_rows("arms", trials=trials, best=[trials[0], trials[-1]])
    assert [row["verdict"] for row in chosen] == ["not repeated on fresh seeds"] * 2


def test_arms_nan_score_is_left_out():
    row = arms([0.50, 0.51, float("nan")], [0.40, 0.41, 0.43])
    assert (row["seeds"], row["difference"], row["p"]) == (3, pytest.approx(0.1), 0.5)


def test_arms_show_the_score_of_the_paper():
    paper = {"source": "Dery 2021, Table 2", "metric": "accuracy", "scores": {"search": "67.1 +- 1.31"}}
    rows = rows_by_arm({"search": [0.5, 0.6], "none": [0.4, 0.45]}, paper=paper)
    assert (rows["search"]["paper"], rows["none"]["paper"]) == ("67.1 +- 1.31", None)
    assert (rows["search"]["source"], rows["none"]["source"]) == ("Dery 2021, Table 2, accuracy", None)


def test_final_pairs_test_scores_by_seed_and_skips_unopened():
    rows, evaluations = [], []
    for arm, scores in {"search": [0.5, 0.6, 0.7], "multitask": [0.4, 0.5, 0.6], "late": [0.9]}.items():
        for seed, score in enumerate(scores):
            rows.append(trial(arm, 0, score + 0.1, seed=seed, role="confirm", trial_id=f"{arm}-{seed}"))
            if arm != "late":
                evaluation = {"trial_id": f"{arm}-{seed}", "attempt": 0, "step": 1, "metric": "f1"}
                evaluations += [
                    evaluation | {"split": "test", "score": score},
                    evaluation | {"split": "select_dev", "score": 0.0},
                ]
    declared = {"paper": {"source": "there", "metric": "F1", "scores": {"multitask": "44"}}}
    searches = [{"spec": json.dumps(declared), "time": datetime(2026, 1, 1, tzinfo=UTC)}]
    by_arm = {row["arm"]: row for row in report_rows("final", trials=rows, evaluations=evaluations, searches=searches)}
    assert by_arm.keys() == {"search", "multitask"}
    assert by_arm["search"]["test"] == pytest.approx(0.6)
    assert by_arm["search"]["dev"] == pytest.approx(0.7)
    assert by_arm["multitask"]["difference"] == pytest.approx(0.1)
    assert (by_arm["multitask"]["paper"], by_arm["multitask"]["verdict"]) == ("44", "the search is better")


def test_report_of_the_user_may_call_the_statistics(run, tmp_path):
    user_report = tmp_path / "user_report.sql"
    user_report.write_text(
        "-- Own: what?\nSELECT sign_flip_p([1.0, 2.0, 3.0]) AS p, t_interval([1.0], 1) AS i, holm(NULL) AS h"
    )
    assert query.analyze(run, [user_report])["user_report"].to_pylist() == [{"p": 0.25, "i": None, "h": None}]


def test_leaderboard_has_the_ranked_configurations():
    trials = [trial("search", 0, 0.5), trial("search", 0, 0.7, seed=1), trial("search", 1, 0.65)]
    ranked = configurations(pa.Table.from_pylist(trials, schema=TRIALS), [])
    assert report_rows("leaderboard", configurations=ranked.to_pylist()) == ranked.to_pylist()


def test_best_so_far_never_falls_and_skips_session_gaps():
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    at = [begin + timedelta(seconds=s) for s in (0, 10, 20, 25, 1000, 1010)]
    events = [(at[0], "opened"), (at[3], "told"), (at[4], "opened"), (at[5], "told")]
    events = [{"time": t, "event": e, "trial_id": "", "detail": '{"purpose": "search"}'} for t, e in events]
    ends = [(0.3, "complete", at[1]), (0.9, "stopped", at[2]), (0.2, "complete", at[3]), (0.5, "complete", at[5])]
    trials = [trial("search", i, s, state=state) | {"ended": end} for i, (s, state, end) in enumerate(ends)]
    rows = report_rows("best_so_far", trials=trials, events=events)
    assert [row["best"] for row in rows] == [0.3, 0.3, 0.3, 0.5]
    assert [row["seconds"] for row in rows] == [10, 20, 25, 35]


def test_dimensions_have_a_number_for_numeric_values():
    rows = report_rows(
        "dimensions", trials=[trial("search", 0, 0.5, params='{"lr": 1e-3, "surgery": "none", "a.b": true}')]
    )
    assert [(row["dimension"], row["value"], row["number"]) for row in rows] == [
        ("a.b", "true", None),
        ("lr", "0.001", 0.001),
        ("surgery", "none", None),
    ]


def sweep(trials: list[dict[str, object]], **spec: object) -> dict[tuple[str, str], dict[str, object]]:
    """Returns the row of each dimension and value."""
    searches = [{"spec": json.dumps(spec), "time": datetime(2026, 1, 1, tzinfo=UTC)}]
    return {(row["dimension"], row["value"]): row for row in report_rows("sweep", trials=trials, searches=searches)}


def test_sweep_compares_each_value_with_the_best_in_pairs():
    scores = {(1, "a"): [0.5, 0.6], (5, "a"): [0.4, 0.3], (1, "b"): [0.5, 0.4], (5, "b"): [0.3, None]}
    trials = [
        trial("search", n, score, seed=seed, params=json.dumps({"k": k, "basis": basis}))
        for n, ((k, basis), each) in enumerate(scores.items())
        for seed, score in enumerate(each)
        if score is not None
    ]
    trials += [trial("search", 9, 0.9, state="stopped", params='{"k": 7, "basis": "a"}')]
    trials += [trial("search", 0, 0.9, seed=5, role="confirm", params='{"k": 1, "basis": "a"}')]
    rows = sweep(trials, sampler="grid")
    assert list(rows) == [("basis", "a"), ("basis", "b"), ("k", "1"), ("k", "5")]
    best, other = rows["k", "1"], rows["k", "5"]
    assert (best["trials"], best["seeds"], best["best"], best["reference"]) == (4, 2, 0.6, "1")
    assert (best["mean"], best["sd"]) == (pytest.approx(0.5), pytest.approx(np.std([0.5, 0.6, 0.5, 0.4], ddof=1)))
    assert best["error"] == pytest.approx(best["sd"] / 2)
    assert (best["difference"], best["pairs"]) == (None, None)
    d = np.array([-0.1, -0.3, -0.2])  # the trial with k 1, basis b and seed 1 has no partner
    low, high = stats.t.interval(0.95, 2, d.mean(), stats.sem(d))
    assert (other["reference"], other["pairs"], other["difference"]) == ("1", 3, pytest.approx(-0.2))
    assert (other["low"], other["high"]) == (pytest.approx(low), pytest.approx(high))


def test_sweep_continuous_dimension_is_binned():
    rng = np.random.default_rng(0)
    trials = [trial("search", n, lr, params=json.dumps({"lr": lr})) for n, lr in enumerate(rng.uniform(0.1, 1, 25))]
    rows = sweep(trials, dimensions={"lr": {"float": [0.1, 1]}}).values()
    assert [row["trials"] for row in rows] == [5] * 5
    assert [row["mean"] for row in rows] == sorted(row["mean"] for row in rows)
    assert all(re.fullmatch(r"0\.\d+ to [01]\.\d+", row["value"]) for row in rows)
    assert [row["low"] for row in rows] == [None] * 5  # a single pair has no interval
    assert len(sweep(trials[:7], dimensions={"lr": {"float": [0.1, 1]}})) == 3
    grid = [trial("search", n, 0.5, params=json.dumps({"k": n})) for n in range(20)]
    assert len(sweep(grid, sampler="grid")) == 20
    assert len(sweep(grid, sampler="tpe")) == 5


def test_sweep_shows_the_value_of_the_paper():
    trials = [trial("search", n, 0.5, params=json.dumps({"basis": b})) for n, b in enumerate(("random", "canonical"))]
    paper = {"source": "Table 4", "metric": "accuracy", "values": {"basis": {"random": "58.72 +- 2.68"}}}
    rows = sweep(trials, paper=paper)
    assert (rows["basis", "random"]["paper"], rows["basis", "random"]["source"]) == (
        "58.72 +- 2.68",
        "Table 4, accuracy",
    )
    assert (rows["basis", "canonical"]["paper"], rows["basis", "canonical"]["source"]) == (None, None)


def weight(kind, stage, name, step, share):
    whose = {"trial_id": "search-0-0-search", "attempt": 0, "step": step}
    return {**whose, "kind": kind, "stage": stage, "name": name, "weight": share}


def test_trajectories_primitive_weight_sums_its_objectives():
    best = [trial("search", 0, 0.5, best_step=4)]
    names = {"e/mask/x/denoise": 0.5, "e/bert/x/denoise": 0.3, "e/bert/x/end_task": 0.2}
    weights = [weight("objective", "", name, 1, share) for name, share in names.items()]
    rows = {
        (row["stage"], row["name"]): row["weight"] for row in report_rows("trajectories", best=best, weights=weights)
    }
    assert rows["transform", "bert"] == pytest.approx(0.5)
    assert rows["output", "denoise"] == pytest.approx(0.8)
    factored = [*weights, weight("primitive", "output", "denoise", 1, 0.6)]
    rows = report_rows("trajectories", best=best, weights=factored)
    assert [(row["stage"], row["weight"], row["best_step"]) for row in rows] == [("output", 0.6, 4)]


def test_trajectories_include_branch_alphas_and_weights():
    best = [trial("search", 0, 0.5, best_step=4)]
    alphas = {("end_task", 2): 1.2, ("a/b/c/d", 2): -0.5, ("end_task", 4): 0.9, ("a/b/c/d", 4): 1.5}
    weights = [weight("branch", "alpha", name, step, value) for (name, step), value in alphas.items()]
    weights += [weight("branch", "weight", name, step, 1 + value) for (name, step), value in alphas.items()]
    rows = report_rows("trajectories", best=best, weights=weights)
    assert [(row["stage"], row["name"], row["step"], row["weight"]) for row in rows][:4] == [
        ("alpha", "a/b/c/d", 2, -0.5), ("alpha", "a/b/c/d", 4, 1.5),
        ("alpha", "end_task", 2, 1.2), ("alpha", "end_task", 4, 0.9),
    ]  # fmt: skip
    svgs = trajectories(rows)
    assert ["how much of a branch was merged" in svgs[0], "weight of the branch" in svgs[1]] == [True, True]
    assert len(svgs) == 2


def test_ranking_orders_objectives_by_late_mean_weight():
    trials = [trial("search", 0, 0.5)]
    shares = {step: 0.9 if step <= 10 else 0.5 if step <= 50 else 0.2 for step in range(1, 101)}
    weights = [weight("objective", "", "a", step, share) for step, share in shares.items()]
    weights += [weight("objective", "", "b", step, 1 - share) for step, share in shares.items()]
    first, second = report_rows("ranking", trials=trials, weights=weights)
    assert (first["name"], first["early_rank"], first["late_rank"]) == ("b", 2, 1)
    assert (second["early"], second["late"]) == (pytest.approx(0.9), pytest.approx(0.2))
    assert report_rows("ranking", trials=trials, weights=[row for row in weights if row["step"] == 1]) == []


def test_signal_says_which_objectives_are_told_apart():
    best = [trial("search", 0, 0.5, best_step=4)]
    means = {"a/b/c/d": 0.30, "a/b/c/e": 0.02, "a/b/c/f": -0.02, "a/b/c/g": -0.26}
    weights = [weight("signal", "", name, 9, mean / 0.02) | {"score": mean} for name, mean in means.items()]
    weights += [weight("signal", "", name, 4, 1.0) | {"score": 9.0} for name in means]  # an earlier evaluation
    rows = report_rows("signal", best=best, weights=weights)
    verdicts = ["above", "not distinguished", "not distinguished", "below"]
    assert [row["verdict"] for row in rows] == verdicts
    assert [row["error"] for row in rows] == pytest.approx([0.02] * 4)


def evaluation_rows(seed, phase, *scores, role="search"):
    begun = {"joint": 0, "finetune": 100}[phase]
    whose = {"trial_id": f"search-0-{seed}-{role}", "split": "select_dev", "phase": phase}
    return [{**whose, "step": begun + 10 * i, "score": value} for i, value in enumerate(scores, 1)]


def test_stages_show_scores_before_after_and_selected():
    trials = [trial("search", 0, 0.0, seed=seed) for seed in (0, 1)]
    evaluations = [*evaluation_rows(0, "joint", 0.5, 0.6, 0.4), *evaluation_rows(0, "finetune", 0.7, 0.65)]
    evaluations += [*evaluation_rows(1, "joint", 0.3, 0.8), *evaluation_rows(1, "finetune", 0.5)]
    first, second = report_rows("stages", trials=trials, best=trials[:1], evaluations=evaluations)
    assert (first["phase"], first["before"], first["score"]) == ("joint", None, pytest.approx(0.7))
    assert (second["phase"], second["seeds"], second["until"], second["better"]) == ("finetune", 2, 120, 1)
    assert second["before"] == pytest.approx(0.7)
    assert second["score"] == pytest.approx(0.6)
    assert second["kept"] == pytest.approx((0.7 + 0.8) / 2)


def test_stages_use_fresh_seeds_if_available():
    trials = [trial("search", 0, 0.0), trial("search", 0, 0.0, seed=5, role="confirm")]
    evaluations = [*evaluation_rows(0, "joint", 0.9), *evaluation_rows(5, "joint", 0.4, role="confirm")]
    (row,) = report_rows("stages", trials=trials, best=trials[:1], evaluations=evaluations)
    assert (row["score"], row["kept"]) == (pytest.approx(0.4), pytest.approx(0.4))


def test_optimism_is_best_evaluation_less_the_counted_score():
    trials = [trial("search", 0, 0.9), *(trial("search", 0, 0.5, seed=seed, role="confirm") for seed in (5, 6))]
    evaluations = evaluation_rows(0, "joint", 0.9)
    evaluations += [*evaluation_rows(5, "joint", 0.4, 0.5, 0.7, role="confirm")]
    evaluations += [*evaluation_rows(6, "joint", 0.6, 0.5, role="confirm")]
    (row,) = report_rows("optimism", trials=trials, best=trials[:1], evaluations=evaluations)
    assert (row["seeds"], row["evaluations"], row["score"]) == (2, 3, pytest.approx(0.5))
    assert (row["best"], row["optimism"]) == (pytest.approx(0.65), pytest.approx(0.15))


def test_failures_reason_is_the_last_line_of_the_traceback(answers):
    (row,) = answers["failures"].to_pylist()
    assert row["reason"] == "ArithmeticError: loss is nan at step 43 <lr 0.0019>"
    assert row["why"].startswith("Traceback")


# ---- the page ----


@pytest.fixture(scope="module")
def page(run) -> ReportPage:
    return ReportPage(write_html(run))


def test_page_is_well_formed_and_loads_nothing(page):
    assert len(page.ids) == len(set(page.ids))
    assert [target for target in page.loads if not target.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)|<script [^>]*src", page.source)
    assert len(page.scripts) == 2  # the data and the script


def test_page_has_every_section_with_its_sql(page, answers):
    assert {*REPORTS, "origin"} <= set(page.ids)
    shown = [name for name in REPORTS if f"How this is computed: {name}.sql" in page.words]
    assert set(REPORTS) - set(shown) == {"stages", "sweep"}  # they have nothing to show
    kinds = {row["kind"] for row in answers["effects"].to_pylist()}
    of_end_task = 2 + 3 + 1  # labels, confusion, calibration
    assert page.source.count("<svg") == (
        1 + 2 + 2 + len(SYNTHETIC_SEARCH["dimensions"]) + 4 + 1 + 1 + 1 + len(kinds) + of_end_task
    )


SEEDS_REPORT = (
    "-- Seeds <b>: how many `seeds`?\nSELECT arm, count(DISTINCT seed) AS seeds, 0.5 AS half FROM trials GROUP BY arm"
)


def test_page_shows_new_reports_of_catalog_and_user_as_tables(run, tmp_path, monkeypatch):
    shutil.copytree(catalog.root() / "analysis", tmp_path / "analysis")
    (tmp_path / "analysis" / "thirteenth.sql").write_text(SEEDS_REPORT)
    (tmp_path / "users.sql").write_text(SEEDS_REPORT)
    monkeypatch.setattr(catalog, "root", lambda: tmp_path)
    page = ReportPage(write_html(run, [tmp_path / "users.sql", "leaderboard"]))
    assert page.ids.count("leaderboard") == 1
    assert page.ids[-3:] == ["thirteenth", "user-report-1", "origin"]
    assert page.source.count("<h2>Seeds &lt;b&gt;</h2>") == 2
    assert page.source.count('<td>search</td><td class="num">4</td><td class="num">0.5000</td>') == 2


@pytest.mark.slow
def test_page_of_the_same_run_is_the_same(run, page):
    assert write_html(run).read_text() == page.source


def test_page_claims_no_more_than_the_results(page):
    assert "the highest of 11 scores on the same examples, so expect less" in page.words
    assert "no difference found" in page.words
    assert "read 6 times by this run" in page.words


def test_page_escapes_text_from_trials(page):
    assert "loss is nan at step 43 <lr 0.0019>" in page.words
    assert "<lr 0.0019>" not in page.source


def test_templates_escape_everything_but_plots():
    templates = "".join(file.read_text() for file in (Path(page_module.__file__).parent / "templates").glob("*.j2"))
    assert set(re.findall(r"{{ *(\w+) *\| *safe", templates)) == {"svg"}
    assert templates.count("safe") == 2
    assert "autoescape" not in templates


def test_page_plots_use_the_colours_of_the_page(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}", drawn)
    assert set(re.findall(r"var\((--\w+)\)", drawn)) <= set(re.findall(r"(--\w+): #", page.source))


def test_plot_of_the_same_rows_is_the_same(answers):
    rows = answers["best_so_far"].to_pylist()
    assert plots.best_so_far(rows, "nth", "macro_f1") == plots.best_so_far(rows, "nth", "macro_f1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"trials": 0, "confirm": ()}, "No trial has ended yet."),
        ({"trials": 1, "baselines": 0, "confirm": (), "failing": ()}, "1 complete"),
        ({"trials": 3, "baselines": 1, "confirm": ()}, "nothing is claimed (not repeated on fresh seeds)"),
        ({"trials": 2, "baselines": 0, "confirm": (), "failing": (0, 1)}, "2 failed"),
        ({"trials": 2, "baselines": 1, "confirm": (7,)}, "one seed is not enough to tell"),
        ({"trials": 3, "baselines": 1, "moving": False}, "no trajectory to show"),
        ({"trials": 4, "baselines": 1, "gain": 0.2}, "it is better"),
    ],
)
def test_page_of_an_incomplete_run_says_what_is_missing(tmp_path, parts, words):
    page = ReportPage(write_html(open_run(write_run(tmp_path / "part", **parts))))
    assert words in page.words


def test_page_of_a_run_without_a_search_is_rejected(tmp_path):
    with Ledger.open(tmp_path / "early"), pytest.raises(RunError, match="the search has not started"):
        write_html(open_run(tmp_path / "early"))


def test_rank_correlation_matches_spearman():
    rng = np.random.default_rng(1)
    values, scores = rng.integers(0, 5, 20).astype(float), rng.normal(size=20)
    rows = [{"state": "complete", "number": v, "score": s} for v, s in zip(values, scores, strict=True)]
    text = plots.rank_correlation(rows).replace("\N{MINUS SIGN}", "-")
    assert text == f"rank correlation {stats.spearmanr(values, scores).statistic:+.2f}"
    assert plots.rank_correlation(rows[:7]) == ""
