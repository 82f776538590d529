"""What tasks of more than one kind declare, and what is refused of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from raysearch.objectives.space import EXTRA
from raysearch.schema.node import Node


def check_split(split: Mapping[str, float] | None, node: Node) -> None:
    """Refuse a task's `split`, if it has one, unless it gives dev and test shares that leave some rows to train on."""
    if split is None:
        return
    node["split"].mapping(("dev", "test"))
    for part, share in split.items():
        if not 0 <= share < 1:
            raise node.error(f"must be a share in [0, 1), got {share:g}", "split", part)
    if sum(split.values()) >= 1:
        total = math.fsum(split.values())
        raise node.error(f"nothing is left to train on: the shares sum to {total:g}", "split")


def check_extra(names: Iterable[str], node: Node) -> None:
    """Refuse names of a task's `extra` data sets that no objective could have."""
    for name in names:
        if not EXTRA.fullmatch(f"extra_{name}"):
            raise node.error("a name is small letters, digits and _", "extra", name)
