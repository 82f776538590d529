"""Reports on the rows of the end task have the numbers of scikit-learn, for every kind of label; texts are escaped."""

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from helpers.runs import SYNTHETIC_SEARCH
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from raysearch.data.prepared import ORIGINALS, write_split
from raysearch.reports.page import write_html
from raysearch.reports.query import VIEWS, analyze, open_views
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run

REPORTS = ("confusion", "labels", "disagreements", "errors", "calibration", "reliability")
LABELS = ["plain", "<b>bold</b>", "odd\x1b[31m"]
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS, SEEDS = 60, (101, 102)


def write_predictions(folder, outputs_of, targets, *, metric="accuracy", folds=0):
    """Writes a run whose arms gave outputs_of(arm, seed) (n, C) for rows with these targets."""
    arms = ("search", "fine_tune")
    spec = SYNTHETIC_SEARCH | {"task": {"name": "rows", "metric": metric}, "confirm": {"seeds": list(SEEDS)}}
    if folds:
        spec |= {"selection": {"folds": folds}}
    with Ledger.open(folder) as ledger:
        data = {"labels": LABELS, "sizes": {}}
        row = {"search": "rows", "fingerprint": "0" * 64, "versions": "{}", "hardware": "{}"}
        ledger.append("searches", [row | {"spec": json.dumps(spec), "data": json.dumps(data)}], durable=True)
        cells = [(seed, fold) for seed in SEEDS for fold in (range(folds) if folds else [-1])]
        trials = [(arm, "search", 0, -1 if not folds else 0) for arm in arms]
        trials += [(arm, "confirm", seed, fold) for arm in arms for seed, fold in cells]
        for arm, role, seed, fold in trials:
            trial_id = f"{arm}-{role}-s{seed}-f{fold + 1}"
            if role == "confirm":
                outputs = np.asarray(outputs_of(arm, seed), dtype=float)
                rows = [i for i in range(len(outputs)) if fold < 0 or i % folds == fold]
                rows_of_trial = [
                    {"step": 3, "row": i, "target": targets[i], "outputs": outputs[i].tolist()} for i in rows
                ]
                ledger.append("predictions", rows_of_trial, fill={"trial_id": trial_id, "attempt": 0})
            plan = {"fold": fold, "folds": folds} if folds else {}
            trial = {"trial_id": trial_id, "arm": arm, "role": role, "number": 0, "seed": seed, "state": "complete"}
            trial |= {"score": 0.5, "steps": 3, "best_step": 3, "attempts": 1, "started": MOMENT, "ended": MOMENT}
            trial |= {
                "seconds": 1.0,
                "workers": 1,
                "device": "cpu",
                "why": "",
                "params": "{}",
                "plan": json.dumps(plan),
            }
            ledger.commit(trial)
    return open_run(folder)


def classes(seed=0):
    return np.random.default_rng(seed).integers(0, 3, ROWS)


def logits(arm, seed, y):
    """Outputs of which those of the search are better."""
    noise = np.random.default_rng(seed + (arm == "search")).normal(size=(len(y), 3))
    return noise + (2.5 if arm == "search" else 1.0) * np.eye(3)[y]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    y = classes()
    return write_predictions(
        tmp_path_factory.mktemp("runs") / "rows", lambda arm, seed: logits(arm, seed, y), [[c] for c in y.tolist()]
    )


@pytest.fixture(scope="module")
def answers(run):
    return {name: table.to_pylist() for name, table in analyze(run, REPORTS).items()}


def test_labels_have_scikit_learns_scores(answers):
    y = classes()
    scores = [f1_score(y, logits("search", s, y).argmax(1), average=None) for s in SEEDS]
    by_label = {row["label"]: row for row in answers["labels"] if row["arm"] == "search"}
    printable = ["plain", "<b>bold</b>", "odd\\x1b[31m"]
    assert [by_label[name]["f1"] for name in printable] == pytest.approx(np.mean(scores, axis=0))
    assert all(row["f1_low"] < row["f1"] < row["f1_high"] for row in by_label.values())


def test_confusion_shares_sum_to_one(answers):
    for arm in ("search", "fine_tune"):
        for name in {row["truth"] for row in answers["confusion"]}:
            rows = [row for row in answers["confusion"] if (row["arm"], row["truth"]) == (arm, name)]
            assert sum(row["share"] for row in rows) == pytest.approx(1)
            assert all(row["low"] <= row["share"] <= row["high"] for row in rows)


def test_disagreements_count_rows_once_over_seeds(answers):
    (row,) = answers["disagreements"]
    y = classes()
    right = {arm: sum(logits(arm, s, y).argmax(1) == y for s in SEEDS) for arm in ("search", "fine_tune")}
    lead = right["search"].astype(int) - right["fine_tune"]
    assert (row["rows"], row["only_search"], row["only_arm"]) == (ROWS, (lead > 0).sum(), (lead < 0).sum())
    assert row["difference"] == pytest.approx(lead.mean() / 2)
    assert row["verdict"] == "the search is right on more rows"
    assert row["low"] > 0


def test_calibration_has_scikit_learns_losses(answers):
    y = classes()
    p = [softmax(logits("fine_tune", s, y), axis=1) for s in SEEDS]
    (row,) = [row for row in answers["calibration"] if row["arm"] == "fine_tune"]
    assert row["log_loss"] == pytest.approx(np.mean([log_loss(y, each) for each in p]), abs=1e-5)
    brier = np.mean([brier_score_loss(y, each, labels=[0, 1, 2], scale_by_half=False) for each in p])
    assert row["brier"] == pytest.approx(brier, abs=1e-5)
    assert row["low"] <= row["error"] <= row["high"]
    bins = [each for each in answers["reliability"] if each["arm"] == "fine_tune"]
    assert sum(each["confidence"] * each["rows"] for each in bins) > 0
    assert len(bins) == 6  # ten rows in each


def test_errors_are_the_surest_first_and_wrong(answers):
    rows = [row for row in answers["errors"] if row["arm"] == "fine_tune"]
    weights = [row["confidence"] * row["wrong"] / row["seeds"] for row in rows]
    assert weights == sorted(weights, reverse=True)
    assert all(row["truth"] != row["predicted"] and row["text"] is None for row in rows)


def test_errors_show_texts_of_the_run_cut_and_escaped(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "rows")
    (tmp_path / "rows/data" / ORIGINALS).mkdir(parents=True)
    texts = [f"<script>alert({i})</script>\x1b[2J " + "long " * 100 for i in range(ROWS)]
    for path, column in ((f"{ORIGINALS}/select_dev", pa.array(texts)), ("select_dev", pa.array([0] * ROWS))):
        batch = pa.RecordBatch.from_pydict({"text" if "/" in path else "label": column})
        write_split(tmp_path / f"rows/data/{path}.arrow", batch)
    copy = open_run(tmp_path / "rows")
    rows = analyze(copy, ["errors"])["errors"].to_pylist()
    assert all(row["text"].startswith(f"<script>alert({row['row']})") and len(row["text"]) <= 310 for row in rows)
    assert not any("\x1b" in row["text"] for row in rows)
    page = write_html(copy).read_text()
    assert "<script>alert(" not in page
    assert "&lt;script&gt;alert(" in page
    assert "<b>bold</b>" not in page
    (tmp_path / f"rows/data/{ORIGINALS}/select_dev.arrow").write_bytes(b"damaged")
    assert len(open_views(copy)["row_texts"]) == 0


def test_several_labels_have_scores_but_no_matrix(tmp_path):
    y = np.random.default_rng(1).integers(0, 2, (ROWS, 3))
    z = {
        arm: (2 * y - 1) * 0.7 + np.random.default_rng(len(arm)).normal(size=y.shape) for arm in ("search", "fine_tune")
    }
    run = write_predictions(tmp_path / "several", lambda arm, _: z[arm], y.tolist(), metric="macro_f1")
    rows = {r["label"]: r for r in analyze(run, ["labels"])["labels"].to_pylist() if r["arm"] == "search"}
    assert rows["plain"]["f1"] == pytest.approx(f1_score(y[:, 0], z["search"][:, 0] > 0))
    assert {row["truth"] for row in analyze(run, ["confusion"])["confusion"].to_pylist()} == {"yes", "no"}
    assert len(analyze(run, ["calibration"])["calibration"]) == 2


def test_numbers_have_errors_and_nothing_of_labels(tmp_path):
    y = np.random.default_rng(1).normal(size=(ROWS, 1))
    shift = {"search": 0.1, "fine_tune": 0.4}
    run = write_predictions(tmp_path / "numbers", lambda arm, _: y + shift[arm], y.tolist(), metric="r2")
    tables = analyze(run, REPORTS)
    assert [len(tables[name]) for name in ("confusion", "labels", "calibration", "reliability")] == [0] * 4
    (row,) = tables["disagreements"].to_pylist()
    assert (row["only_search"], row["difference"]) == (ROWS, pytest.approx(0.3, rel=1e-4))
    assert tables["errors"].to_pylist()[0]["error"] == pytest.approx(0.1, rel=1e-4)
    assert "no scores by label" in write_html(run).read_text()


def test_folds_score_every_row_once_a_partition(tmp_path):
    y = classes()
    run = write_predictions(tmp_path / "f", lambda arm, seed: logits(arm, seed, y), [[c] for c in y.tolist()], folds=3)
    (row,) = analyze(run, ["disagreements"])["disagreements"].to_pylist()
    assert (row["rows"], row["seeds"]) == (ROWS, 2)


def test_outputs_leave_out_values_that_do_not_fit(tmp_path):
    y = classes()
    run = write_predictions(tmp_path / "odd", lambda arm, seed: logits(arm, seed, y), [[c + 7] for c in y.tolist()])
    outputs = open_views(run)["outputs"]
    assert len(outputs) == 0
    assert outputs.schema == VIEWS["outputs"].schema
