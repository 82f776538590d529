"""The verbs that look after runs: they parse, call one function, and print one line for an error."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from helpers.runs import write_run

from raysearch.cli import main
from raysearch.storage.lock import take_lock


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSEARCH_RUNS", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("a", "b"):
        write_run(Path("runs") / name, trials=3, baselines=1, moving=False)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main.main(list(arguments))
    out, err = capsys.readouterr()
    return int(str(end.value.code)), out, err


def test_compare_prints_tables_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "compare", "a", "b")
    assert (code, err) == (0, "")
    assert "All runs declare the same.\nb compared with a: " in out
    parsed = json.loads(call(capsys, "compare", "a", "b", "--json")[1])
    assert [row["run"] for row in parsed["runs"]] == ["a", "b"]
    assert call(capsys, "compare", "a")[::2] == (
        1,
        "raysearch: a comparison needs two runs or more; name another one\n",
    )


def test_logs_prints_the_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = call(capsys, "logs", "a", "-n", "3")[1].splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("closed")
    assert len(call(capsys, "logs", "a", "-n", "0")[1].splitlines()) > 20
    assert call(capsys, "logs", "a", "--follow")[0] == 0  # a run that has ended


def test_rm_asks_and_removes_after_yes_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    code, _, err = call(capsys, "rm", "a")
    assert (code, err) == (2, "raysearch: rm: nobody can be asked whether to remove runs/a; add --yes\n")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, _, err = call(capsys, "rm", "a")
    assert code == 1
    assert err.startswith("remove runs/a, 10 trials, ")
    assert err.endswith("raysearch: runs/a is kept\n")
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert call(capsys, "rm", "a")[0] == 0
    assert not Path("runs/a").exists()
    assert call(capsys, "rm", "b", "--yes")[1].startswith("removed runs/b (")
    assert call(capsys, "rm", "b", "--yes")[2] == "raysearch: no run 'b' in runs\n"


def test_rm_refuses_all_runs_when_one_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with take_lock(Path("runs/b")):
        code, _, err = call(capsys, "rm", "a", "b", "--yes")
    assert code == 1
    assert err.endswith("is working on this run; first: raysearch stop b\n")
    assert Path("runs/a").exists()


def test_stop_of_a_run_that_has_ended_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "stop", "a")
    assert (code, err) == (1, "raysearch: runs/a: no process is working on this run, so there is nothing to stop\n")


def test_ls_runs_shows_age_task_and_damaged_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/damaged/tables").mkdir(parents=True)
    code, out, _ = call(capsys, "ls", "runs")
    assert code == 0
    (head,) = [line for line in out.splitlines() if " age " in line]
    assert head.split()[:4] == ["run", "state", "age", "task"]
    parsed = {row["name"]: row for row in json.loads(call(capsys, "ls", "runs", "--json")[1])}
    assert parsed["a"]["task"] == "docstrings"
    assert 0 <= parsed["a"]["age"] < 600
    assert parsed["damaged"]["state"] == "unreadable"
    assert parsed["damaged"]["problem"] in out


def test_names_from_elsewhere_are_printed_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/a").rename("runs/\x1b[31mred")
    out = call(capsys, "ls", "runs")[1]
    assert "\x1b" not in out
    assert r"\x1b[31mred" in out


@pytest.mark.parametrize("form", ["csv", "markdown", "json"])
def test_analyze_format_prints_the_tables_alone(capsys: pytest.CaptureFixture[str], form: str) -> None:
    code, out, err = call(capsys, "analyze", "a", "arms", "--format", form)
    assert (code, err) == (0, "")
    assert "fine_tune" in out
    assert not Path("runs/a/report.html").exists()


def test_analyze_output_writes_a_file_for_each_report(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "analyze", "a", "arms", "final", "--format", "parquet", "--output", "tables")
    assert (code, out) == (0, "tables/arms.parquet\ntables/final.parquet\n")
