"""The command line: a verb parses, calls one function and prints.

Exit codes: 0 ok, 1 failed, 2 usage or declaration. An error is one line on the standard error; RAYSEARCH_DEBUG=1 shows
where it came from. Whatever needs ray or torch is imported by the verb that needs it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raysearch.cli import console
from raysearch.errors import RunError, SpecError

if TYPE_CHECKING:
    from raysearch.config.loading import ParsedSearch
from raysearch.formatting import format_duration
from raysearch.storage.states import RunState

app = typer.Typer(
    name="raysearch",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
HEAD = 12  # rows of a report that are printed when no report is named

File = Annotated[str, typer.Argument(metavar="FILE", help="a search of the catalog by name, or a YAML file by path")]
SchemaName = Literal["search", "space"]
Name = Annotated[str, typer.Argument(metavar="NAME", help="a run by its name, or its folder")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="replace a value; null takes it out")]
Runs = Annotated[Path | None, typer.Option("--runs", envvar="RAYSEARCH_RUNS", help="folder of runs")]
Data = Annotated[Path | None, typer.Option("--data", envvar="RAYSEARCH_DATA", help="folder of data sets")]
Address = Annotated[str | None, typer.Option(metavar="auto|HOST:PORT", help="a running Ray cluster to join")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.line(f"raysearch {version('raysearch')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="say which")] = False,
) -> None:
    """Search objective spaces for auxiliary learning, on Ray."""


@app.command()
def check(file: File, overrides: Set = None, address: Address = None, json: Json = False) -> None:
    """Refuse what cannot work in a search or a space, or say in a line what it is.

    With an address, what this machine lacks is not held against it.
    """
    from raysearch.modalities.loading import load_space
    from raysearch.search.dry_run import outline

    if Path(file).parent.name == "spaces":
        space = load_space(file)
        about = {"space": space.name, "objectives": len(space.objectives)}
        console.as_json(about) if json else console.line(f"ok: {space.name}: {about['objectives']} objectives")
        return
    found = outline(_load(file, overrides, local=address is None).search)
    if json:
        console.as_json(found)
        return
    arms = ", ".join(f"{arm['configurations'] or 'any'} of {arm['arm']}" for arm in found["arms"])
    spaces = ", ".join(f"{name} ({count})" for name, count in found["spaces"].items()) or "no space"
    console.line(f"ok: {found['name']}: {arms}; {spaces}; task {found['task']}, {found['metric']}")


@app.command()
def plan(
    file: File,
    overrides: Set = None,
    first: Annotated[int, typer.Option(help="how many trials to show")] = 5,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Show what a search would do: arms, counts, first trials, resources, time. Starts nothing."""
    from raysearch.search import dry_run

    search = _load(file, overrides).search
    found = dry_run.outline(search)
    plans = dry_run.first_plans(search, first)
    found["first"] = [{"trial": plan.trial_id, **plan.params} for plan in plans]
    found["estimate"] = dry_run.estimate(search, runs or Path(search.runs))
    if json:
        console.as_json(found)
        return
    spaces = ", ".join(f"{name} ({count} objectives)" for name, count in found["spaces"].items()) or "no space"
    console.line(f"{search.name}: task {search.task.name}, {search.task.metric}; {spaces}; sampler {search.sampler}")
    console.table(found["arms"])
    console.table(found["first"], title="first trials", columns=dict.fromkeys(key for t in found["first"] for key in t))
    console.line(console.resources(found["resources"]))
    time_limit = f"no new configuration after {format_duration(search.budget.seconds)}" if search.budget.seconds else ""
    expected = found["estimate"]
    known = f"about {format_duration(expected['seconds'])}" if expected["seconds"] else f"unknown: {expected['why']}"
    console.line(f"trials: {found['trials'] or 'as many as the time allows'}; time: {known}; {time_limit}".rstrip("; "))


@app.command()
def launch(
    file: File,
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="of the run; the file's name, unless said")] = None,
    data: Data = None,
    overrides: Set = None,
    fork: Annotated[str | None, typer.Option(metavar="NAME", help="begin a new run beside one that differs")] = None,
    extend: Annotated[bool, typer.Option("--extend", help="go on with a changed declaration")] = False,
    executor: Annotated[str | None, typer.Option(help="fleet, train_run or in_process")] = None,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Run a search; a run that is there already is continued."""
    given = [*(overrides or []), *([f"executor={executor}"] if executor else [])]
    parsed = _load(file, given, local=address is None)
    parsed = replace(parsed, search=replace(parsed.search, runs=str(runs))) if runs else parsed
    from raysearch.search.launch import launch as start

    run = start(parsed, name=name, address=address, data_root=data, fork=fork, extend=extend, progress=not json)
    _ended(run, json)


@app.command()
def resume(name: Name, address: Address = None, data: Data = None, runs: Runs = None, json: Json = False) -> None:
    """Go on with a run that was interrupted, as it was declared."""
    from raysearch.search.resume import load_stored_search
    from raysearch.storage.run import open_run

    folder = open_run(name, _runs(runs)).path.resolve()
    search = load_stored_search(folder)
    if search is None:
        raise RunError(f"{folder} was never begun (it has no search.json); launch its search again")
    from raysearch.search.launch import launch as start

    search = replace(search, runs=str(folder.parent))
    run = start(search, name=folder.name, address=address, data_root=data, progress=not json)
    _ended(run, json)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="a run; all of them, unless said")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="again every two seconds until it ends")] = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Show how far runs are; reads tables only."""
    from raysearch.storage.run import open_run

    if name is None:
        _every_run(_runs(runs), json)
        return
    run = open_run(name, _runs(runs))
    while True:
        found = run.status()
        if watch and not json and sys.stdout.isatty():
            console.clear()
        console.as_json(found) if json else console.standing(found)
        if not watch or found["state"] != RunState.RUNNING:
            return
        time.sleep(2)


@app.command()
def analyze(
    name: Name,
    reports: Annotated[list[str] | None, typer.Argument(metavar="[REPORT]...", help="some reports only")] = None,
    final: Annotated[bool, typer.Option("--final", help="first score test for every arm, noted in the run")] = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Print a run's reports and write report.html beside its tables."""
    from raysearch.reports import page, query
    from raysearch.storage.run import open_run

    run = open_run(name, _runs(runs))
    if final:
        from raysearch.export.test_split import score_arms_on_test

        for trial_id, score, retrained in score_arms_on_test(run):
            if not json:
                console.line(f"test {score:.4f}  {trial_id}{'  (trained again)' if retrained else ''}")
    tables = query.analyze(run, reports or None)
    file = page.write_html(run, reports or ())
    if json:
        console.as_json({"report": str(file), "tables": {key: rows.to_pylist() for key, rows in tables.items()}})
        return
    for key, rows in tables.items():
        head = rows if reports else rows.slice(0, HEAD)
        said = [column for column in rows.column_names if rows[column].null_count < len(rows)]
        console.table(head.to_pylist(), title=key, columns=said)
        if len(rows) > len(head):
            console.line(f"  and {len(rows) - len(head)} more rows: raysearch analyze {run.name} {key}\n")
    console.line(f"report   {file}")


@app.command()
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write; must not be there yet")],
    trial: Annotated[str, typer.Option(help="best, the name of an arm for its best, or a trial's id")] = "best",
    verify: Annotated[bool, typer.Option("--verify", help="train it again and compare; exit 1 if it differs")] = False,
    test: Annotated[bool, typer.Option(help="score the test split, which is noted in the run")] = True,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Write a trial as a Hugging Face model, with its configuration and a card."""
    from raysearch.export.exporter import export as write
    from raysearch.storage.run import open_run

    found = asdict(write(open_run(name, _runs(runs)), folder, trial=trial, verify=verify, test=test))
    verified = found.pop("verified")
    if json:
        console.as_json({**found, "verified": verified})
    else:
        console.facts(found | ({f"again: {key}": value for key, value in verified.items()} if verified else {}))
    if verified and not verified["same_score"]:
        raise RunError(f"{found['trial_id']} came out otherwise when it was trained again: {verified['score']:.4f}")


@app.command(name="ls")
def list_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="spaces, trials, reports, runs, methods, settings or profiles")
    ],
    runs: Runs = None,
    json: Json = False,
) -> None:
    """List what there is of a kind."""
    from raysearch.cli import describe

    if kind == "runs":
        _every_run(_runs(runs), json)
        return
    rows = describe.listing(kind)
    console.as_json(rows) if json else console.table(rows)


@app.command()
def show(
    thing: Annotated[str, typer.Argument(help="a space, search, report, method, setting, primitive or key")],
    why_not: Annotated[
        str | None,
        typer.Option(metavar="OBJECTIVE", help="of a space: why data/transform/representation/output is out"),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a thing is."""
    from raysearch.cli import describe

    found = describe.described(thing) if why_not is None else [describe.why_not(thing, why_not)]
    if json:
        console.as_json(found)
        return
    for number, about in enumerate(found):
        if number:
            console.line("")
        if "space" in about and "objectives" in about:
            known = about["named"]
            about = about | {"objectives": "\n".join(f"{o:<50} {known.get(o, '')}" for o in about["objectives"])}
            about["named"] = f"{len(known)} of {about['count']} in the literature"
        console.facts(about)


@app.command()
def schema(
    file: Annotated[SchemaName, typer.Argument(help="the kind of file")] = "search",
) -> None:
    """Print the JSON Schema of a search or space file, for an editor."""
    from raysearch.config.json_schema import search_schema, space_schema

    console.as_json(search_schema() if file == "search" else space_schema())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a verb and exits with 0, 1 or 2; 130 when interrupted."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer has swallowed the KeyboardInterrupt
            _failed("interrupted", code)
    except typer.TyperException as error:
        code = _failed(error.format_message(), error.exit_code)
    except SpecError as error:
        code = _failed(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = _failed("interrupted", INTERRUPTED)
    except RunError as error:
        code = _failed(str(error), 1)
    except Exception as error:
        code = _failed(f"{type(error).__name__}: {error} (RAYSEARCH_DEBUG=1 shows where)", 1)
    code = code if isinstance(code, int) else 0
    cluster = sys.modules.get("raysearch.executors.ray_cluster")
    if cluster is not None and cluster.has_train_runs():  # do not wait for a trial that has not stopped in time
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _failed(problem: str, code: int) -> int:
    """Say the problem in one line; the traceback first where it is wanted."""
    if os.environ.get("RAYSEARCH_DEBUG", "0") not in ("", "0"):
        import traceback

        if sys.exception() is not None:
            traceback.print_exc()
    sys.stderr.write(f"raysearch: {' '.join(problem.split())}\n")
    return code


def _load(file: str, given: list[str] | None, *, local: bool = True) -> ParsedSearch:
    from raysearch.config.loading import load_file

    overrides = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError("must be KEY=VALUE", file=f"--set {text}")
        overrides[key.strip()] = value
    return load_file(file, overrides, local=local)


def _runs(given: Path | None) -> Path:
    return given or Path("runs")


def _every_run(folder: Path, json: bool) -> None:
    from raysearch.storage.run import open_run, run_names

    found = [open_run(name, folder).status() for name in run_names(folder)]
    if json:
        console.as_json(found)
    elif found:
        console.standings(found)
    else:
        console.line(f"no runs in {folder}")


def _ended(run: Any, json: bool) -> None:
    """Say how a launched run stands; exit 1 when it has no trial with a score."""
    found = run.status()
    console.as_json(found) if json else console.standing(found)
    if found["best"] is None:
        raise RunError(f"{found['name']}: no trial has ended with a score; see `raysearch analyze {found['name']}`")
    if not json:
        console.line(f"next: raysearch analyze {found['name']}")
