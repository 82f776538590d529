"""The verb `export`: a model to a folder or to the Hugging Face hub, or a study to Optuna."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysearch.cli import console
from raysearch.cli.options import EXAMPLES, Json, Name, Runs, Trust, runs_folder
from raysearch.errors import RunError, SpecError

if TYPE_CHECKING:
    from raysearch.storage.run import Run


def export(
    name: Name,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A new or empty folder to write to.")] = None,
    trial: Annotated[str, typer.Option(help="The trial: best, an arm's name for its best trial, or an id.")] = "best",
    arm: Annotated[str, typer.Option(metavar="ARM", help="The arm to export; by default the recommended one.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Train it again; exit with 1 if it differs.")] = False,
    test: Annotated[bool, typer.Option(help="Score the test split; the run records the access.")] = True,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too, and compare its logits.")] = False,
    push: Annotated[str, typer.Option(metavar="ORG/NAME", help="Upload DIR to this repository of the hub.")] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push, make a new repository public.")] = False,
    optuna: Annotated[str, typer.Option(metavar="URL", help="Write the trials as a study of Optuna instead.")] = "",
    trust: Trust = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """Write the model of the recommended arm, its configuration and a model card to a new folder.

    With --optuna the trials are written to a storage of Optuna, such as sqlite:///study.db, and DIR may be left out.
    """
    from raysearch.storage.run import open_run

    if folder is None and not optuna:
        raise SpecError(f"Missing argument 'DIR', such as: raysearch {EXAMPLES['export']}")
    if push:
        from raysearch.export.hub import check_repository

        check_repository(push)
    run = open_run(name, runs_folder(runs))
    if optuna:
        _export_study(run, optuna, arm, json=json and folder is None)
    if folder is None:
        return
    from raysearch.export.exporter import export as write
    from raysearch.reports.recommendation import recommend

    outcome = asdict(write(run, folder, trial=trial, verify=verify, test=test, arm=arm, onnx=onnx, trust=trust))
    verified = outcome.pop("verified")
    address = _push(folder, push, public=public)
    if json:
        console.print_json({**outcome, "verified": verified, **({"pushed": address} if address else {})})
    else:
        verdict = outcome.pop("recommendation")
        console.print_facts(outcome | {f"second training: {key}": value for key, value in (verified or {}).items()})
        console.print_recommendation(verdict, recommend(run).open_steps)
        if address:
            console.print_line(f"uploaded to {address}")
    if verified and not verified["same_score"]:
        raise RunError(f"{outcome['trial_id']} has another score after a second training: {verified['score']:.4f}")


def _push(folder: Path, repository: str, *, public: bool) -> str:
    """Uploads an export and returns its address; empty without a repository."""
    if not repository:
        return ""
    from raysearch.export.hub import push_export

    return push_export(folder, repository, public=public)


def _export_study(run: Run, storage: str, arm: str, *, json: bool) -> None:
    from raysearch.export.optuna_study import export_study

    study, trials = export_study(run, storage, arm)
    if json:
        console.print_json({"study": study, "trials": trials, "storage": storage})
    else:
        console.print_line(f"study {study!r} with {trials} trials: optuna-dashboard {storage}")
