"""Checks of what is trained of an encoder: settings that contradict each other.

The function raises SpecError with the line of the key that is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysearch.config.arm import Arm
from raysearch.config.compatibility import has_auxiliaries
from raysearch.config.method_validation import setting_location
from raysearch.config.parameters import DEFAULTS
from raysearch.methods import METHODS
from raysearch.schema.fields import Value
from raysearch.schema.node import Node
from raysearch.storage.states import MAIN_ARM

if TYPE_CHECKING:
    from raysearch.config.search_config import Search


def check_trained_part(search: Search, node: Node) -> None:
    """Checks that auxiliary objectives have something to train, and that a rank of LoRA has layers to change."""
    for arm in search.arms.values():
        layers, ranks = _values(arm, "trained_layers"), _values(arm, "lora_rank")
        if 0 in layers and any(map(has_auxiliaries, arm.method_combinations())):
            problem = "0 trains nothing of the encoder, so that auxiliary objectives cannot help the end task"
            raise node.error(problem, *setting_location(search, arm, "trained_layers"))
        if layers == (0,) and any(ranks):
            raise node.error("has no effect with trained_layers 0", *setting_location(search, arm, "lora_rank"))
        used = [int(value) for value in _values(arm, "encoder_layers") if value]
        if used and layers and max(map(int, layers)) > min(used):
            problem = f"{max(map(int, layers))} is more than encoder_layers {min(used)}"
            raise node.error(problem, *setting_location(search, arm, "trained_layers"))
        _check_new_layers(search, arm, node)


def check_class_settings(search: Search, node: Node) -> None:
    """Checks that nothing is declared that needs classes, where the task predicts numbers."""
    if search.task.metric != "r2":
        return
    for arm in search.arms.values():
        for name in ("label_smoothing", "class_weights"):
            if any(value != DEFAULTS[name] for value in _values(arm, name)):
                raise node.error("needs classes, and this task predicts numbers", *setting_location(search, arm, name))
        for methods in arm.method_combinations():
            if METHODS[methods["schedule"]].needs_classes:
                problem = f"schedule {methods['schedule']!r} needs classes, and this task predicts numbers"
                raise node.error(problem, *(("baselines", arm.name) if arm.name != MAIN_ARM else ()), "method")


def _check_new_layers(search: Search, arm: Arm, node: Node) -> None:
    """Checks that all layers that begin with new parameters are trained."""
    counts = [int(value) for value in _values(arm, "reinit_layers")]
    trained = [int(value) for value in _values(arm, "trained_layers")]
    if not any(counts):
        return
    if any(_values(arm, "lora_rank")):
        problem = "cannot be combined with lora_rank: the new parameters of a layer would stay as they are drawn"
        raise node.error(problem, *setting_location(search, arm, "reinit_layers"))
    if trained and min(trained) >= 0 and max(counts) > min(trained):
        problem = f"{max(counts)} is more than trained_layers {min(trained)}: the layers below would stay random"
        raise node.error(problem, *setting_location(search, arm, "reinit_layers"))


def _values(arm: Arm, name: str) -> tuple[Value, ...]:
    """Returns the values that a setting can have in an arm; none if it is not set."""
    if name in arm.dimensions:
        return arm.dimensions[name].values or ()
    return (arm.settings[name],) if name in arm.settings else ()
