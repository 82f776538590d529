"""raysearch: search objective spaces for auxiliary learning, on Ray.

    raysearch.load_space("aang_td").objectives
    raysearch.load_search("quickstart")                 # a trials/*.yaml by name, or a file by path
    raysearch.launch("quickstart", name="first")        # needs ray and torch; the others do not
    raysearch.load_model("exported").predict(["a text"])
    run = raysearch.open_run("first")
    run.trials(params=True)                             # also evaluations(), weights(), events(): pyarrow tables
    run.verdict(), run.compare("second")                # what to use, and how two runs differ

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysearch.config.loading import load_search
    from raysearch.config.search_config import Search
    from raysearch.errors import RunError, SpecError
    from raysearch.modalities.exported import load_model
    from raysearch.modalities.image.export import load_image_model
    from raysearch.modalities.loading import load_space
    from raysearch.objectives.objective import Objective
    from raysearch.objectives.space import Space
    from raysearch.plan import TrialPlan
    from raysearch.python_api import Run, compare_runs, launch, list_runs, open_run
    from raysearch.reports.recommendation import Recommendation
    from raysearch.reports.run_comparison import RunComparison

_HOME = {
    "Objective": "objectives.objective",
    "Recommendation": "reports.recommendation",
    "Run": "python_api",
    "RunComparison": "reports.run_comparison",
    "RunError": "errors",
    "Search": "config.search_config",
    "Space": "objectives.space",
    "SpecError": "errors",
    "TrialPlan": "plan",
    "compare_runs": "python_api",
    "launch": "python_api",
    "list_runs": "python_api",
    "load_image_model": "modalities.image.export",
    "load_model": "modalities.exported",
    "load_search": "config.loading",
    "load_space": "modalities.loading",
    "open_run": "python_api",
}

__all__ = [
    "Objective",
    "Recommendation",
    "Run",
    "RunComparison",
    "RunError",
    "Search",
    "Space",
    "SpecError",
    "TrialPlan",
    "compare_runs",
    "launch",
    "list_runs",
    "load_image_model",
    "load_model",
    "load_search",
    "load_space",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'raysearch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"raysearch.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
