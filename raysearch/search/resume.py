"""The folder of a run: how it begins, and what a later driver reads from it to resume the search.

runs/NAME/search.yaml   the search as it was written
runs/NAME/search.json   the search with all defaults, which every session of the run uses
runs/NAME/data/         prepared splits
runs/NAME/trials/       a folder for each trial: checkpoints while it runs, afterwards the best models
runs/NAME/log, tables/  the ledger
runs/NAME/scratch/      Ray's files; removed at the end
"""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raysearch.config.environment import local_resources
from raysearch.config.model_paths import locate_model
from raysearch.config.search_config import Search
from raysearch.data.prepared import PreparedData
from raysearch.errors import RunError
from raysearch.formatting import format_count
from raysearch.objectives.trust import require_trust
from raysearch.plan import TrialPlan
from raysearch.storage.durable import write_durably
from raysearch.storage.ledger import Ledger
from raysearch.storage.rebuilding import lost_trials
from raysearch.storage.run import open_run, planned_trials
from raysearch.storage.states import ENSEMBLE_ARM, EventName
from raysearch.version import version_of

SEARCH = "search.json"  # in the folder of a run, which it makes one
# Keys of a search that say how it runs, and may change from session to session.
FREE_KEYS = re.compile(r"executor|keep|resources\.groups")
# Keys that an extension may change.
EXTENDABLE_KEYS = re.compile(r"budget\.\w+|seeds|confirm(\.\w+)?|baselines\.\w+\.trials|resources\.(cpus|gpus)")
LIBRARIES = ("raysearch", "ray", "optuna", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class History:
    """What earlier sessions of a run have left in its tables."""

    committed: list[dict[str, Any]]  # rows of the table of trials
    planned: list[TrialPlan]  # the plans of all trials that were ever handed out, in order
    attempts: dict[str, int]  # by trial, how often it was started
    reported: set[str]  # trials whose result a study has
    noted: set[str]  # trials of which an event says that they were committed
    seconds: float  # spent on the search


def load_stored_search(folder: Path) -> Search | None:
    """Returns the search of a run's folder; None where no run has begun.

    The run's tables hold it too, and that is what is returned if search.json is missing. Raises RunError if it cannot
    be read, or is none of those in the tables.
    """
    file, declarations = folder / SEARCH, _declarations(folder)
    remedy = "; remove it, and the search in the run's tables is used: nothing is lost" if declarations else ""
    try:
        declared = json.loads(file.read_text(encoding="utf-8"))
        if declarations and declared not in declarations:
            raise RunError(f"{file}: damaged or edited: it is no search that the run's tables hold{remedy}")
        return Search.from_stored(declared)
    except FileNotFoundError:
        has_begun = bool(declarations) and bool(planned_trials(open_run(folder).events()))
        return Search.from_stored(declarations[-1]) if has_begun else None
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: cannot be read: {error}{remedy}") from error


def _declarations(folder: Path) -> list[dict[str, Any]]:
    """Returns every search that a run's tables hold, the last one last."""
    if not (folder / "tables" / "searches").is_dir():
        return []
    return [json.loads(spec) for spec in open_run(folder).searches()["spec"].to_pylist() if spec]


def check_resumable(before: Search, now: Search, name: str, *, extend: bool) -> Search:
    """Returns the search to resume with, when the run `name` has the search `before` and the user declares `now`.

    Raises RunError, which lists the differences, unless both do the same or `extend` allows what differs.
    """
    if now.selection.is_auto:  # what was decided when the run began
        now = replace(now, selection=before.selection)
    now = _with_stored_path(before, now)
    differences = before.differences(now)
    changes = [line for line in differences if not FREE_KEYS.fullmatch(line.partition(":")[0])]
    barred = [line for line in changes if not EXTENDABLE_KEYS.fullmatch(line.partition(":")[0])]
    if now.seeds[: len(before.seeds)] != before.seeds and not barred:
        barred = [line for line in changes if line.startswith("seeds:")]
    if barred or (changes and not extend):
        listed = "; ".join(barred if extend else changes)
        remedy = "--fork NEW_NAME starts a new run" + ("" if barred else ", --extend continues this one")
        limits = "; only budget, confirm, further seeds and trials of baselines can be extended" if extend else ""
        raise RunError(f"run {name} has another search: {listed}{limits}; {remedy}")
    return now if differences else replace(before, paper=now.paper)


def _with_stored_path(before: Search, now: Search) -> Search:
    """Returns `now` with the model's path as an earlier version has stored it, relative, if that is the same folder."""
    stored, path = getattr(before.model, "path", None), getattr(now.model, "path", None)
    if stored and path and stored != path and locate_model(stored, Path(now.task.base))[0] == path:
        return replace(now, model=replace(now.model, path=stored))  # type: ignore[call-arg]  # it has a path
    return now


def store(
    ledger: Ledger,
    before: Search | None,
    decided: Search,
    folder: Path,
    prepared: PreparedData,
    data_root: Path | None,
    text: str,
) -> None:
    """Declares the search of a session, unless it is that of the run so far; writes search.json if it is missing."""
    if before is None or before.differences(decided) or before.paper != decided.paper:
        declare(ledger, decided, folder, prepared, data_root, text)
    elif not (folder / SEARCH).exists():
        save_search(decided, folder, text)


def declare(
    ledger: Ledger, search: Search, folder: Path, prepared: PreparedData, data_root: Path | None, text: str
) -> None:
    """Stores the search in the run's tables and in its folder; `text` is that of its file."""
    ledger.append("searches", [search_row(search, folder.name, prepared, data_root)], durable=True)
    save_search(search, folder, text)


def save_search(search: Search, folder: Path, text: str = "") -> None:
    """Writes the search into its folder, first the text of its file, last its resolved form, which makes it a run."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = search.to_dict()
    source = text or yaml.safe_dump(declared, sort_keys=False, allow_unicode=True)
    for name, content in (("search.yaml", source), (SEARCH, json.dumps(declared, indent=1, allow_nan=False))):
        write_durably(folder / name, folder / f"{name}.tmp", content.encode())


def data_root_of(folder: Path, requested: Path | str | None) -> Path | None:
    """Returns the absolute folder of data sets: as requested, as RAYSEARCH_DATA names it, or as the run was begun with.

    A run that was begun with one is thereby resumed without naming it again.
    """
    root = requested or os.environ.get("RAYSEARCH_DATA")
    if root is None and (folder / "tables" / "searches").is_dir():
        declared = open_run(folder).searches()["data"].to_pylist()
        root = json.loads(declared[-1] or "{}").get("root") if declared else None
    return Path(root).absolute() if root else None


def search_row(search: Search, name: str, prepared: PreparedData, data_root: Path | None) -> dict[str, Any]:
    """Returns the row of the table of searches: the search, its data, the libraries and the hardware."""
    data = {"fingerprint": prepared.fingerprint, "sizes": prepared.sizes, "labels": list(prepared.labels)}
    data |= {"root": str(data_root)} if data_root else {}
    cores, gpus = local_resources()
    hardware = {"host": platform.node(), "machine": platform.machine(), "cores": cores, "gpus": gpus}
    return {
        "search": name,
        "spec": json.dumps(search.to_dict()),
        "fingerprint": search.fingerprint,
        "versions": json.dumps({"python": platform.python_version()} | {name: version_of(name) for name in LIBRARIES}),
        "data": json.dumps(data),
        "hardware": json.dumps(hardware | _memory()),
    }


def _memory() -> dict[str, int]:
    names = os.sysconf_names
    is_known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    return {"memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")} if is_known else {}


def mend(ledger: Ledger, folder: Path) -> list[str]:
    """Makes lost rows of committed trials again; returns a sentence for each file that was lost, and for the rows."""
    notes = [f"{folder / lost} was missing; its rows are lost" for lost in ledger.missing]
    if rows := lost_trials(open_run(folder)):
        ledger.restore(rows)
        notes.append(
            f"{folder / 'tables' / 'trials'}: {format_count(len(rows), 'row')} of committed trials were lost, such as "
            f"that of {rows[0]['trial_id']}, and are made again from events and evaluations; tracebacks are lost"
        )
    return notes


def load_history(folder: Path) -> History:
    """Returns what the tables of a run say to the driver that resumes it.

    Raises RunError for a plan that is none, and SpecError for an unfinished one that names code without trust.
    """
    run = open_run(folder)
    events = run.events()
    attempts: dict[str, int] = {}
    reported: set[str] = set()
    noted: set[str] = set()
    columns = [events[name].to_pylist() for name in ("event", "trial_id", "attempt")]
    for event, trial_id, attempt in zip(*columns, strict=True):
        if event == EventName.STARTED:
            attempts[trial_id] = max(attempts.get(trial_id, 0), attempt + 1)
        elif event == EventName.TOLD:
            reported.add(trial_id)
        elif event == EventName.COMMITTED:
            noted.add(trial_id)
    planned = [TrialPlan.from_dict(plan, trial_id) for trial_id, plan in planned_trials(events).items()]
    committed = [row for row in run.trials().to_pylist() if row["arm"] != ENSEMBLE_ARM]  # made of the other arms
    ended = {row["trial_id"] for row in committed}
    for plan in planned:  # those that have not ended are handed out again, and their code runs
        if plan.trial_id not in ended:
            require_trust(plan.primitives)
    return History(committed, planned, attempts, reported, noted, run.seconds())
