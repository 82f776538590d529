"""What this machine has, and whether a search asks for more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from raysearch.reading import Node

if TYPE_CHECKING:
    from raysearch.spec import Search


def check_machine(search: Search, node: Node) -> None:
    """Refuse resources that this machine does not have; a cluster is asked when it is joined."""
    wanted, (cores, gpus) = search.resources, here()
    at_once = max(wanted.groups, 1) * wanted.workers
    for name, each, there in (("cpus", wanted.cpus, cores), ("gpus", wanted.gpus, gpus)):
        if at_once * each > there:
            trials = f"{wanted.groups} trials at a time x " if wanted.groups > 1 else ""
            asked = f"{trials}{wanted.workers} workers x {each:g}" if at_once > 1 else f"{each:g}"
            key = name if "resources" in node and name in node["resources"] else "workers"
            what = {"cpus": "CPU cores", "gpus": "GPUs"}[name]
            raise node.error(f"asks for {asked} {what}; this machine has {there}", "resources", key)


def here() -> tuple[int, int]:
    """How many CPU cores and GPUs this machine has."""
    return os.cpu_count() or 1, len(list(Path("/dev").glob("nvidia[0-9]*")))
