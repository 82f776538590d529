"""The arguments and options that several verbs of the command line have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raysearch.errors import SpecError
from raysearch.storage.names import is_plain, runs_problem

if TYPE_CHECKING:
    from raysearch.config.loading import ParsedSearch


def complete_search(incomplete: str) -> list[str]:
    """Returns the shipped searches and the YAML files of this folder that begin so."""
    from raysearch.schema import catalog

    files = [str(file) for pattern in ("*.yaml", "*.yml") for file in sorted(Path().glob(pattern))]
    return [name for name in (*catalog.names("trials"), *files) if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Returns the runs that begin so, of the usual folder."""
    from raysearch.storage.run import run_names

    names = run_names(os.environ.get("RAYSEARCH_RUNS") or "runs")
    return [name for name in names if is_plain(name) and name.startswith(incomplete)]


File = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A search of the catalog by its name, or a YAML file.", autocompletion=complete_search
    ),
]
SchemaName = Literal["search", "space"]
TableFormat = Literal["csv", "json", "parquet", "markdown"]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A run by its name, or its folder.", autocompletion=complete_run)
]
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


def runs_folder(folder: Path | None) -> Path:
    """Returns the folder of runs that a command line names, or the usual one."""
    return folder or Path("runs")


Data = Annotated[Path | None, typer.Option("--data", envvar="RAYSEARCH_DATA", help="The folder of data sets.")]
Address = Annotated[
    str | None, typer.Option(metavar="auto|HOST:PORT", help="Join the Ray cluster that runs at this address.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the Python files of primitives that the run names; prints their sha256."),
]
Full = Annotated[bool, typer.Option("--full", help="Also try its models and a step of every kind of trial.")]

EXAMPLES = {  # by verb, for the message that an argument is missing
    "init": "init reviews.csv",
    "check": "check quickstart",
    "plan": "plan quickstart",
    "launch": "launch quickstart",
    "resume": "resume quickstart",
    "analyze": "analyze quickstart",
    "export": "export quickstart quickstart-model",
    "predict": "predict quickstart-model texts.csv",
    "ls": "ls methods",
    "compare": "compare quickstart quickstart-2",
    "logs": "logs quickstart",
    "export-logs": "export-logs quickstart --tensorboard logs",
    "stop": "stop quickstart",
    "rm": "rm quickstart",
    "show": "show lambda_e",
}


def with_example(error: typer.TyperException) -> str:
    """Returns the message of a wrong command line, with an example where an argument is missing."""
    context = getattr(error, "ctx", None)
    example = EXAMPLES.get(context.info_name) if context is not None else None
    message = error.format_message()
    if example is None or not message.startswith("Missing argument"):
        return message
    return f"{message.rstrip('.')}, such as: raysearch {example}"


def load_search(file: str, settings: list[str] | None, *, local: bool = True) -> ParsedSearch:
    """Returns the parsed search with the values of `--set`; `local`: it has to fit this machine."""
    from raysearch.config.loading import load_file

    overrides = {}
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError("must be KEY=VALUE", file=f"--set {text}")
        overrides[key.strip()] = value
    return load_file(file, overrides, local=local)
