"""How a search is run: budget, seeds, sampler, executor and resources go together.

Every function raises SpecError at the line of the key that is wrong.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.schema.node import Keys, Node
from raysearch.storage.states import MAIN_ARM

if TYPE_CHECKING:
    from raysearch.config.search_config import Search


def check_budget(search: Search, node: Node) -> None:
    """There is an end, and there is something to search."""
    if search.budget.trials is search.budget.seconds is search.budget.compute is None:
        raise node.error("must say trials, seconds or compute", "budget")
    if not search.dimensions and search.budget.trials != 1:
        raise node.error("there are no dimensions: the search has one configuration, trials: 1", "budget", "trials")
    for name, arm in search.arms.items():
        if name == MAIN_ARM:
            continue
        if arm.trials is None and search.budget.compute is None:
            problem = f"say how many configurations to try, trials: N; its dimensions: {', '.join(arm.dimensions)}"
            raise node.error(problem, "baselines", name)
        if not arm.dimensions and arm.trials is not None and arm.trials > 1:
            problem = "it has no dimensions of its own: one configuration, trials: 1"
            raise node.error(problem, "baselines", name, "trials")


def check_seeds(search: Search, node: Node) -> None:
    """Seeds are different ones, and a confirmation has fresh ones."""
    fresh = search.confirm.seeds if search.confirm else ()
    for seeds, keys in ((search.seeds, ("seeds",)), (fresh, ("confirm", "seeds"))):
        if len(set(seeds)) < len(seeds):
            raise node.error("a seed is given twice", *keys)
        if any(not 0 <= seed < 2**31 for seed in seeds):
            raise node.error("a seed is a whole number in [0, 2^31)", *keys)
    if not search.seeds or (search.confirm and not fresh):
        raise node.error("is empty: give at least one seed", *(("confirm", "seeds") if search.seeds else ("seeds",)))
    if both := sorted(set(search.seeds) & set(fresh)):
        problem = f"seed {both[0]} is one of `seeds:`; a confirmation needs fresh ones"
        raise node.error(problem, "confirm", "seeds")


def check_sampler(search: Search, node: Node) -> None:
    """The sampler can draw every dimension, and has as many points as the search asks for."""
    sampler = DECLARED_SAMPLERS[search.sampler]
    for name, dimension in search.dimensions.items():
        if sampler.numbers_only and dimension.type == "choice":
            problem = f"sampler {search.sampler!r} draws numbers only; use tpe, or int and float"
            raise node.error(problem, "dimensions", name)
        if sampler.lists_values and dimension.values is None:
            problem = f"sampler {search.sampler!r} needs values one by one; use choice: [...]"
            raise node.error(problem, "dimensions", name)
    if not sampler.lists_values:
        return
    for name, arm in search.arms.items():
        if arm.trials is None:
            continue
        points = sum(1 for _ in itertools.islice(arm.grid(), arm.trials))
        if points < arm.trials:
            keys: Keys = ("budget", "trials") if name == MAIN_ARM else ("baselines", name, "trials")
            raise node.error(f"asks for {arm.trials} configurations; the grid has {points}", *keys)


def check_executor(search: Search, node: Node) -> None:
    """Executor, scheduler and resources go together."""
    if search.executor == "in_process" and search.scheduler.stops_trials:
        raise node.error("executor 'in_process' stops no trial; use scheduler: fifo", "scheduler")
    if search.executor == "in_process" and search.resources.workers > 1:
        raise node.error("executor 'in_process' has one worker", "resources", "workers")
    if search.resources.cpus == search.resources.gpus == 0:
        raise node.error("a rank needs a share of a CPU or GPU", "resources", "cpus")
