from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from raysearch.cli import console, describe, main, options
from raysearch.config.loading import load_search
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.schema import catalog
from raysearch.search import dry_run
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run


@dataclass
class CommandResult:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSEARCH_RUNS", raising=False)
    monkeypatch.delenv("RAYSEARCH_DATA", raising=False)

    def run(*arguments: str) -> CommandResult:
        with pytest.raises(SystemExit) as end:
            main.main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return CommandResult(end.value.code, out, err)

    return run


def write_run(name: str, trials: int = 2, seconds: float = 6.0) -> Path:
    """Writes a run of `smoke` with committed trials, as a launch leaves it."""
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
            ledger.event("asked", plan.trial_id, detail={"plan": plan.to_dict()})
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


@pytest.fixture(autouse=True)
def _default_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


# ---- help ----


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_is_printed_without_an_error(run_cli: Any, arguments: list[str]) -> None:
    result = run_cli(*arguments)
    assert (result.code, result.err) == (0, "")
    assert "Usage: " in result.out
    assert run_cli("show", "-h").code == 0


def test_every_verb_with_an_argument_has_an_example() -> None:
    commands = typer.main.get_command(main.app).commands
    needy = {name for name, command in commands.items() if any(each.required for each in command.params)}
    assert needy == options.EXAMPLES.keys()
    assert {example.split()[0] for example in options.EXAMPLES.values()} == needy


# ---- check and plan ----


@pytest.mark.parametrize("name", catalog.names("trials"))
def test_check_accepts_every_search_of_the_catalog(run_cli: Any, name: str) -> None:
    result = run_cli("check", name)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"ok: {name}: ")
    assert run_cli("check", f"trials/{name}.yaml", "--json").json["name"] == name


@pytest.mark.parametrize("name", catalog.names("spaces"))
def test_check_accepts_every_space_of_the_catalog(run_cli: Any, name: str) -> None:
    assert run_cli("check", f"spaces/{name}.yaml").out.startswith(f"ok: {name}: ")


def modules_loaded_by(*arguments: str, folder: Path) -> set[str]:
    """Returns the modules that a command imports, in a fresh interpreter."""
    code = (
        f"import sys; from raysearch.cli import main\ntry: main.main({list(arguments)})\nfinally: print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


SLOW_IMPORTS = {"torch", "ray", "transformers", "optuna", "pandas", "duckdb", "matplotlib", "jinja2"}


def test_check_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    assert modules_loaded_by("check", "quickstart", folder=tmp_path) & {*SLOW_IMPORTS, "pyarrow", "rich"} == set()


@pytest.mark.usefixtures("run_cli")
@pytest.mark.parametrize("arguments", [["status", "first"], ["status"], ["ls", "runs"], ["ls", "methods"]])
def test_status_and_ls_import_nothing_slow(tmp_path: Path, arguments: list[str]) -> None:
    write_run("first")
    assert modules_loaded_by(*arguments, folder=tmp_path) & SLOW_IMPORTS == set()


def test_check_invalid_search_prints_one_line_and_exits_2(run_cli: Any) -> None:
    Path("a.yaml").write_text("task: docstrings\nmodle: tiny\n")
    result = run_cli("check", "a.yaml")
    assert (result.code, result.out) == (2, "")
    assert result.err == "raysearch: a.yaml:2: modle: unknown key 'modle'; did you mean 'model'?\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["checkk"], "raysearch: No such command 'checkk'. Did you mean 'check'?\n"),
        (["check"], "raysearch: Missing argument 'FILE', such as: raysearch check quickstart\n"),
        (["show"], "raysearch: Missing argument 'THING', such as: raysearch show lambda_e\n"),
        (["ls"], "raysearch: Missing argument 'KIND', such as: raysearch ls methods\n"),
        (["export"], "raysearch: Missing argument 'NAME', such as: raysearch export quickstart quickstart-model\n"),
        (["export", "a"], "raysearch: Missing argument 'DIR', such as: raysearch export quickstart quickstart-model\n"),
        (
            ["show", "learning_rate"],
            "raysearch: nothing is called 'learning_rate'; it is called lr here\n",
        ),
        (["check", "quickstrat"], "raysearch: no such search 'quickstrat'; did you mean 'quickstart'?\n"),
        (["check", "smoke", "--set", "lr"], "raysearch: --set lr: must be KEY=VALUE\n"),
        (["check", "smoke", "--set", "keep=-2"], "raysearch: --set keep=-2: keep: must be in [-1, inf), got -2\n"),
        (
            ["ls", "runs", "--runs", "s3://a/b"],
            "raysearch: Invalid value for '--runs' (env var: 'RAYSEARCH_RUNS'): s3://a/b is an address of a store "
            "(s3), and runs are written to a folder: name one, such as runs; object stores are not supported yet\n",
        ),
        (["ls", "space"], "raysearch: nothing to list under 'space'; did you mean 'spaces'?\n"),
        (["show", "atittud"], "raysearch: nothing is called 'atittud'; did you mean 'attittud'?\n"),
    ],
)
def test_command_line_mistake_prints_one_line_and_exits_2(run_cli: Any, arguments: list[str], problem: str) -> None:
    result = run_cli(*arguments)
    assert (result.code, result.err) == (2, problem)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--name", "a b"], "--name: 'a b' cannot be the name of a run"),
        (["--name", ""], "--name: '' cannot be the name of a run"),
        (["--fork", "../../x"], "--fork: '../../x' cannot be the name of a run"),
        (["--fork", "x", "--name", "y"], "--fork x and --name y both name the run; leave one out"),
        (["--set", "name=/abs"], "--set name=/abs: name: '/abs' cannot be the name of a run"),
        (["--set", "runs=gs://b"], "--set runs=gs://b: runs: gs://b is an address of a store (gs)"),
    ],
)
def test_launch_refuses_a_name_or_folder_in_one_line(run_cli: Any, options: list[str], problem: str) -> None:
    result = run_cli("launch", "smoke", *options)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith(f"raysearch: {problem}")
    assert not Path("runs").exists()


def test_check_refuses_a_file_whose_name_is_no_run_name(run_cli: Any) -> None:
    Path("my search.yaml").write_text("task: docstrings\nmodel: tiny\nmethod: {weighting: end_task_only}\n")
    result = run_cli("check", "my search.yaml")
    assert result.code == 2
    assert result.err.startswith("raysearch: my search.yaml: 'my search' cannot be the name of a run")
    assert result.err.endswith("such as 'my_search'; set name: in the file\n")
    assert run_cli("check", "my search.yaml", "--set", "name=mine").code == 0


def test_set_option_overrides_settings(run_cli: Any) -> None:
    result = run_cli("check", "smoke", "--set", "budget.trials=7", "--set", "sampler=tpe", "--json")
    assert result.json["arms"][0]["configurations"] == 7
    assert result.json["sampler"] == "tpe"


def test_check_with_address_skips_local_resource_limits(run_cli: Any) -> None:
    greedy = ["check", "smoke", "--set", "resources.cpus=4000"]
    assert run_cli(*greedy).code == 2
    assert run_cli(*greedy, "--address", "auto").code == 0


def test_plan_counts_trials_and_shows_the_first(run_cli: Any) -> None:
    parsed = run_cli("plan", "quickstart", "--first", "3", "--json").json
    search, *baselines = parsed["arms"]
    assert search["trials"] == search["configurations"] * search["seeds"] + search["confirm"]
    assert parsed["trials"] == search["trials"] + sum(baseline["trials"] for baseline in baselines)
    assert len(parsed["first"]) == 3
    assert set(parsed["first"][0]) == {"trial", *load_search("quickstart").arms["search"].dimensions}
    assert parsed["estimate"]["seconds"] is None
    assert "unknown: no earlier run" in run_cli("plan", "quickstart").out


def test_plan_estimates_time_from_earlier_runs(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "local_resources", lambda: (2, 0))
    write_run("first", seconds=6.0)
    parsed = run_cli("plan", "smoke", "--json").json["estimate"]
    assert parsed == {"seconds": 6.0 * 4 / 2, "from": ["first"]}  # four trials alike, two at a time
    assert "about 12 s" in run_cli("plan", "smoke").out
    longer = run_cli("plan", "smoke", "--set", "settings.steps=8", "--json").json["estimate"]
    assert longer["seconds"] == 24.0


# ---- runs ----


def test_status_reports_one_run_or_all_runs(run_cli: Any) -> None:
    assert run_cli("status").out == "no runs in runs\n"
    write_run("first")
    status = run_cli("status", "first", "--json").json
    assert status["arms"]["search"]["complete"] == 2
    assert status["best"]["score"] == 0.6
    assert run_cli("status", "first").out.startswith("first: interrupted, ")
    assert [run["name"] for run in run_cli("ls", "runs", "--json").json] == ["first"]
    assert "first" in run_cli("status").out
    elsewhere = run_cli("status", "first", "--runs", "elsewhere")
    assert (elsewhere.code, elsewhere.err) == (1, "raysearch: no run 'first' in elsewhere\n")
    assert run_cli("status", "frist").err == "raysearch: no run 'frist' in runs; did you mean 'first'?\n"


def test_runs_folder_is_read_from_the_environment(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("first")
    monkeypatch.setenv("RAYSEARCH_RUNS", "other")
    assert run_cli("status", "first").code == 1
    monkeypatch.setenv("RAYSEARCH_RUNS", "runs")
    assert run_cli("status", "first").code == 0


@pytest.mark.slow
def test_analyze_prints_report_and_writes_html_page(run_cli: Any) -> None:
    write_run("first")
    result = run_cli("analyze", "first", "leaderboard", "--json")
    assert set(result.json["tables"]) == {"leaderboard"}
    assert Path(result.json["report"]).read_text().startswith("<!")
    assert "leaderboard" in run_cli("analyze", "first").out


class RecordedCalls(list[dict[str, Any]]):
    """A stand-in for the function that a verb calls; it records the arguments."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, *positional: Any, **named: Any) -> Any:
        self.append({"positional": positional, **named})
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


@pytest.fixture
def launch_calls(monkeypatch: pytest.MonkeyPatch) -> RecordedCalls:
    """Replaces `search.launch`, which needs ray."""
    calls = RecordedCalls(lambda: open_run("first"))
    monkeypatch.setitem(sys.modules, "raysearch.search.launch", types.SimpleNamespace(launch=calls))
    return calls


def test_launch_passes_command_line_options(run_cli: Any, launch_calls: RecordedCalls) -> None:
    write_run("first")
    options = ["--name", "x", "--data", "d", "--fork", "y", "--extend", "--executor", "train_run", "--runs", "r"]
    result = run_cli("launch", "smoke", *options, "--set", "settings.steps=8", "--set", "sampler=tpe")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("next: raysearch analyze first\n")
    (call,) = launch_calls
    (parsed,) = call.pop("positional")
    search = parsed.search
    assert call == {
        "name": "x",
        "address": None,
        "data_root": Path("d"),
        "fork": "y",
        "extend": True,
        "progress": True,
        "trust": False,
    }
    assert (search.settings["steps"], search.sampler, search.executor, search.runs) == (8, "tpe", "train_run", "r")


@pytest.mark.usefixtures("launch_calls")
def test_launch_without_any_score_exits_1(run_cli: Any) -> None:
    write_run("first", trials=0)
    result = run_cli("launch", "smoke", "--json")
    assert result.code == 1
    assert result.json["best"] is None
    assert result.err == "raysearch: first: no trial has ended with a score; see `raysearch analyze first`\n"


def test_analyze_without_any_score_exits_1(run_cli: Any) -> None:
    write_run("first", trials=0)
    for arguments in (["--json"], []):
        result = run_cli("analyze", "first", *arguments)
        assert result.code == 1
        assert result.err == "raysearch: first: no trial has ended with a score, so there is nothing to compare\n"


def test_resume_launches_the_stored_search_by_name(run_cli: Any, launch_calls: RecordedCalls) -> None:
    write_run("first")
    assert run_cli("resume", "first", "--json").code == 0
    assert launch_calls[0]["positional"][0] == load_search("smoke", {"runs": str(Path("runs").resolve())})
    assert launch_calls[0]["name"] == "first"
    assert run_cli("resume", "second").code == 1


def test_launch_missing_data_error_names_the_yaml_line(run_cli: Any) -> None:
    text = "task:\n  name: mine\n  train: x\nmodel: tiny\nmethod: {weighting: end_task_only}\n"
    Path("mine.yaml").write_text(text)
    assert run_cli("launch", "mine.yaml").err.startswith("raysearch: mine.yaml:3: task.train: ")
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        (RunError("another process\nwrites there"), 1, "another process writes there"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (TypeError("bug"), 1, "TypeError: bug (RAYSEARCH_DEBUG=1 shows where)"),
    ],
)
def test_launch_failure_prints_one_line(
    run_cli: Any,
    launch_calls: RecordedCalls,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    problem: str,
) -> None:
    launch_calls.answer = error
    result = run_cli("launch", "smoke")
    assert (result.code, result.err) == (code, f"raysearch: {problem}\n")
    if code == 1:
        monkeypatch.setenv("RAYSEARCH_DEBUG", "1")
        assert "Traceback" in run_cli("launch", "smoke").err


@dataclass
class Exported:
    trial_id: str
    test: float
    verified: dict[str, Any] | None
    recommendation: str = "Use the search's winner."


def test_export_prints_scores_and_fails_if_verify_differs(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("first")
    calls = RecordedCalls(Exported("search-0", 0.25, None))
    monkeypatch.setitem(sys.modules, "raysearch.export.exporter", types.SimpleNamespace(export=calls))
    result = run_cli("export", "first", "out")
    assert (result.code, result.err) == (0, "")
    assert "0.25" in result.out
    steps = "  The search is not finished; to continue it:\n    raysearch resume first\n"
    assert f"Use the search's winner.\n{steps}" in result.out
    call = calls[0]
    assert (call["positional"][1], call["trial"], call["verify"], call["test"]) == (Path("out"), "best", False, True)
    calls.answer = Exported("search-0", 0.25, {"same_score": False, "score": 0.2})
    result = run_cli("export", "first", "out", "--trial", "fine_tune", "--verify", "--no-test", "--onnx", "--json")
    assert result.code == 1
    assert result.json["verified"]["score"] == 0.2
    assert result.err == "raysearch: search-0 has another score after a second training: 0.2000\n"
    assert (calls[1]["trial"], calls[1]["verify"], calls[1]["test"]) == ("fine_tune", True, False)
    assert [call["onnx"] for call in calls] == [False, True]


# ---- ls and show ----


@pytest.mark.parametrize("kind", ["spaces", "searches", "reports", "methods", "settings"])
def test_ls_lists_every_category(run_cli: Any, kind: str) -> None:
    rows = run_cli("ls", kind, "--json").json
    names = [next(iter(row.values())) for row in rows]
    assert len(names) == len(set(names)) >= 7
    assert names[0] in run_cli("ls", kind).out


def test_ls_trials_is_another_name_of_searches(run_cli: Any) -> None:
    assert run_cli("ls", "trials").out == run_cli("ls", "searches").out


def test_show_describes_everything_that_ls_lists(run_cli: Any) -> None:
    for kind in ("spaces", "searches", "reports", "methods", "settings"):
        for row in run_cli("ls", kind, "--json").json:
            singular, name = next(iter(row.items()))
            assert any(description.get(singular) == name for description in describe.described(name))
    assert run_cli("show", "in_domain", "--json").json[0]["stage"] == "data"


def test_show_space_counts_objectives_and_names_known_ones(run_cli: Any, tmp_path: Path) -> None:
    (parsed,) = run_cli("show", "aang_full", "--json").json
    assert (parsed["count"], len(parsed["objectives"])) == (524, 524)
    assert parsed["named"]["out_of_domain/bert/bidirectional/denoise"] == "BERT's masked LM (Devlin et al. 2019)"
    lines = run_cli("show", "xyz").out.splitlines()
    assert "named           3 of 3 in the literature" in lines
    assert any("end_task/bert/bidirectional/denoise " in line and "TAPT" in line for line in lines)
    space_file = tmp_path / "mine.yaml"
    space_file.write_text((catalog.root() / "spaces" / "xyz.yaml").read_text())
    assert run_cli("show", str(space_file), "--json").json[0]["space"] == "mine"


def test_show_why_not_explains_an_excluded_objective(run_cli: Any) -> None:
    named = "end_task/none/bidirectional/next_token"
    parsed = run_cli("show", "aang_full", "--why-not", named, "--json").json[0]
    assert parsed["legal"] is False
    assert parsed["why not"].startswith("exclude[2] of aang_full: output next_token")
    assert run_cli("show", "xyz", "--why-not", "end_task/bert/bidirectional/denoise", "--json").json[0]["legal"] is True


def test_show_distinguishes_space_and_search_of_same_name(run_cli: Any) -> None:
    assert [next(iter(parsed)) for parsed in run_cli("show", "smoke", "--json").json] == ["space", "search"]
    assert [next(iter(parsed)) for parsed in run_cli("show", "trials/smoke", "--json").json] == ["search"]
    assert "end_task/bert/bidirectional/denoise" in run_cli("show", "smoke").out


def test_help_lists_every_verb_and_version_prints_version(run_cli: Any) -> None:
    result = run_cli("--help")
    assert result.code == 0
    for verb in ("check", "plan", "launch", "resume", "status", "analyze", "export", "ls", "show"):
        assert verb in result.out
        assert run_cli(verb, "--help").code == 0
    assert run_cli("--version").out.startswith("raysearch ")


def test_public_names_are_imported_lazily() -> None:
    code = "import sys, raysearch; print(*sys.modules); print(raysearch.load_space('xyz').name, dir(raysearch))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded, named = result.splitlines()
    assert {module for module in loaded.split() if module.startswith("raysearch")} == {"raysearch"}
    assert named.startswith("xyz ")
    assert "open_run" in named


@pytest.mark.parametrize(("value", "text"), [('{"a": 0.5}', "a=0.5"), ("{no json", "{no json")])
def test_table_cell_shows_the_values_of_a_json_column(
    capsys: pytest.CaptureFixture[str], value: str, text: str
) -> None:
    console.print_table([{"params": value}])
    assert text in capsys.readouterr().out


def test_json_output_replaces_non_finite_numbers_by_null(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": float("nan"), "b": [float("inf")], "c": datetime(2026, 1, 2, tzinfo=UTC)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None], "c": "2026-01-02 00:00:00+00:00"}


def test_table_wraps_long_text_and_keeps_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"word{i}" for i in range(60)]
    console.print_table([{"trial": "search-0001-s0-faadd8", "why": " ".join(words), "n": 1}], title="T [bold]")
    out = capsys.readouterr().out
    assert all(word in out for word in words)
    assert "search-0001-s0-faadd8" in out
    assert "T [bold]" in out
    assert max(map(len, out.splitlines())) <= console.WIDTH


def test_piped_table_heeds_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = {f"a_long_name_{i}": "word " * 4 for i in "abcdef"}
    widths = []
    for columns in ("60", "100", "not a number"):
        monkeypatch.setenv("COLUMNS", columns)
        console.print_table([row])
        widths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert widths[0] <= 60 < widths[1] <= 100 < widths[2] <= console.WIDTH


def test_table_continues_excess_columns_below_first_column(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_long_name_{i}" for i in "abcdefghijkl"]
    console.print_table([{"arm": "search", **{name: i for i, name in enumerate(names)}}], title="T")
    out = capsys.readouterr().out
    assert [out.count(name) for name in names] == [1] * 12
    assert (out.count("search"), out.count("arm"), out.count("T")) == (2, 2, 1)
    assert max(map(len, out.splitlines())) <= console.WIDTH


def texts_of_help() -> dict[str, str]:
    """Returns every text that --help prints, by verb and option."""
    commands = typer.main.get_command(main.app).commands
    texts = {name: str(command.help) for name, command in commands.items()}
    for name, command in commands.items():
        options_of = [each for each in command.params if each.name != "help"]
        texts |= {f"{name} {each.name}": str(getattr(each, "help", "") or "") for each in options_of}
    return texts


def test_help_texts_are_sentences_and_verbs_are_imperative() -> None:
    texts = texts_of_help()
    assert {key for key, text in texts.items() if not text[:1].isupper() or text.rstrip()[-1:] != "."} == set()
    verbs = {key: text.split()[0] for key, text in texts.items() if " " not in key}
    assert {key for key, verb in verbs.items() if verb.endswith("s")} == set()
