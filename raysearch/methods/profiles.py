"""Profiles: for each method, the settings in which a paper's text (`paper`) and its authors' code (`official`) differ.

A bundle has the settings in which the two differ, or in which one of them differs from the default; both have every
other setting at its default. A setting that a search sets takes precedence. See docs/guide/profiles.md.

AANG         Dery et al. 2023, https://arxiv.org/abs/2205.14082
META-TARTAN  Dery et al. 2022, https://arxiv.org/abs/2109.07437
ATTITTUD     Dery, Dauphin & Grangier 2021, https://arxiv.org/abs/2108.11346
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from raysearch.schema.fields import Value

Profile = Literal["paper", "official"]
PROFILES: tuple[Profile, ...] = ("paper", "official")

# method -> setting -> (value in the paper, value in its code)
BUNDLES: dict[str, dict[str, tuple[Value, Value]]] = {
    "aang": {
        "weight_form": ("joint", "hierarchical"),
        "batch_split": ("weight", "hierarchical"),
        "sample_every": ("step", "micro_step"),
        "micro_batches": (1, 4),
        "meta_every": (1, 3),
        "meta_mean": (False, True),
        "similarity": ("dot", "cosine"),
        "through_softmax": (True, False),
        "lambda_form": ("scalar", "softmax"),
        "task_clip": (0.0, 10.0),
        "dev_head_split": ("meta_dev", "train"),
        "head_weight_decay": (0.01, 0.1),
    },
    "meta_tartan": {
        "similarity": ("dot", "cosine"),
        "through_softmax": (True, False),
        "batch_split": ("weight", "equal"),
        "dev_head_lr": (1e-2, 1e-3),
    },
    "eta_prim": {
        "eta_prim_form": ("factor", "count_ratio"),
    },
    "attittud": {
        "basis": ("randomized_svd", "range_finder"),
        "basis_rows": ("same", "fresh"),
        "scope": ("body", "all"),
    },
}


def bundle(profile: Profile | None, methods: Mapping[str, str]) -> dict[str, Value]:
    """Returns the settings of a profile for a weighting, surgery and schedule; empty without a profile."""
    if profile is None:
        return {}
    column = PROFILES.index(profile)
    return {name: values[column] for method in methods.values() for name, values in BUNDLES.get(method, {}).items()}
