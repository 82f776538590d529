from __future__ import annotations

import pytest
from helpers.runs import TRACEBACK, write_run

from raysearch.errors import RunError
from raysearch.storage.run import Run
from raysearch.storage.run_log import log_lines


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(write_run(tmp_path_factory.mktemp("log") / "first", trials=6, baselines=1))


def test_log_has_a_line_for_every_event_but_told(run: Run) -> None:
    names = [line.split("  ")[1] for line in log_lines(run)]
    assert names == [name for name in run.events()["event"].to_pylist() if name != "told"]


def test_log_of_a_commit_tells_state_and_score(run: Run) -> None:
    best = run.best()
    (line,) = [line for line in log_lines(run) if f"committed  {best['trial_id']}" in line]
    assert line.endswith(f"complete: {best['score']:.4f} at step {best['best_step']}, 13 s")


def test_log_of_a_trial_has_its_scores_and_traceback(run: Run) -> None:
    (failed,) = [row["trial_id"] for row in run.trials().to_pylist() if row["state"] == "failed"]
    lines = log_lines(run, failed)
    evaluations = run.evaluations(failed).to_pylist()
    scores = [line for line in lines if "select_dev macro_f1" in line]
    assert [float(line.split("macro_f1 ")[1].split(",")[0]) for line in scores] == [
        pytest.approx(row["score"], abs=5e-5) for row in evaluations
    ]
    assert lines[-len(TRACEBACK.splitlines()) :] == TRACEBACK.splitlines()


def test_log_of_an_unknown_trial_names_the_nearest(run: Run) -> None:
    best = str(run.best()["trial_id"])
    with pytest.raises(RunError, match=f"did you mean '{best}'"):
        log_lines(run, best[:-1])
