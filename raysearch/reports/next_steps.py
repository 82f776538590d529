"""What would tell more about a run, each step with a command that can be copied.

A step is proposed only if its command works on this run: it names the run by its folder where its name alone would not
be found, and quotes what a shell would change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.data.folds import LABELLED
from raysearch.formatting import format_count
from raysearch.reports.arm_comparison import LEAST_SEEDS, Comparison, seeds_to_show
from raysearch.storage.cells import has_folds
from raysearch.storage.commands import command, run_reference, shorten_path
from raysearch.storage.states import MAIN_ARM, RunState

if TYPE_CHECKING:
    from raysearch.storage.run import Run

FIRST_FRESH_SEED, FRESH_SEEDS = 101, 5  # of a search that has no confirmation
LATE_SHARE = 0.75  # a winner drawn after this share of the configurations suggests that more would be better
LEAST_CONFIGURATIONS = 4  # of which that can be said
FEW_EXAMPLES = 500  # of select-dev


@dataclass(frozen=True)
class Step:
    """Something to do, and the command for it."""

    purpose: str
    command: str


def export_step(run: Run) -> Step:
    """Returns the step that writes the recommended model to a new folder in the present one."""
    return Step(
        "To write its model", command("export", run_reference(run.path), _free_name(Path(), f"{run.name}-model"))
    )


def missing_steps(run: Run, *, has_score: bool, is_repeated: bool) -> Iterator[Step]:
    """Yields the steps for what a run lacks: its end, a score, fresh seeds, baselines."""
    search, state = run.search, run.state
    if state == RunState.INTERRUPTED:
        yield Step("The search is not finished; to continue it", command("resume", run_reference(run.path)))
        return
    if not has_score:
        yield Step("Why the trials failed", command("analyze", run_reference(run.path), "failures"))
        return
    if not is_repeated:
        seeds = _more_seeds(search, FRESH_SEEDS)
        yield Step("To repeat the best configuration of every arm on fresh seeds", _extend(run, _confirm(seeds)))
    if not search.get("baselines"):
        fresh = [] if search.get("confirm") else ["--set", _confirm(_more_seeds(search, FRESH_SEEDS))]
        name = _free_name(run.path.parent, f"{run.name}-compared")
        words = ["--fork", name, "--set", "baselines=incumbents", *fresh]
        yield Step("To compare it with what else you could use", _launch(run, *words))


def open_steps(run: Run, comparison: Comparison, together: int) -> Iterator[Step]:
    """Yields what may settle whether two arms differ, of which `comparison` says what is known."""
    is_known = len(comparison.d) >= LEAST_SEEDS
    needed = seeds_to_show(comparison.d, together, comparison.overlap) if is_known else FRESH_SEEDS
    if needed is not None and is_known and comparison.folds:
        needed = -(-needed // comparison.folds)  # fresh seeds, each a partition
    if needed is not None:
        settles = f"About {format_count(needed, 'fresh seed')} would settle a difference of this size"
        purpose = settles if is_known else "More fresh seeds would tell more"
        yield Step(purpose, _extend(run, _confirm(_more_seeds(run.search, needed))))
    yield from budget_steps(run)
    yield from _label_steps(run)


def budget_steps(run: Run) -> Iterator[Step]:
    """Yields the step to a larger budget, if the search's winner was among the last configurations drawn."""
    rows = [row for row in run.configurations().to_pylist() if row["arm"] == MAIN_ARM and row["score"] is not None]
    if len(rows) < LEAST_CONFIGURATIONS or rows[0]["number"] < LATE_SHARE * max(row["number"] for row in rows):
        return
    doubled = [f"budget.{name}={2 * value:g}" for name, value in run.search.get("budget", {}).items() if value]
    if doubled:
        purpose = (
            "The search's winner is among the last configurations drawn, and a larger budget may find a better one"
        )
        yield Step(purpose, _extend(run, *doubled))


def _label_steps(run: Run) -> Iterator[Step]:
    """Yields the step to more labelled examples, if a file of the user has few."""
    sizes = _declared_data(run).get("sizes", {})
    scoring = LABELLED if has_folds(run.cells) else ("select_dev",)
    examples = sum(sizes.get(name, 0) for name in scoring)
    file = run.search.get("task", {}).get("train")
    if isinstance(file, str) and 0 < examples < FEW_EXAMPLES:
        purpose = (
            f"Every score is of the same {format_count(examples, 'example')}; after adding labelled rows to {file}"
        )
        yield Step(purpose, _launch(run, "--fork", _free_name(run.path.parent, f"{run.name}-more")))


def _extend(run: Run, *settings: str) -> str:
    return command("resume", run_reference(run.path), *(word for each in settings for word in ("--set", each)))


def _launch(run: Run, *words: str) -> str:
    """Returns the command that launches the run's stored search again, with further options."""
    path, runs = run.path.resolve(), Path(run.search.get("runs", "runs"))
    elsewhere = [] if runs.resolve() == path.parent else ["--runs", str(path.parent)]
    root = _declared_data(run).get("root")
    return command(
        "launch", shorten_path(path / "search.json"), *words, *elsewhere, *(["--data", root] if root else [])
    )


def _declared_data(run: Run) -> dict[str, Any]:
    """Returns what the run's tables say about its data: sizes of splits, and the folder of data sets if it has one."""
    declared: dict[str, Any] = json.loads(run.searches()["data"].to_pylist()[-1] or "{}")
    return declared


def _confirm(seeds: list[int]) -> str:
    return f"confirm.seeds=[{', '.join(map(str, seeds))}]"


def _more_seeds(search: Mapping[str, Any], total: int) -> list[int]:
    """Returns the search's fresh seeds with as many more as make `total`; no seed that chose a configuration."""
    seeds = list((search.get("confirm") or {}).get("seeds", []))
    chosen = set(search.get("seeds", []))
    following = max(seeds, default=FIRST_FRESH_SEED - 1) + 1
    while len(seeds) < total:
        if following not in chosen:
            seeds.append(following)
        following += 1
    return seeds


def _free_name(folder: Path, name: str) -> str:
    """Returns the name, with a number if the folder has something of that name."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(each for each in names if not (folder / each).exists())
