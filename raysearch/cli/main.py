"""The command line: a verb parses its arguments, calls one function and prints the result.

Exit codes: 0 for success, 1 for a failure, 2 for a wrong argument or declaration, 130 for an interruption. An error is
one line on the standard error; RAYSEARCH_DEBUG=1 adds the traceback. Each verb imports what it needs, so that a verb
that needs neither ray nor torch starts at once.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from raysearch.cli import console, options, outcomes
from raysearch.cli import runs as run_verbs
from raysearch.cli.exporting import export
from raysearch.cli.options import (
    Address,
    Data,
    File,
    Full,
    Json,
    Name,
    Runs,
    SchemaName,
    Set,
    TableFormat,
    Trust,
    runs_folder,
)
from raysearch.cli.predicting import predict
from raysearch.errors import RunError, SpecError
from raysearch.storage.names import name_problem
from raysearch.storage.states import RunState

app = typer.Typer(
    name="raysearch",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
FIRST_ROWS = 12  # rows of each report that are printed when no report is named


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        console.print_line(f"raysearch {version('raysearch')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search objective spaces for auxiliary learning, on Ray."""
    if context.invoked_subcommand is None:
        console.print_line(context.get_help())


@app.command()
def init(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CSV, TSV, JSONL or Parquet file, or an image folder.")
    ],
    unlabelled: Annotated[Path | None, typer.Option(help="A file of unlabelled text of the same kind.")] = None,
    minutes: Annotated[float, typer.Option(help="About how long the search takes.")] = 30,
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the text.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the label.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="The search; by default NAME.yaml.")] = None,
    json: Json = False,
) -> None:
    """Write a commented search for a file of labelled data; columns, encoder and budget follow from what is there."""
    from raysearch.search.drafting import init_search

    drafted = init_search(file, output=output, unlabelled=unlabelled, minutes=minutes, text=text, label=label)
    outcomes.print_draft(drafted, json)


@app.command()
def check(
    file: File,
    data: Data = None,
    full: Full = False,
    overrides: Set = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Validate a search or space file without running it: print what is in its data and what will mislead.

    The first error is printed with its file, line and remedy. With --address this machine's resources are not checked.
    """
    from raysearch.modalities.loading import load_space
    from raysearch.search import preflight
    from raysearch.search.dry_run import outline

    if Path(file).parent.name == "spaces":
        space = load_space(file)
        count = len(space.objectives)
        if json:
            console.print_json({"space": space.name, "objectives": count})
        else:
            console.print_line(f"ok: {space.name}: {count} objectives")
        return
    parsed = options.load_search(file, overrides, local=address is None)
    if problem := name_problem(parsed.search.name):  # the file's name, where it declares none
        raise SpecError(f"{problem}; set name: in the file", file=file)
    findings, notes = preflight.examine(parsed, data), parsed.notes
    if full:
        from raysearch.search.rehearsal import try_search

        notes = tuple(try_search(parsed, data))
    summary = outline(parsed.search)
    outcomes.print_checked(summary, replace(findings, notes=[*notes, *findings.notes]), json)


@app.command()
def plan(
    file: File,
    overrides: Set = None,
    first: Annotated[int, typer.Option(help="The number of trials to show.")] = 5,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Show what a search would do without starting it: arms, counts, first trials, resources and time."""
    from raysearch.search import dry_run

    search = options.load_search(file, overrides).search
    summary = dry_run.outline(search)
    plans = dry_run.first_plans(search, first)
    summary["first"] = [{"trial": plan.number, **plan.params} for plan in plans]  # ids need the labels of the data
    summary["estimate"] = dry_run.estimate(search, runs or Path(search.runs))
    console.print_json(summary) if json else console.print_dry_run(summary, search.budget.seconds)


@app.command()
def launch(
    file: File,
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="The name of the run; by default that of the file.")] = None,
    data: Data = None,
    overrides: Set = None,
    fork: Annotated[str | None, typer.Option(metavar="NAME", help="Start another run, of this name.")] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Continue the run with a changed search.")] = False,
    executor: Annotated[str | None, typer.Option(help="Where trials run: fleet, train_run or in_process.")] = None,
    trust: Trust = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Run a search until its budget is met, then say what to use. A run that exists already is resumed."""
    settings = [*(overrides or []), *([f"executor={executor}"] if executor else [])]
    parsed = options.load_search(file, settings, local=address is None)
    parsed = replace(parsed, search=replace(parsed.search, runs=str(runs))) if runs else parsed
    from raysearch.search.launch import launch as start

    run = start(
        parsed, name=name, address=address, data_root=data, fork=fork, extend=extend, progress=not json, trust=trust
    )
    outcomes.print_outcome(run, json)


@app.command()
def resume(
    name: Name,
    address: Address = None,
    data: Data = None,
    overrides: Set = None,
    trust: Trust = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Resume a run that was interrupted, with the search that it stores; --set extends it.

    An extension may change budget, confirm, further seeds and trials of baselines, as with `launch --extend`.
    """
    from raysearch.search.resume import load_stored_search
    from raysearch.storage.run import open_run

    folder = open_run(name, runs_folder(runs)).path.resolve()
    search = load_stored_search(folder)
    if search is None:
        raise RunError(f"{folder} has no search.json, because its search was never started; launch the search again")
    from raysearch.search.launch import launch as start

    if overrides:
        search = options.load_search(str(folder / "search.json"), overrides, local=address is None).search
    search = replace(search.as_stored(), runs=str(folder.parent))
    extend = bool(overrides)
    run = start(
        search, name=folder.name, address=address, data_root=data, extend=extend, progress=not json, trust=trust
    )
    outcomes.print_outcome(run, json)


@app.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A run; by default all runs.", autocompletion=options.complete_run),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every two seconds until the run ends.")] = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Show how far one run is, or all of them. It only reads their tables."""
    from raysearch.storage.run import open_run

    if name is None:
        outcomes.print_runs(runs_folder(runs), json)
        return
    run = open_run(name, runs_folder(runs))
    while True:
        summary = run.status()
        if watch and not json and sys.stdout.isatty():
            console.clear_screen()
        console.print_json(summary) if json else console.print_status(summary)
        if not watch or summary["state"] != RunState.RUNNING:
            return
        time.sleep(2)


@app.command()
def analyze(
    name: Name,
    reports: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REPORT]...", help="Only these: names or SQL files."),
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="First score every arm on the test split.")] = False,
    form: Annotated[TableFormat | None, typer.Option("--format", help="Write only the tables, in this format.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --format, write a file for each report to this folder.")
    ] = None,
    trust: Trust = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Print a run's reports and write report.html into its folder; with --format print or write the tables alone."""
    from raysearch.reports import page, query
    from raysearch.storage.run import open_run

    run = open_run(name, runs_folder(runs))
    if final:
        from raysearch.export.final import score_arms_on_test
        from raysearch.objectives.trust import trusting_all

        with trusting_all(trust):
            for trial_id, score, retrained in score_arms_on_test(run):
                if not json:
                    console.print_line(f"test {score:.4f}  {trial_id}{'  (trained again)' if retrained else ''}")
    answers = query.analyze(run, reports or None)
    if form is not None or output is not None:
        outcomes.print_tables(answers, form or "csv", output)
        outcomes.refuse_empty(run)
        return
    file = page.write_html(run, reports or ())
    if json:
        console.print_json({"report": str(file), "tables": {key: rows.to_pylist() for key, rows in answers.items()}})
        outcomes.refuse_empty(run)
        return
    for key, answer in answers.items():
        console.print_answer(key, answer, run.name, None if reports else FIRST_ROWS)
    console.print_line(f"report   {file}")
    outcomes.refuse_empty(run)


app.command()(export)
app.command()(predict)


@app.command(name="ls")
def list_(
    category: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="One of spaces, searches, baselines, reports, runs, methods, settings and profiles."
        ),
    ],
    runs: Runs = None,
    json: Json = False,
) -> None:
    """List spaces, searches, baselines, reports, runs, methods, settings or profiles, a line each."""
    from raysearch.cli import describe

    if category == "runs":
        outcomes.print_runs(runs_folder(runs), json)
        return
    rows = describe.listing(category)
    console.print_json(rows) if json else console.print_table(rows)


@app.command()
def show(
    thing: Annotated[
        str,
        typer.Argument(metavar="THING", help="A space, search, baseline, report, method, setting, primitive or key."),
    ],
    why_not: Annotated[
        str | None,
        typer.Option(
            metavar="OBJECTIVE", help="Say why a space excludes this objective (data/transform/representation/output)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Describe a space, search, baseline, report, method, setting, primitive or key of a search."""
    from raysearch.cli import describe

    descriptions = describe.described(thing) if why_not is None else [describe.why_not(thing, why_not)]
    if json:
        console.print_json(descriptions)
        return
    for number, facts in enumerate(descriptions):
        if number:
            console.print_line("")
        if "space" in facts and "objectives" in facts:
            names = facts["named"]
            facts = facts | {"objectives": "\n".join(f"{o:<50} {names.get(o, '')}" for o in facts["objectives"])}
            facts["named"] = f"{len(names)} of {facts['count']} in the literature"
        console.print_facts(facts)


@app.command()
def schema(
    file: Annotated[SchemaName, typer.Argument(help="The kind of file.")] = "search",
) -> None:
    """Print the JSON Schema of a search or space file, so that an editor completes and checks it."""
    from raysearch.config.json_schema import search_schema, space_schema

    console.print_json(search_schema() if file == "search" else space_schema())


run_verbs.add_verbs(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs a verb and exits with its exit code."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer has caught the KeyboardInterrupt
            console.print_error("interrupted", code)
    except typer.TyperException as error:
        code = console.print_error(options.with_example(error), error.exit_code)
    except SpecError as error:
        code = console.print_error(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = console.print_error("interrupted", INTERRUPTED)
    except RunError as error:
        code = console.print_error(str(error), 1)
    except Exception as error:
        code = console.print_error(f"{type(error).__name__}: {error} (RAYSEARCH_DEBUG=1 shows where)", 1)
    code = code if isinstance(code, int) else 0
    cluster = sys.modules.get("raysearch.executors.ray_cluster")
    is_command = arguments is None  # this process is the command, and nothing else runs in it
    if is_command and cluster is not None and cluster.has_train_runs():  # do not wait for a trial that goes on
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
