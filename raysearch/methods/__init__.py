"""METHODS: every weighting, surgery and schedule, one line and one paper each.

A named method of the papers is a point weighting x surgery x schedule. This module imports no torch; `load` does.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import Any, Literal

from raysearch import settings as s

Family = Literal["weighting", "surgery", "schedule"]
FAMILIES: tuple[Family, ...] = ("weighting", "surgery", "schedule")


@dataclass(frozen=True)
class Method:
    """One way to weigh, to cut, or to order: where it lives, what it can be set to, who proposed it."""

    family: Family
    target: str  # module:attribute under raysearch.methods
    settings: type[s.Settings]
    meaning: str
    paper: str

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names of the settings that this method uses."""
        return tuple(f.name for f in fields(self.settings))

    def load(self) -> Any:
        """The class or function that does it; imports torch."""
        module, attribute = self.target.split(":")
        return getattr(importlib.import_module(f"raysearch.methods.{module}"), attribute)


_AANG = "Dery et al. 2023, https://arxiv.org/abs/2205.14082"
_TARTAN = "Dery et al. 2022, https://arxiv.org/abs/2109.07437"
_ATTITTUD = "Dery, Dauphin & Grangier 2021, https://arxiv.org/abs/2108.11346"
_DAPT = "Gururangan et al. 2020, https://arxiv.org/abs/2004.10964"

METHODS: dict[str, Method] = {
    "end_task_only": Method(
        "weighting", "static:EndTaskOnly", s.NoSettings, "the end task alone: plain fine-tuning", "baseline"
    ),
    "static": Method(
        "weighting", "static:Static", s.Static, "equal weights, fixed lambda_e: multitask learning", _AANG
    ),
    "eta_prim": Method(
        "weighting", "static:EtaPrimSum", s.EtaPrim, "equal weights, update g~_aux + eta_prim g_prim", _ATTITTUD
    ),
    "meta_tartan": Method(
        "weighting", "meta:MetaTartan", s.MetaTartan, "a softmax over all tasks, learned from meta-gradients", _TARTAN
    ),
    "aang": Method("weighting", "meta:Aang", s.Aang, "factored weights and lambda_e from meta-gradients", _AANG),
    "none": Method("surgery", "attittud:keep", s.NoSettings, "the auxiliary gradient as it is", "baseline"),
    "attittud": Method(
        "surgery", "attittud:Attittud", s.Attittud, "re-weigh the gradient's parts by their effect", _ATTITTUD
    ),
    "joint": Method("schedule", "schedules:joint", s.NoSettings, "end task and auxiliaries together", "baseline"),
    "joint_then_finetune": Method(
        "schedule", "schedules:joint_then_finetune", s.FineTune, "together, then the end task alone", _AANG
    ),
    "pretrain_then_finetune": Method(
        "schedule", "schedules:pretrain_then_finetune", s.Pretrain, "auxiliaries first, then the end task alone", _DAPT
    ),
}


def named(family: Family) -> dict[str, Method]:
    """The methods of one family, by name."""
    return {name: method for name, method in METHODS.items() if method.family == family}
