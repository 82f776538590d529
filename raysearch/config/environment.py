"""What this machine has, cores, GPUs and packages, and whether a search needs more.

Every check raises SpecError with the line of the key that needs it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raysearch.config.dimension import Dimension
from raysearch.config.sections import DECLARED_SAMPLERS, MethodSpec
from raysearch.methods import FAMILIES, METHODS
from raysearch.objectives.user_primitives import check_unchanged
from raysearch.schema.node import Keys, Node

if TYPE_CHECKING:
    from raysearch.config.search_config import Search


def check_machine(search: Search, node: Node) -> None:
    """Raises SpecError for resources that this machine does not have; those of a cluster are checked on joining it."""
    resources, (cores, gpus) = search.resources, local_resources()
    ranks = max(resources.groups, 1) * resources.workers
    for name, per_rank, available in (("cpus", resources.cpus, cores), ("gpus", resources.gpus, gpus)):
        if ranks * per_rank > available:
            trials = f"{resources.groups} trials at a time x " if resources.groups > 1 else ""
            requested = f"{trials}{resources.workers} workers x {per_rank:g}" if ranks > 1 else f"{per_rank:g}"
            key = name if "resources" in node and name in node["resources"] else "workers"
            unit = {"cpus": "CPU cores", "gpus": "GPUs"}[name]
            raise node.error(f"requests {requested} {unit}; this machine has {available}", "resources", key)


def check_packages(search: Search, node: Node) -> None:
    """Raises SpecError for what needs a package that is not installed."""

    def missing(name: str) -> bool:
        return importlib.util.find_spec(name) is None

    package = DECLARED_SAMPLERS[search.sampler].package
    if package and missing(package):
        raise node.error(
            f"{search.sampler!r} needs the package {package}; pip install 'raysearch[samplers]'", "sampler"
        )
    for tracker, module in (("tensorboard", "tensorboardX"), ("mlflow", "mlflow")):
        if search.logging is not None and getattr(search.logging, tracker) and missing(module):
            raise node.error(f"needs a package; pip install 'raysearch[{tracker}]'", "logging", tracker)
    for problem, keys in search.task.missing_packages():
        raise node.error(problem, "task", *keys)
    for name, keys in _named_methods(search):
        if reason := METHODS[name].why_missing():
            raise node.error(reason, *keys)
    for space in search.spaces.values():
        if space.user_primitives is not None:
            check_unchanged(space.user_primitives.file, space.user_primitives.sha256)
    for place, model in search.models.items():
        for problem, keys in model.missing_packages():
            raise node.error(problem, *place, *keys)


def _named_methods(search: Search) -> Iterator[tuple[str, Keys]]:
    """Yields every method that a trial of the search can have, and where the search names it."""
    places: list[tuple[Keys, MethodSpec]] = [(("method",), search.method)]
    places += [(("baselines", name, "method"), baseline.method) for name, baseline in search.baselines.items()]
    for keys, spec in places:
        yield from ((name, (*keys, family)) for family, name in spec.fixed.items())
    sections: list[tuple[Keys, Mapping[str, Dimension]]] = [((), search.dimensions)]
    sections += [(("baselines", name), baseline.dimensions) for name, baseline in search.baselines.items()]
    for keys, dimensions in sections:
        for family in (family for family in FAMILIES if family in dimensions):
            for i, choice in enumerate(dimensions[family].choices):
                yield str(choice), (*keys, "dimensions", family, "choice", i)


def local_resources() -> tuple[int, int]:
    """Returns how many CPU cores and GPUs this machine has."""
    return os.cpu_count() or 1, len(list(Path("/dev").glob("nvidia[0-9]*")))
