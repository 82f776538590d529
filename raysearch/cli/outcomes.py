"""What the command line prints of runs: how far they are, and what to use of one that was launched."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from raysearch.cli import console
from raysearch.errors import RunError

if TYPE_CHECKING:
    from raysearch.storage.run import Run


def print_runs(folder: Path, json: bool) -> None:
    """Prints the status of every run of a folder."""
    from raysearch.storage.run import open_run, run_names

    statuses = [open_run(name, folder).status() for name in run_names(folder)]
    if json:
        console.print_json(statuses)
    elif statuses:
        console.print_statuses(statuses)
    else:
        console.print_line(f"no runs in {folder}")


def print_outcome(run: Run, json: bool) -> None:
    """Prints the status of a run that was launched and what to use; raises RunError when no trial has a score."""
    from raysearch.reports.next_steps import command, run_reference
    from raysearch.reports.recommendation import recommend

    summary, recommendation = run.status(), recommend(run)
    if json:
        console.print_json({**summary, "recommendation": asdict(recommendation)})
    else:
        console.print_status(summary)
        console.print_recommendation(recommendation.verdict, recommendation.steps)
    analyze = command("analyze", run_reference(run))
    if summary["best"] is None:
        raise RunError(f"{summary['name']}: no trial has ended with a score; see `{analyze}`")
    if not json:
        console.print_line(f"next: {analyze}")
