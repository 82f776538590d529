"""Every command that a recommendation prints works as printed: it is split as a shell would, and run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.plans import MODEL, QUICK

from raysearch.cli import main
from raysearch.reports.recommendation import recommend
from raysearch.storage.run import open_run

pytestmark = pytest.mark.slow  # whole searches

SEARCH = {
    "model": MODEL,
    "space": "smoke",
    "method": {"weighting": "static"},
    "settings": QUICK,
    "dimensions": {"lambda_e": {"float": [0.3, 0.9]}},
    "budget": {"trials": 4},
    "executor": "in_process",
    "sampler": "random",
    "selection": "none",
}
FINE_TUNE = {"fine_tune": {"method": {"weighting": "end_task_only"}}}


@pytest.fixture
def run_cli(
    tiny_task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Returns a function that runs a command line, beside a search `mine.yaml` whose data lie in another folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("RAYSEARCH_RUNS", raising=False)
    monkeypatch.delenv("RAYSEARCH_DATA", raising=False)
    (tmp_path / "data").symlink_to(Path(tiny_task["train"]).parent)
    task = {key: Path(value).name if "/" in value else value for key, value in tiny_task.items()}
    Path("mine.yaml").write_text(json.dumps({"task": task, **SEARCH}))

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main.main(list(arguments))
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out + err

    return run


def printed(out: str) -> list[str]:
    """Returns the commands among printed lines."""
    return [line.strip() for line in out.splitlines() if line.startswith("    raysearch ")]


def launch(run_cli: Any, **more: Any) -> list[str]:
    settings = [word for key, value in more.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    code, out = run_cli("launch", "mine.yaml", "--data", "../data", *settings)
    assert code == 0, out
    commands = printed(out)
    assert commands == [step.command for step in recommend(open_run("mine")).steps]
    return commands


def test_commands_of_an_unrepeated_search_work(run_cli: Any) -> None:
    commands = launch(run_cli, baselines=FINE_TUNE)
    assert [shlex.split(command)[1] for command in commands] == ["resume", "export"]
    for command in commands:
        code, out = run_cli(*shlex.split(command)[1:])
        assert code == 0, out
    seeds = {row["seed"] for row in open_run("mine").trials().to_pylist() if row["role"] == "confirm"}
    assert seeds == {101, 102, 103, 104, 105}
    assert Path("mine-model", "README.md").exists()


def test_commands_of_an_open_question_work(run_cli: Any) -> None:
    commands = launch(run_cli, baselines=FINE_TUNE, confirm={"seeds": [101]})
    verbs = [shlex.split(command)[1] for command in commands]
    assert verbs[0] == "resume"
    assert verbs[-2:] == ["launch", "export"]
    for command in commands:
        code, out = run_cli(*shlex.split(command)[1:])
        assert code == 0, out
    assert open_run("mine").status()["state"] == "finished"
    assert open_run("mine-more").status()["state"] == "finished"


def test_commands_of_a_failed_search_work(run_cli: Any) -> None:
    code, out = run_cli("launch", "mine.yaml", "--data", "../data", "--set", "settings.lr=1e30")
    assert code == 1
    (command,) = printed(out)
    code, out = run_cli(*shlex.split(command)[1:])
    assert "failures" in out  # analyze fails too, because there is no score
    assert "ArithmeticError" in out or "finite" in out


def test_commands_of_a_search_without_baselines_work(run_cli: Any) -> None:
    commands = launch(run_cli, confirm={"seeds": [101]}, budget={"trials": 1})
    (command,) = (each for each in commands if shlex.split(each)[1] == "launch")
    code, out = run_cli(*shlex.split(command)[1:])
    assert code == 0, out
    compared = open_run("mine-compared")
    assert len(compared.search["baselines"]) > 1
    assert compared.status()["state"] == "finished"
    assert recommend(compared).arm in ["search", *compared.search["baselines"]]
