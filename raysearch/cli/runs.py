"""The verbs that look after runs: compare, logs, stop, rm."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from raysearch.cli import console
from raysearch.cli.options import Json, Name, Runs, runs_folder
from raysearch.errors import RunError, SpecError
from raysearch.formatting import format_bytes, format_count, printable
from raysearch.storage.states import MAIN_ARM

FOLLOW_SECONDS, COPY_SECONDS = 2.0, 5.0  # between looks at the tables


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN", help="Two runs or more, by name or folder.")],
    arm: Annotated[str, typer.Option(metavar="ARM", help="Compare this arm; by default the search's winner.")] = (
        MAIN_ARM
    ),
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Compare runs with the first one: what they declare otherwise, spent and scored, and how surely they differ.

    A difference is stated only where both runs have the same data, the same metric and the same fresh seeds.
    """
    from raysearch.reports.run_comparison import compare_runs, to_plain
    from raysearch.storage.run import open_run

    comparison = compare_runs([open_run(name, runs_folder(runs)) for name in names], arm)
    if json:
        console.print_json(to_plain(comparison))
        return
    console.print_table(comparison.runs)
    if comparison.differences:
        console.print_table(comparison.differences, title="declared otherwise")
    else:
        console.print_line("All runs declare the same.")
    for verdict in comparison.verdicts:
        console.print_line(verdict)


def logs(
    name: Name,
    trial: Annotated[str, typer.Option(metavar="ID", help="Only this trial, with its scores and its traceback.")] = "",
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Print this many lines; 0 prints all.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the run ends.")] = False,
    runs: Runs = None,
) -> None:
    """Print what happened in a run, the newest last: trials handed out, started, committed, failed or resumed."""
    from raysearch.storage.lock import writer_pid
    from raysearch.storage.run import open_run
    from raysearch.storage.run_log import log_lines

    run = open_run(name, runs_folder(runs))
    lines = log_lines(run, trial)
    for line in lines[-last:] if last else lines:
        console.print_line(line)
    while follow and writer_pid(run.path) is not None:
        sys.stdout.flush()
        time.sleep(FOLLOW_SECONDS)
        printed, lines = len(lines), log_lines(run, trial)
        for line in lines[printed:]:
            console.print_line(line)


def stop(
    name: Name,
    wait: Annotated[float, typer.Option(min=0, help="Wait at most this many seconds for its end.")] = 60.0,
    runs: Runs = None,
) -> None:
    """Stop a run that works in another terminal, as Ctrl-C does there. `raysearch resume` continues it.

    Trials that have ended are kept, and others continue from their last checkpoint.
    """
    from raysearch.storage.commands import command, run_reference
    from raysearch.storage.run import open_run
    from raysearch.storage.stopping import stop_run

    folder = open_run(name, runs_folder(runs)).path
    if not stop_run(folder, wait):
        raise RunError(
            f"{folder.name} has been asked to stop and is still working; `raysearch status` shows when it ends"
        )
    console.print_line(f"{folder.name} has stopped; resume it with: {command('resume', run_reference(folder))}")


def remove(
    names: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs by name, or their folders.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs: Runs = None,
) -> None:
    """Remove runs with their tables, data and models, after asking. A run that is being written is refused."""
    from raysearch.storage.lock import writer_pid
    from raysearch.storage.removal import folder_size, remove_run
    from raysearch.storage.run import run_folder

    folders = [run_folder(name, runs_folder(runs)) for name in names]
    for folder in folders:
        if (pid := writer_pid(folder)) is not None:
            raise RunError(f"{folder}: process {pid} is working on this run; first: raysearch stop {folder.name}")
    for folder in folders:
        size = format_bytes(folder_size(folder))
        if not yes:
            _ask(folder, size)
        remove_run(folder)
        console.print_line(f"removed {folder} ({size})")


def _ask(folder: Path, size: str) -> None:
    """Asks whether to remove a run. Raises SpecError where nobody can answer, and Abort for any answer but yes."""
    if not sys.stdin.isatty():
        raise SpecError(f"nobody can be asked whether to remove {printable(str(folder))}; add --yes", file="rm")
    from raysearch.storage.run import Run

    trials = format_count(len(Run(folder).trials()), "trial")
    sys.stderr.write(printable(f"remove {folder}, {trials}, {size}? [y/N] "))
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RunError(f"{folder} is kept")


def export_logs(
    name: Name,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder for TensorBoard's files.")] = None,
    mlflow: Annotated[str | None, typer.Option(metavar="ADDRESS", help="An MLflow tracking server or store.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Copy new scores too, until the run ends.")] = False,
    runs: Runs = None,
) -> None:
    """Copy a run's scores, weights and settings to TensorBoard or MLflow, from its tables, at any time.

    Nothing is sent twice: a copy that was interrupted is completed.
    """
    from raysearch.export.trackers import LogCopy, open_trackers
    from raysearch.storage.lock import writer_pid
    from raysearch.storage.run import open_run

    run = open_run(name, runs_folder(runs))
    copy: LogCopy | None = None
    while True:
        is_running = follow and writer_pid(run.path) is not None
        try:
            copy = copy or LogCopy(run, open_trackers(run.name, tensorboard, mlflow))
            count = copy.update()
        except RunError:
            raise
        except Exception as error:  # whatever a tracker's library raises; the run does not need it
            if not is_running:
                raise RunError(f"{run.name}: the tracker failed: {type(error).__name__}: {error}") from error
            console.print_error(f"the tracker failed, and is tried again: {type(error).__name__}: {error}", 0)
        else:
            if count or not follow:
                console.print_line(f"{run.name}: {format_count(count, 'number')} copied")
        if not is_running:
            return
        sys.stdout.flush()
        _wait_while_running(run.path, COPY_SECONDS)


def _wait_while_running(folder: Path, seconds: float) -> None:
    """Waits so long, or until no process writes the run."""
    from raysearch.storage.lock import writer_pid

    end = time.monotonic() + seconds
    while time.monotonic() < end and writer_pid(folder) is not None:
        time.sleep(0.2)


def add_verbs(app: typer.Typer) -> None:
    """Adds the verbs of this module to the command line."""
    app.command()(compare)
    app.command()(logs)
    app.command()(stop)
    app.command(name="export-logs")(export_logs)
    app.command(name="rm")(remove)
