"""The arguments and options that several verbs of the command line have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from raysearch.storage.names import runs_problem

File = Annotated[str, typer.Argument(metavar="FILE", help="A search of the catalog by its name, or a YAML file.")]
SchemaName = Literal["search", "space"]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A run by its name, or its folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the search; null removes it."),
]


def _read_runs_folder(text: str | Path) -> Path:
    if problem := runs_problem(str(text)):
        raise typer.BadParameter(problem)
    return Path(text)


Runs = Annotated[
    Path | None,
    typer.Option(
        "--runs", metavar="PATH", parser=_read_runs_folder, envvar="RAYSEARCH_RUNS", help="The folder of runs."
    ),
]
Data = Annotated[Path | None, typer.Option("--data", envvar="RAYSEARCH_DATA", help="The folder of data sets.")]
Address = Annotated[
    str | None, typer.Option(metavar="auto|HOST:PORT", help="Join the Ray cluster that runs at this address.")
]
Full = Annotated[bool, typer.Option("--full", help="Also try its models and a step of every kind of trial.")]
