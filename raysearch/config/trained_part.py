"""Checks of what is trained of an encoder: settings that contradict each other.

The function raises SpecError with the line of the key that is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysearch.config.arm import Arm
from raysearch.config.compatibility import has_auxiliaries
from raysearch.schema.fields import Value
from raysearch.schema.node import Keys, Node
from raysearch.storage.states import MAIN_ARM

if TYPE_CHECKING:
    from raysearch.config.search_config import Search


def check_trained_part(search: Search, node: Node) -> None:
    """Checks that auxiliary objectives have something to train, and that a rank of LoRA has layers to change."""
    for arm in search.arms.values():
        layers, ranks = _values(arm, "trained_layers"), _values(arm, "lora_rank")
        if 0 in layers and any(map(has_auxiliaries, arm.method_combinations())):
            problem = "0 trains nothing of the encoder, so that auxiliary objectives cannot help the end task"
            raise node.error(problem, *_location(search, arm, "trained_layers"))
        if layers == (0,) and any(ranks):
            raise node.error("has no effect with trained_layers 0", *_location(search, arm, "lora_rank"))


def _values(arm: Arm, name: str) -> tuple[Value, ...]:
    """Returns the values that a setting can have in an arm; none if it is not set."""
    if name in arm.dimensions:
        return arm.dimensions[name].values or ()
    return (arm.settings[name],) if name in arm.settings else ()


def _location(search: Search, arm: Arm, name: str) -> Keys:
    """Returns the keys of the place where an arm gets the setting."""
    baseline = search.baselines.get(arm.name)
    below: Keys = ("baselines", arm.name) if baseline and arm.name != MAIN_ARM else ()
    for under in ("dimensions", "settings"):
        if baseline and name in getattr(baseline, under):
            return (*below, under, name)
    return ("dimensions" if name in search.dimensions else "settings", name)
