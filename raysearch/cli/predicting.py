"""The verb `predict`: what an exported model says of the texts of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raysearch.cli import console
from raysearch.cli.options import TableFormat
from raysearch.errors import SpecError

FORMAT_OF: dict[str, TableFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown"}


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `raysearch export` wrote.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Texts: CSV, TSV, JSONL, Parquet, or a text a line.")],
    text: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the texts.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write .csv, .json, .parquet or .md instead of printing CSV.")
    ] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Also the probability of each label.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Label the texts of a file with an exported model: each text, its label and the label's probability."""
    if output is not None and output.suffix.lower() not in FORMAT_OF:
        raise SpecError(
            f"cannot write a {output.suffix or 'nameless'} file; use {', '.join(FORMAT_OF)}", file="--output"
        )
    from raysearch.export.prediction import predict_file
    from raysearch.reports.table_formats import to_csv, write_tables

    table = predict_file(model, file, text, by_class=by_class)
    if output is not None:
        (written,) = write_tables({output.stem: table}, FORMAT_OF[output.suffix.lower()], output.parent)
        console.print_line(f"{table.num_rows} rows   {written}")
    elif json:
        console.print_json(table.to_pylist())
    else:
        console.print_line(to_csv(table))
