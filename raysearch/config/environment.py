"""What this machine has: cores, GPUs, packages; and whether a search asks for more.

Raises SpecError at the line of the key that asks for it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raysearch.config.sections import DECLARED_SAMPLERS, MethodSpec
from raysearch.methods import FAMILIES, METHODS
from raysearch.objectives.user_primitives import check_unchanged
from raysearch.schema.node import Keys, Node

if TYPE_CHECKING:
    from raysearch.config.search_config import Search


def check_machine(search: Search, node: Node) -> None:
    """Refuse resources that this machine does not have; a cluster is asked when it is joined."""
    wanted, (cores, gpus) = search.resources, local_resources()
    at_once = max(wanted.groups, 1) * wanted.workers
    for name, each, there in (("cpus", wanted.cpus, cores), ("gpus", wanted.gpus, gpus)):
        if at_once * each > there:
            trials = f"{wanted.groups} trials at a time x " if wanted.groups > 1 else ""
            asked = f"{trials}{wanted.workers} workers x {each:g}" if at_once > 1 else f"{each:g}"
            key = name if "resources" in node and name in node["resources"] else "workers"
            what = {"cpus": "CPU cores", "gpus": "GPUs"}[name]
            raise node.error(f"asks for {asked} {what}; this machine has {there}", "resources", key)


def check_packages(search: Search, node: Node) -> None:
    """Refuse what needs a package that is not installed."""

    def missing(name: str) -> bool:
        return importlib.util.find_spec(name) is None

    package = DECLARED_SAMPLERS[search.sampler].package
    if package and missing(package):
        raise node.error(
            f"{search.sampler!r} needs the package {package}; pip install 'raysearch[samplers]'", "sampler"
        )
    for problem, keys in search.task.missing_packages():
        raise node.error(problem, "task", *keys)
    for name, keys in _named_methods(search):
        if why := METHODS[name].why_missing():
            raise node.error(why, *keys)
    for space in search.spaces.values():
        if space.user_primitives is not None:
            check_unchanged(space.user_primitives.file, space.user_primitives.sha256)
    for problem, keys in search.model.missing_packages():
        raise node.error(problem, "model", *keys)


def _named_methods(search: Search) -> Iterator[tuple[str, Keys]]:
    """Every method that the search can take, and where it is named; those of a family that is a dimension too."""
    places: list[tuple[Keys, MethodSpec]] = [(("method",), search.method)]
    places += [(("baselines", name, "method"), baseline.method) for name, baseline in search.baselines.items()]
    for keys, spec in places:
        yield from ((name, (*keys, family)) for family, name in spec.fixed.items())
    for family in (family for family in FAMILIES if family in search.dimensions):
        for i, choice in enumerate(search.dimensions[family].choices):
            yield str(choice), ("dimensions", family, "choice", i)


def local_resources() -> tuple[int, int]:
    """How many CPU cores and GPUs this machine has."""
    return os.cpu_count() or 1, len(list(Path("/dev").glob("nvidia[0-9]*")))
