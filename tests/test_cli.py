from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raysearch.cli import console, main
from raysearch.config.search_config import load_search
from raysearch.errors import RunError, SpecError
from raysearch.plan import TrialPlan
from raysearch.schema import catalog
from raysearch.search import dry_run
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSEARCH_RUNS", raising=False)
    monkeypatch.delenv("RAYSEARCH_DATA", raising=False)

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as end:
            main.main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, out, err)

    return run


def begin_run(name: str, trials: int = 2, seconds: float = 6.0) -> Path:
    """A run of `smoke` with some trials committed, as a launch leaves it."""
    search = load_search("smoke")
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "search.json").write_text(json.dumps(search.to_dict()))
    with Ledger.open(folder) as ledger:
        spec = json.dumps(search.to_dict())
        ledger.append("searches", [{"search": name, "spec": spec, "fingerprint": search.fingerprint}])
        for arm, number in [("search", n) for n in range(trials)] + [("fine_tune", 0)]:
            params = {"eta_neg": -0.5, "lr": 1e-4 * (number + 1)} if arm == "search" else {}
            plan = search.resolve(arm, params, number=number, seed=0, labels=["a", "b"])
            ledger.event("asked", plan.trial_id, detail={"plan": json.loads(plan.to_json())})
            ledger.commit(row(plan, score=0.5 + number / 10, seconds=seconds))
    return folder


def row(plan: TrialPlan, score: float, seconds: float) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "trial_id": plan.trial_id,
        "arm": plan.arm,
        "role": plan.role,
        "number": plan.number,
        "seed": plan.seed,
        "state": "complete",
        "why": "done",
        "score": score,
        "best_step": 4,
        "steps": 4,
        "attempts": 1,
        "started": now,
        "ended": now,
        "seconds": seconds,
        "workers": 1,
        "device": "cpu",
        "params": json.dumps(plan.params),
        "plan": plan.to_json(),
    }


# ---- check and plan ----


@pytest.mark.parametrize("name", catalog.names("trials"))
def test_check_says_ok_to_every_search_of_the_catalog(say: Any, name: str) -> None:
    said = say("check", name)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"ok: {name}: ")
    assert say("check", f"trials/{name}.yaml", "--json").json["name"] == name


@pytest.mark.parametrize("name", catalog.names("spaces"))
def test_check_counts_every_space_of_the_catalog(say: Any, name: str) -> None:
    assert say("check", f"spaces/{name}.yaml").out.startswith(f"ok: {name}: ")


def test_check_loads_neither_torch_nor_ray_and_is_quick(tmp_path: Path) -> None:
    code = (
        "import sys; from raysearch import cli\ntry: main.main(['check', 'quickstart'])\nfinally: print(*sys.modules)"
    )
    began = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    print(f"check took {time.perf_counter() - began:.2f} s")
    loaded = set(said.stdout.splitlines()[-1].split())
    assert loaded & {"torch", "ray", "transformers", "optuna", "pyarrow", "pandas", "duckdb"} == set()


def test_a_refused_search_is_one_line_and_exit_2(say: Any) -> None:
    Path("a.yaml").write_text("task: docstrings\nmodle: tiny\n")
    said = say("check", "a.yaml")
    assert (said.code, said.out) == (2, "")
    assert said.err == "raysearch: a.yaml:2: modle: unknown key 'modle'; did you mean 'model'?\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["chek"], "raysearch: No such command 'chek'. Did you mean 'check'?\n"),
        (["check"], "raysearch: Missing argument 'FILE'.\n"),
        (["check", "quickstrat"], "raysearch: no such search 'quickstrat'; did you mean 'quickstart'?\n"),
        (["check", "smoke", "--set", "lr"], "raysearch: --set lr: must be KEY=VALUE\n"),
        (["check", "smoke", "--set", "keep=-2"], "raysearch: --set keep=-2: keep: must be at least -1 (all), got -2\n"),
        (["ls", "space"], "raysearch: nothing to list under 'space'; did you mean 'spaces'?\n"),
        (["show", "atittud"], "raysearch: nothing is called 'atittud'; did you mean 'attittud'?\n"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_2(say: Any, arguments: list[str], problem: str) -> None:
    said = say(*arguments)
    assert (said.code, said.err) == (2, problem)


def test_set_replaces_values(say: Any) -> None:
    said = say("check", "smoke", "--set", "budget.trials=7", "--set", "sampler=tpe", "--json")
    assert said.json["arms"][0]["configurations"] == 7
    assert said.json["sampler"] == "tpe"


def test_an_address_leaves_resources_to_the_cluster(say: Any) -> None:
    greedy = ["check", "smoke", "--set", "resources.cpus=4000"]
    assert say(*greedy).code == 2
    assert say(*greedy, "--address", "auto").code == 0


def test_plan_counts_and_shows_the_first_trials(say: Any) -> None:
    found = say("plan", "quickstart", "--first", "3", "--json").json
    search, fine_tune = found["arms"]
    assert search["trials"] == search["configurations"] * search["seeds"] + search["confirm"]
    assert found["trials"] == search["trials"] + fine_tune["trials"]
    assert len(found["first"]) == 3
    assert set(found["first"][0]) == {"trial", *load_search("quickstart").arms["search"].dimensions}
    assert found["estimate"]["seconds"] is None
    assert "unknown: no earlier run" in say("plan", "quickstart").out


def test_plan_estimates_the_time_from_earlier_runs(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "here", lambda: (2, 0))
    begin_run("first", seconds=6.0)
    found = say("plan", "smoke", "--json").json["estimate"]
    assert found == {"seconds": 6.0 * 4 / 2, "from": ["first"]}  # four trials alike, two at a time
    assert "about 12 s" in say("plan", "smoke").out
    longer = say("plan", "smoke", "--set", "settings.steps=8", "--json").json["estimate"]
    assert longer["seconds"] == 24.0


# ---- runs ----


def test_status_tells_of_one_run_or_all(say: Any) -> None:
    assert say("status").out == "no runs in runs\n"
    begin_run("first")
    about = say("status", "first", "--json").json
    assert about["arms"]["search"]["complete"] == 2
    assert about["best"]["score"] == 0.6
    assert say("status", "first").out.startswith("first: interrupted, ")
    assert [run["name"] for run in say("ls", "runs", "--json").json] == ["first"]
    assert "first" in say("status").out
    elsewhere = say("status", "first", "--runs", "elsewhere")
    assert (elsewhere.code, elsewhere.err) == (1, "raysearch: no run 'first' in elsewhere\n")
    assert say("status", "frist").err == "raysearch: no run 'frist' in runs; did you mean 'first'?\n"


def test_runs_are_looked_for_where_the_environment_says(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_run("first")
    monkeypatch.setenv("RAYSEARCH_RUNS", "other")
    assert say("status", "first").code == 1
    monkeypatch.setenv("RAYSEARCH_RUNS", "runs")
    assert say("status", "first").code == 0


@pytest.mark.slow
def test_analyze_prints_a_report_and_writes_the_page(say: Any) -> None:
    begin_run("first")
    said = say("analyze", "first", "leaderboard", "--json")
    assert set(said.json["tables"]) == {"leaderboard"}
    assert Path(said.json["report"]).read_text().startswith("<!")
    assert "leaderboard" in say("analyze", "first").out


class Calls(list[dict[str, Any]]):
    """Stands for what a verb calls; remembers the arguments."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.append({"given": given, **named})
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """`search.launch`, which needs ray, replaced."""
    calls = Calls(lambda: open_run("first"))
    monkeypatch.setitem(sys.modules, "raysearch.search.launch", types.SimpleNamespace(launch=calls))
    return calls


def test_launch_hands_over_what_the_command_line_says(say: Any, launched: Calls) -> None:
    begin_run("first")
    options = ["--name", "x", "--data", "d", "--fork", "y", "--extend", "--executor", "train_run", "--runs", "r"]
    said = say("launch", "smoke", *options, "--set", "settings.steps=8", "--set", "sampler=tpe")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("next: raysearch analyze first\n")
    (call,) = launched
    (search,) = call.pop("given")
    assert call == {
        "name": "x",
        "address": None,
        "data_root": Path("d"),
        "fork": "y",
        "extend": True,
        "progress": True,
    }
    assert (search.settings["steps"], search.sampler, search.executor, search.runs) == (8, "tpe", "train_run", "r")


@pytest.mark.usefixtures("launched")
def test_launch_without_a_single_score_fails(say: Any) -> None:
    begin_run("first", trials=0)
    said = say("launch", "smoke", "--json")
    assert said.code == 1
    assert said.json["best"] is None
    assert said.err == "raysearch: first: no trial has ended with a score; see `raysearch analyze first`\n"


def test_resume_launches_the_stored_search_under_its_name(say: Any, launched: Calls) -> None:
    begin_run("first")
    assert say("resume", "first", "--json").code == 0
    assert launched[0]["given"][0] == load_search("smoke", {"runs": str(Path("runs").resolve())})
    assert launched[0]["name"] == "first"
    assert say("resume", "second").code == 1


def test_data_that_is_missing_is_told_at_the_line_that_names_it(say: Any, launched: Calls) -> None:
    launched.answer = SpecError("no file x", key="task.train")
    text = "task:\n  name: mine\n  train: x\nmodel: tiny\nmethod: {weighting: end_task_only}\n"
    Path("mine.yaml").write_text(text)
    assert say("launch", "mine.yaml").err == "raysearch: mine.yaml:3: task.train: no file x\n"


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        (RunError("another process\nwrites there"), 1, "another process writes there"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (TypeError("bug"), 1, "TypeError: bug (RAYSEARCH_DEBUG=1 shows where)"),
    ],
)
def test_whatever_fails_is_one_line(
    say: Any, launched: Calls, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, problem: str
) -> None:
    launched.answer = error
    said = say("launch", "smoke")
    assert (said.code, said.err) == (code, f"raysearch: {problem}\n")
    if code == 1:
        monkeypatch.setenv("RAYSEARCH_DEBUG", "1")
        assert "Traceback" in say("launch", "smoke").err


@dataclass
class Exported:
    trial_id: str
    test: float
    verified: dict[str, Any] | None


def test_export_prints_scores_and_fails_when_a_second_training_differs(
    say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_run("first")
    calls = Calls(Exported("search-0", 0.25, None))
    monkeypatch.setitem(sys.modules, "raysearch.export.exporter", types.SimpleNamespace(export=calls))
    said = say("export", "first", "out")
    assert (said.code, said.err) == (0, "")
    assert "0.25" in said.out
    call = calls[0]
    assert (call["given"][1], call["trial"], call["verify"], call["test"]) == (Path("out"), "best", False, True)
    calls.answer = Exported("search-0", 0.25, {"same_score": False, "score": 0.2})
    said = say("export", "first", "out", "--trial", "fine_tune", "--verify", "--no-test", "--json")
    assert said.code == 1
    assert said.json["verified"]["score"] == 0.2
    assert said.err == "raysearch: search-0 came out otherwise when it was trained again: 0.2000\n"
    assert (calls[1]["trial"], calls[1]["verify"], calls[1]["test"]) == ("fine_tune", True, False)


# ---- ls and show ----


@pytest.mark.parametrize("kind", ["spaces", "trials", "reports", "methods", "settings"])
def test_ls_lists_every_kind(say: Any, kind: str) -> None:
    rows = say("ls", kind, "--json").json
    names = [next(iter(row.values())) for row in rows]
    assert len(names) == len(set(names)) >= 7
    assert names[0] in say("ls", kind).out


def test_show_knows_everything_that_ls_lists(say: Any) -> None:
    for kind in ("spaces", "trials", "reports", "methods", "settings"):
        for about in say("ls", kind, "--json").json:
            named, name = next(iter(about.items()))
            assert any(found.get(named) == name for found in say("show", name, "--json").json)
    assert say("show", "in_domain", "--json").json[0]["stage"] == "data"


def test_show_counts_a_space_and_says_which_objectives_are_known_by_other_names(say: Any, tmp_path: Path) -> None:
    (found,) = say("show", "aang_full", "--json").json
    assert (found["count"], len(found["objectives"])) == (524, 524)
    assert found["named"]["out_of_domain/bert/bidirectional/denoise"] == "BERT's masked LM (Devlin et al. 2019)"
    lines = say("show", "xyz").out.splitlines()
    assert "named           3 of 3 in the literature" in lines
    assert any("end_task/bert/bidirectional/denoise " in line and "TAPT" in line for line in lines)
    own = tmp_path / "mine.yaml"
    own.write_text((catalog.root() / "spaces" / "xyz.yaml").read_text())
    assert say("show", str(own), "--json").json[0]["space"] == "mine"


def test_show_says_why_an_objective_is_not_in_a_space(say: Any) -> None:
    named = "end_task/none/bidirectional/next_token"
    found = say("show", "aang_full", "--why-not", named, "--json").json[0]
    assert found["legal"] is False
    assert found["why not"].startswith("exclude[2] of aang_full: output next_token")
    assert say("show", "xyz", "--why-not", "end_task/bert/bidirectional/denoise", "--json").json[0]["legal"] is True


def test_show_tells_a_space_from_a_search_of_the_same_name(say: Any) -> None:
    assert [next(iter(found)) for found in say("show", "smoke", "--json").json] == ["space", "search"]
    assert [next(iter(found)) for found in say("show", "trials/smoke", "--json").json] == ["search"]
    assert "end_task/bert/bidirectional/denoise" in say("show", "smoke").out


def test_help_names_every_verb_and_version_the_version(say: Any) -> None:
    said = say("--help")
    assert said.code == 0
    for verb in ("check", "plan", "launch", "resume", "status", "analyze", "export", "ls", "show"):
        assert verb in said.out
        assert say(verb, "--help").code == 0
    assert say("--version").out.startswith("raysearch ")


def test_public_names_are_there_and_import_late() -> None:
    code = "import sys, raysearch; print(*sys.modules); print(raysearch.load_space('xyz').name, dir(raysearch))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded, named = said.splitlines()
    assert {module for module in loaded.split() if module.startswith("raysearch")} == {"raysearch"}
    assert named.startswith("xyz ")
    assert "open_run" in named


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (0.123456, "0.1235"),
        (1e-05, "1e-05"),
        (12, "12"),
        ({"a": 0.5, "b": "x"}, "a=0.5  b=x"),
        ('{"a": 0.5}', "a=0.5"),
        ("{no json", "{no json"),
        (["a", 1], "a, 1"),
    ],
)
def test_a_cell_is_short_and_legible(value: object, shown: str) -> None:
    assert console.cell(value) == shown


def test_json_has_no_value_that_json_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    console.as_json({"a": float("nan"), "b": [float("inf")], "c": datetime(2026, 1, 2, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None], "c": "2026-01-02 00:00:00+00:00"}


def test_a_table_wraps_long_text_and_keeps_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"word{i}" for i in range(60)]
    console.table([{"trial": "search-0001-s0-faadd8", "why": " ".join(words), "n": 1}], title="T [bold]")
    out = capsys.readouterr().out
    assert all(word in out for word in words)
    assert "search-0001-s0-faadd8" in out
    assert "T [bold]" in out
    assert max(map(len, out.splitlines())) <= console.WIDTH


def test_columns_that_find_no_room_stand_below_after_the_first_one_again(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_long_name_{i}" for i in "abcdefghijkl"]
    console.table([{"arm": "search", **{name: i for i, name in enumerate(names)}}], title="T")
    out = capsys.readouterr().out
    assert [out.count(name) for name in names] == [1] * 12
    assert (out.count("search"), out.count("arm"), out.count("T")) == (2, 2, 1)
    assert max(map(len, out.splitlines())) <= console.WIDTH
