"""Profiles: named bundles of settings. A setting that a search sets takes precedence. See docs/guide/profiles.md.

`paper` and `official` have, for each method, the settings in which a paper's text and its authors' code differ, or in
which one of them differs from the default; both have every other setting at its default. A recipe has settings of
training, whatever the method.

AANG         Dery et al. 2023, https://arxiv.org/abs/2205.14082
META-TARTAN  Dery et al. 2022, https://arxiv.org/abs/2109.07437
ATTITTUD     Dery, Dauphin & Grangier 2021, https://arxiv.org/abs/2108.11346
fine_tune_recipe    Mosbach et al. 2021, https://arxiv.org/abs/2006.04884, and Zhang et al. 2021,
                    https://arxiv.org/abs/2006.05987: how to fine-tune a pre-trained encoder on few labels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from raysearch.schema.fields import Value

Profile = Literal["paper", "official", "fine_tune_recipe"]
PROFILES: tuple[Profile, ...] = ("paper", "official")  # those with a column in BUNDLES

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
        "dev_head_rows": ("fixed", "fresh"),
        "dev_dropout": (False, True),
        "head_weight_decay": (0.01, 0.1),
        "head_dropout": (-1.0, 0.3),
        "clip_apart": (False, True),
        "lm_head": ("tied", "untied"),
    },
    "meta_tartan": {
        "similarity": ("dot", "cosine"),
        "through_softmax": (True, False),
        "batch_split": ("weight", "equal"),
        "dev_head_lr": (1e-2, 1e-3),
        "dev_head_rows": ("fixed", "fresh"),
        "dev_dropout": (False, True),
        "clip_apart": (False, True),
    },
    "eta_prim": {
        "eta_prim_form": ("factor", "count_ratio"),
    },
    "attittud": {
        "basis": ("randomized_svd", "range_finder"),
        "basis_rows": ("same", "fresh"),
        "sign_gradient": ("basis", "step"),
        "scope": ("body", "all"),
        "batch_norm": ("coupled", "coupled"),
    },
}

# recipe -> setting -> value
RECIPES: dict[str, dict[str, Value]] = {
    "fine_tune_recipe": {
        "steps": 500,  # the papers' 20 epochs, of 400 examples
        "batch_size": 16,
        "lr": 2e-5,
        "head_lr": 2e-5,
        "warmup": 0.1,
        "weight_decay": 0.01,
        "head_weight_decay": 0.01,
        "adam_beta2": 0.999,
        "dropout": 0.1,
        "clip": 1.0,
    },
}


def bundle(profile: Profile | None, methods: Mapping[str, str]) -> dict[str, Value]:
    """Returns the settings of a profile for a weighting, surgery and schedule; empty without a profile."""
    if profile is None:
        return {}
    if profile in RECIPES:
        return dict(RECIPES[profile])
    column = PROFILES.index(profile)
    return {name: values[column] for method in methods.values() for name, values in BUNDLES.get(method, {}).items()}
