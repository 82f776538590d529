"""Checks of how a search is run: budget, seeds, sampler, executor and resources.

Every function raises SpecError with the line of the key that is wrong.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from raysearch.config.dimension import Dimension
from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.schema.node import Keys, Node
from raysearch.storage.names import runs_problem
from raysearch.storage.states import MAIN_ARM

if TYPE_CHECKING:
    from raysearch.config.search_config import Search


def check_budget(search: Search, node: Node) -> None:
    """Checks that every arm ends, and that there is something to search."""
    if search.budget.trials is search.budget.seconds is search.budget.compute is None:
        raise node.error("must have trials, seconds or compute", "budget")
    if not search.dimensions and search.budget.trials != 1:
        raise node.error("the search has no dimensions and so one configuration: trials: 1", "budget", "trials")
    for name, arm in search.arms.items():
        if name == MAIN_ARM:
            continue
        if arm.trials is None and search.budget.compute is None:
            problem = (
                f"is missing `trials: N`, the number of configurations; its dimensions are {', '.join(arm.dimensions)}"
            )
            raise node.error(problem, "baselines", name)
        if not arm.dimensions and arm.trials is not None and arm.trials > 1:
            problem = "the baseline has no dimensions and so one configuration: trials: 1"
            raise node.error(problem, "baselines", name, "trials")


def check_seeds(search: Search, node: Node) -> None:
    """Checks that all seeds differ, and that those of a confirmation are not among those of the search."""
    fresh_seeds = search.confirm.seeds if search.confirm else ()
    for seeds, keys in ((search.seeds, ("seeds",)), (fresh_seeds, ("confirm", "seeds"))):
        if len(set(seeds)) < len(seeds):
            raise node.error("lists a seed twice", *keys)
        if any(not 0 <= seed < 2**31 for seed in seeds):
            raise node.error("a seed is a whole number in [0, 2^31)", *keys)
    if not search.seeds or (search.confirm and not fresh_seeds):
        raise node.error("is empty; list at least one seed", *(("confirm", "seeds") if search.seeds else ("seeds",)))
    if repeated := sorted(set(search.seeds) & set(fresh_seeds)):
        problem = f"seed {repeated[0]} is one of `seeds:`; a confirmation needs fresh seeds"
        raise node.error(problem, "confirm", "seeds")


def check_sampler(search: Search, node: Node) -> None:
    """Checks that the sampler can draw every dimension, and that a grid has enough points."""
    sampler = DECLARED_SAMPLERS[search.sampler]
    declared: dict[Keys, Dimension] = {("dimensions", name): each for name, each in search.dimensions.items()}
    for name, baseline in search.baselines.items():
        declared |= {("baselines", name, "dimensions", each): baseline.dimensions[each] for each in baseline.dimensions}
    for place, dimension in declared.items():
        if sampler.numbers_only and dimension.type == "choice":
            problem = f"sampler {search.sampler!r} draws numbers only; use sampler: tpe, or int and float"
            raise node.error(problem, *place)
        if sampler.lists_values and dimension.values is None:
            problem = f"sampler {search.sampler!r} needs discrete dimensions; use choice: [...] or int"
            raise node.error(problem, *place)
    if not sampler.lists_values:
        return
    for name, arm in search.arms.items():
        if arm.trials is None:
            continue
        points = sum(1 for _ in itertools.islice(arm.grid(), arm.trials))
        if points < arm.trials:
            keys: Keys = ("budget", "trials") if name == MAIN_ARM else ("baselines", name, "trials")
            raise node.error(f"is {arm.trials} configurations, and the grid has {points}", *keys)


def check_executor(search: Search, node: Node) -> None:
    """Checks that executor, scheduler and resources fit together."""
    if search.executor == "in_process" and search.scheduler.stops_trials:
        raise node.error("executor 'in_process' stops no trial; use scheduler: fifo", "scheduler")
    if search.executor == "in_process" and search.resources.workers > 1:
        raise node.error("executor 'in_process' has one worker", "resources", "workers")
    if search.resources.cpus == search.resources.gpus == 0:
        raise node.error("must be above 0 where a rank has no GPU", "resources", "cpus")


def check_runs_folder(search: Search, node: Node) -> None:
    """Checks that runs are written to a folder."""
    if problem := runs_problem(search.runs):
        raise node.error(problem, "runs")
