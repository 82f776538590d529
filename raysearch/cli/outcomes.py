"""What the command line prints of runs: how far they are, and what to use of one that was launched.

And what is found before one is: the data of a search, and the search that `init` writes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.cli import console
from raysearch.errors import RunError, SpecError
from raysearch.storage.states import RunState

if TYPE_CHECKING:
    import pyarrow as pa

    from raysearch.reports.table_formats import TableFormat
    from raysearch.search.drafting import DraftedSearch
    from raysearch.search.preflight import Findings
    from raysearch.storage.run import Run


def print_checked(outline: Mapping[str, Any], findings: Findings, json: bool) -> None:
    """Prints a search that passed its checks, and what is known of its data."""
    if json:
        console.print_json({**outline, "data": findings.facts, "notes": findings.notes})
        return
    console.print_outline(outline)
    console.print_findings(findings.facts, findings.notes)


def print_draft(drafted: DraftedSearch, json: bool) -> None:
    """Prints which search was written, what is known of its data, and what to do next."""
    findings = drafted.findings
    if json:
        facts = {"file": str(drafted.file), "summary": drafted.summary}
        console.print_json({**facts, "data": findings.facts, "notes": findings.notes})
        return
    console.print_line(f"wrote {drafted.file}: {drafted.summary}")
    console.print_findings(findings.facts, findings.notes)
    console.print_line(f"next: raysearch launch {shlex.quote(str(drafted.file))}")


def print_runs(folder: Path, json: bool) -> None:
    """Prints the status of every run of a folder."""
    from raysearch.storage.run import open_run, run_names

    def status(name: str) -> dict[str, Any]:
        try:
            return open_run(name, folder).status()
        except (RunError, SpecError, OSError, ValueError) as error:  # one damaged folder hides no other run
            return {"name": name, "state": "unreadable", "problem": str(error)}

    statuses = [status(name) for name in run_names(folder)]
    if json:
        console.print_json(statuses)
    elif statuses:
        console.print_statuses(statuses)
    else:
        console.print_line(f"no runs in {folder}")


def print_outcome(run: Run, json: bool) -> None:
    """Prints the status of a run that was launched and what to use; raises RunError when no trial has a score."""
    from raysearch.reports import run_doctor
    from raysearch.reports.recommendation import recommend
    from raysearch.storage.commands import command, run_reference

    summary, recommendation, notes = run.status(), recommend(run), run_doctor.warn(run)
    if json:
        console.print_json({**summary, "recommendation": asdict(recommendation), "notes": notes})
    else:
        console.print_status(summary)
        console.print_findings({}, notes)
        console.print_recommendation(recommendation.verdict, recommendation.steps)
    analyze = command("analyze", run_reference(run.path))
    if summary["best"] is None:
        raise RunError(f"{summary['name']}: no trial has ended with a score; see `{analyze}`")
    if not json:
        console.print_line(f"next: {analyze}")


def refuse_empty(run: Run) -> None:
    """Raises RunError for a run that has ended without a trial with a score: its tables are no results."""
    summary = run.status()
    if summary["best"] is None and summary["state"] != RunState.RUNNING:
        raise RunError(f"{summary['name']}: no trial has ended with a score, so there is nothing to compare")


def print_tables(answers: Mapping[str, pa.Table], form: TableFormat, folder: Path | None) -> None:
    """Prints the answers of reports in a format that programs read, or writes a file for each to a folder."""
    from raysearch.reports import table_formats

    if folder is None:
        console.print_line(table_formats.format_tables(answers, form))
        return
    for file in table_formats.write_tables(answers, form, folder):
        console.print_line(str(file))
