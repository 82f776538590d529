"""Runs of a stranger: what their tables, links and files name is neither removed, nor written, nor executed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.plans import MODEL

from raysearch.cli.main import main
from raysearch.config.search_config import Search
from raysearch.export.exporter import export
from raysearch.plan import TrialPlan
from raysearch.search.launch import launch
from raysearch.search.resume import load_history
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run

STUB_TRAINING = "helpers.stub_training:train"
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture(scope="module")
def finished(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two trials that is finished."""
    declared = {
        "name": "theirs",
        "task": tiny_task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": 4, "eval_every": 2, "batch_size": 8},
        "dimensions": {"lr": {"float": [0.01, 0.9]}},
        "budget": {"trials": 2},
        "executor": "in_process",
        "runs": str(tmp_path_factory.mktemp("runs")),
    }
    return launch(Search.from_dict(declared), train=STUB_TRAINING, progress=False).path


@pytest.fixture
def theirs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, beside a victim's folder."""
    shutil.copytree(finished, tmp_path / "runs" / "theirs")
    (tmp_path / "victim").mkdir()
    for name in ("precious", "precious.tmp", "report-1.arrow"):
        (tmp_path / "victim" / name).write_text("kept")
    return tmp_path / "runs" / "theirs"


def is_intact(run: Path) -> bool:
    victim = run.parent.parent / "victim"
    return {file.name: file.read_text() for file in victim.iterdir()} == dict.fromkeys(
        ("precious", "precious.tmp", "report-1.arrow"), "kept"
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that has to fail, and returns its one line."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("raysearch: ")
    return lines[-1]


def add_trial(run: Path, **changed: Any) -> None:
    """Commits a further trial with other values, as a stranger can: past the checks of the ledger."""
    row = open_run(run).trials().to_pylist()[0] | changed
    with Ledger.open(run) as ledger:
        ledger.commit(row)


# ---- names ----


@pytest.mark.parametrize("trial_id", ["../../../victim", "ABSOLUTE", "..", "a/../../../../victim", ESCAPE])
@pytest.mark.parametrize("verb", ["resume", "status", "analyze", "export"])
def test_hostile_trial_id_is_refused_by_every_verb(
    theirs: Path, trial_id: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trial_id = str(theirs.parent.parent / "victim") if trial_id == "ABSOLUTE" else trial_id
    add_trial(theirs, trial_id=trial_id)
    more = [str(theirs.parent.parent / "model")] if verb == "export" else []
    line = refusal(capsys, verb, str(theirs), *more)
    assert "cannot be the id of a trial" in line
    assert "\x1b" not in line
    assert is_intact(theirs)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arm": "../../../victim"}, "../../../victim"),
        ({"seed": "0/../../../../victim"}, "seed is '0/../../../../victim'"),
        ({"number": "7"}, "number is '7'"),
        ({"weighting": "os:system"}, "'os:system' is no name"),
        ({"schedule": "eval"}, "'eval' is no method"),
        ({"objectives": [{"data": "extra_/../../victim", "transform": "none"}]}, "an objective is"),
        ({"task": "nothing"}, "task is 'nothing'"),
        ({"workers": True}, "workers is True"),
    ],
)
def test_hostile_plan_is_refused_before_a_path_is_made(
    theirs: Path, change: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads(open_run(theirs).trials()["plan"][0].as_py()) | change
    with Ledger.open(theirs) as ledger:
        ledger.event("asked", "search-0009-s0-abcdef", detail={"plan": plan})
    line = refusal(capsys, "resume", str(theirs))
    assert "a plan of this run is damaged, or not one of raysearch" in line
    assert named in line
    assert is_intact(theirs)


def test_hostile_arm_of_the_search_is_refused(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = json.loads((theirs / "search.json").read_text())
    declared["baselines"] = {"../../../victim": {"method": {"weighting": "end_task_only"}, "trials": 1}}
    with Ledger.open(theirs) as ledger:
        row = open_run(theirs).searches().to_pylist()[-1]
        ledger.append("searches", [row | {"spec": json.dumps(declared)}], durable=True)
    (theirs / "search.json").write_text(json.dumps(declared))
    assert "the name of a baseline has small letters" in refusal(capsys, "resume", str(theirs))
    assert is_intact(theirs)


# ---- links ----


def link(run: Path, *names: str, to: str = "") -> None:
    place = run.joinpath(*names)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(run.parent.parent / "victim" / to)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "trials": lambda run: link(run, "trials"),
    "a trial": lambda run: link(run, "trials", "search-0000-s0-aaaaaa"),
    "log": lambda run: link(run, "log"),
    "scratch": lambda run: link(run, "scratch"),
    "tables": lambda run: link(run, "tables", "weights"),
    "lock": lambda run: link(run, "lock", to="precious"),
    "search.json.tmp": lambda run: link(run, "search.json.tmp", to="precious"),
    "report.tmp": lambda run: link(run, "report.tmp", to="precious"),
    "states": lambda run: link(run, "data", "states"),
    "checkpoint": lambda run: link(run, "trials", "search-0000-s0-aaaaaa", to="precious"),
    "upwards": lambda run: (run / "up").symlink_to("../.."),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("verb", ["resume", "analyze"])
def test_link_that_leads_out_of_the_run_is_refused(
    theirs: Path, attack: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ATTACKS[attack](theirs)
    line = refusal(capsys, verb, str(theirs))
    problems = (
        "is a link that leads out of the run's folder",
        "not a segment of a raysearch journal",
        "is missing, and with",
    )
    assert any(problem in line for problem in problems)
    assert is_intact(theirs)


def test_rm_of_a_run_whose_lock_is_a_link_touches_nothing(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ATTACKS["lock"](theirs)
    assert "cannot be locked: it is a link" in refusal(capsys, "rm", "--yes", str(theirs))
    assert is_intact(theirs)


def test_status_of_a_run_whose_lock_is_a_pipe_answers(theirs: Path) -> None:
    (theirs / "lock").unlink()
    os.mkfifo(theirs / "lock")
    assert open_run(theirs).status()["state"] == "finished"


# ---- code ----


@pytest.fixture
def bomb(theirs: Path) -> dict[str, Any]:
    """The primitives of a plan whose file leaves a mark when it runs."""
    import hashlib

    file = theirs / "primitives.py"
    file.write_text(
        "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"
        "def swap(tokens, selected, vocabulary, generator): return tokens\n"
        'PRIMITIVES = {"transform": {"swap": swap}}\n'
    )
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "heads": {}}


def test_code_of_an_unfinished_plan_does_not_run_on_resume(
    theirs: Path, bomb: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads(open_run(theirs).trials()["plan"][0].as_py()) | {"number": 9, "primitives": bomb}
    with Ledger.open(theirs) as ledger:
        ledger.event("asked", TrialPlan.from_dict(plan).trial_id, detail={"plan": plan})
    line = refusal(capsys, "resume", str(theirs))
    assert "your command does not" in line
    assert bomb["sha256"] in line
    assert not (theirs / "executed").exists()


def test_code_of_the_stored_search_does_not_run_on_resume(
    theirs: Path, bomb: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    declared = json.loads((theirs / "search.json").read_text())
    stages = {"data": ["end_task"], "transform": ["swap"], "representation": ["bidirectional"], "output": ["denoise"]}
    for primitives in (
        {"file": bomb["file"], "sha256": bomb["sha256"], "stages": {"transform": {"swap": ""}}},
        bomb["file"],  # by its path, as a user's own file would
    ):
        space = {"primitives": primitives, "stages": stages, "objectives": 1}
        declared |= {"space": "mine", "spaces": {"mine": space}, "method": {"weighting": "static"}}
        with Ledger.open(theirs) as ledger:
            row = open_run(theirs).searches().to_pylist()[-1]
            ledger.append("searches", [row | {"spec": json.dumps(declared)}], durable=True)
        (theirs / "search.json").write_text(json.dumps(declared))
        for more in ([], ["--set", "budget.trials=3"]):
            line = refusal(capsys, "resume", str(theirs), *more)
            assert "your command does not" in line, line
    assert not (theirs / "executed").exists()


@pytest.mark.parametrize("arguments", [{"verify": True}, {}])
def test_code_of_a_committed_plan_does_not_run_on_export(
    theirs: Path, bomb: dict[str, Any], arguments: dict[str, Any]
) -> None:
    run = open_run(theirs)
    row = run.trials().to_pylist()[0]
    plan = json.loads(row["plan"]) | {"number": 9, "primitives": bomb}
    plan["objectives"] = [
        {"data": "end_task", "transform": "swap", "representation": "bidirectional", "output": "denoise"}
    ]
    plan |= {"weighting": "static"}
    trial_id = TrialPlan.from_dict(plan).trial_id
    add_trial(theirs, trial_id=trial_id, number=9, score=0.9, plan=json.dumps(plan))
    with pytest.raises(Exception, match="your command does not"):  # of whatever kind: nothing has run
        export(run, theirs.parent.parent / "model", trial=trial_id, **arguments)
    assert not (theirs / "executed").exists()
    assert not (theirs.parent.parent / "model").exists()


def test_trust_shows_the_sha256_and_runs_the_code(
    theirs: Path, bomb: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from raysearch.objectives.trust import trusting_all
    from raysearch.objectives.user_primitives import load_functions

    with trusting_all(True):
        load_functions(bomb)
    assert f"runs {bomb['file']} (sha256 {bomb['sha256']})" in capsys.readouterr().err
    assert (theirs / "executed").exists()


# ---- terminals ----


def test_escapes_in_tables_never_reach_the_terminal(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = open_run(theirs).trials().to_pylist()[0]
    plan = json.loads(row["plan"]) | {"number": 9, "params": {f"lr{ESCAPE}": ESCAPE}}
    trial_id = TrialPlan.from_dict(plan).trial_id + "-9"
    params = json.dumps(plan["params"])
    why = f"Traceback {ESCAPE}\nValueError: \x9b31m {ESCAPE}"
    add_trial(theirs, trial_id=trial_id, number=9, score=0.99, params=params, plan=json.dumps(plan), why=why)
    add_trial(theirs, trial_id=f"{trial_id}-f", number=10, score=None, state="failed", params=params, why=why)
    for arguments in (["status", str(theirs)], ["analyze", str(theirs)], ["analyze", str(theirs), "failures"]):
        for more in ([], ["--json"]):
            with pytest.raises(SystemExit) as caught:
                main([*arguments, *more])
            printed = capsys.readouterr()
            assert caught.value.code == 0, printed.err
            assert not {"\x1b", "\x07", "\x9b"} & set(printed.out + printed.err)
    page = (theirs / "report.html").read_text()
    assert not {"\x1b", "\x07", "\x9b"} & set(page)


def test_history_of_an_honest_run_is_read(theirs: Path) -> None:
    assert len(load_history(theirs).committed) == 2
