"""What a search would do: counts, first trials and an estimate of its time. Starts nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysearch.config.arm import Arm
from raysearch.config.environment import local_resources
from raysearch.config.search_config import Search
from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.errors import RunError
from raysearch.plan import TrialPlan
from raysearch.storage.states import TrialState


def outline(search: Search) -> dict[str, Any]:
    """Returns what the search declares, counted: arms, trials, objectives and resources. JSON-able."""
    arms = [_arm(search, arm) for arm in search.arms.values()]
    counts = [arm["trials"] for arm in arms]
    return {
        "name": search.name,
        "fingerprint": search.fingerprint,
        "task": search.task.name,
        "metric": search.task.metric,
        "model": search.model.to_plain(),
        "spaces": {name: len(space.objectives) for name, space in search.spaces.items()},
        "arms": arms,
        "trials": None if None in counts else sum(counts),
        "seconds": search.budget.seconds,
        "selection": search.selection.to_plain(),
        "sampler": search.sampler,
        "scheduler": search.scheduler.to_plain(),
        "executor": search.executor,
        "resources": {**vars(search.resources), "at_once": parallel_trials(search)},
    }


def _arm(search: Search, arm: Arm) -> dict[str, Any]:
    """Returns an arm's methods, its dimensions, and how many trials it has at most: on all seeds, or all folds.

    A search that leaves selection to launch is counted without folds.
    """
    configurations = arm.trials
    if configurations is not None and DECLARED_SAMPLERS[search.sampler].lists_values:
        configurations = min(configurations, sum(1 for _ in arm.grid()))
    final = len(search.final_cells)
    return {
        "arm": arm.name,
        "methods": [" x ".join(methods.values()) for methods in arm.method_combinations()],
        "dimensions": {name: _values(dimension.to_plain()) for name, dimension in arm.dimensions.items()},
        "configurations": configurations,
        "seeds": len(search.seeds),
        "confirm": len(search.confirm.seeds) if search.confirm else 0,
        "trials": None if configurations is None else configurations * len(search.cells) + final,
    }


def _values(dimension: dict[str, Any]) -> str:
    """Returns a dimension as short text: `[0.0001, 0.002] log`, `1 | 3 | 6 when space aang_td`."""
    when = " and ".join(f"{name} {' or '.join(map(str, v))}" for name, v in dimension.get("when", {}).items())
    if "choice" in dimension:
        values = " | ".join(json.dumps(value).strip('"') for value in dimension["choice"])
    else:
        low, high = dimension.get("float") or dimension["int"]
        values = f"[{low:g}, {high:g}]{' log' if dimension.get('log') else ''}"
    return f"{values} when {when}" if when else values


def parallel_trials(search: Search) -> int:
    """Returns how many trials run at a time on this machine."""
    resources, (cores, gpus) = search.resources, local_resources()
    if resources.groups or search.executor == "in_process":
        return resources.groups or 1
    pairs = ((resources.cpus, cores), (resources.gpus, gpus))
    return max(1, min(int(available / (each * resources.workers)) for each, available in pairs if each))


def first_plans(search: Search, count: int) -> list[TrialPlan]:
    """Returns the first trials of the search, as its sampler draws them before any result; fewer if it must wait."""
    from raysearch.search.study import Study

    study = Study(search, data="", labels=0)
    proposals = (study.ask() for _ in range(count))
    return [proposal.plan for proposal in proposals if proposal is not None]


def estimate(search: Search, runs: Path) -> dict[str, Any]:
    """Estimates the seconds that the search takes if no trial is stopped, from earlier runs of like trials.

    A like trial has the same task, model and methods. `from` names the runs; without like trials `seconds` is None and
    `why` says so.
    """
    paces = list(_paces(search, runs))
    total = 0.0
    for arm in search.arms.values():
        model = arm.model.to_plain()
        arm_paces = [pace for pace, methods, used, _ in paces if methods in arm.method_combinations() and used == model]
        trials = _arm(search, arm)["trials"]
        if search.budget.compute is not None and arm.dimensions:
            total += search.budget.compute
            trials = len(search.final_cells)
        if not arm_paces or trials is None:
            seconds = search.budget.seconds
            nothing_alike = f"no earlier run in {runs} has a trial of this task, model and method"
            why = "only time ends the search" if arm_paces else nothing_alike
            return {"seconds": None, "at_most": seconds, "why": f"{why} (arm {arm.name})"}
        total += statistics.median(arm_paces) * trials * max(1, arm.max_steps)
    seconds = total / parallel_trials(search)
    limit = search.budget.seconds
    return {"seconds": seconds if limit is None else min(seconds, limit), "from": sorted({run for *_, run in paces})}


def _paces(search: Search, runs: Path) -> Iterator[tuple[float, dict[str, str], dict[str, Any], str]]:
    """Yields seconds per step, methods, model and run of every complete trial of the same task and a like model."""
    models = [arm.model.to_plain() for arm in search.arms.values()]
    from raysearch.storage.run import open_run, run_names

    for name in run_names(runs):
        try:
            rows = open_run(name, runs).trials().select(["state", "seconds", "steps", "plan"]).to_pylist()
        except RunError:
            continue
        for row in rows:
            plan = json.loads(row["plan"])
            is_alike = plan["task"]["name"] == search.task.name and plan["model"] in models
            is_alike &= plan["workers"] == search.resources.workers
            if row["state"] == TrialState.COMPLETE and row["steps"] and is_alike:
                methods = {family: plan[family] for family in ("weighting", "surgery", "schedule")}
                yield row["seconds"] / row["steps"], methods, plan["model"], name
