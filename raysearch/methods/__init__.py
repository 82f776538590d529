"""METHODS: every weighting, surgery and schedule by name, with its paper. Imports no torch; `Method.load` does.

A named method of the papers is a combination weighting x surgery x schedule.
"""

from __future__ import annotations

from raysearch.methods.method import FAMILIES, Family, Method
from raysearch.methods.schedule.registry import SCHEDULES
from raysearch.methods.surgery.registry import SURGERIES
from raysearch.methods.weighting.registry import WEIGHTINGS

__all__ = ["DEFAULT_METHODS", "FAMILIES", "METHODS", "Family", "Method", "methods_of"]

METHODS: dict[str, Method] = {method.name: method for method in (*WEIGHTINGS, *SURGERIES, *SCHEDULES)}
DEFAULT_METHODS: dict[Family, str] = {"weighting": "static", "surgery": "none", "schedule": "joint"}


def methods_of(family: Family) -> dict[str, Method]:
    """Returns the methods of one family by name."""
    return {name: method for name, method in METHODS.items() if method.family == family}
