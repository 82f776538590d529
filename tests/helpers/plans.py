"""Small plans on the `tiny_task` of conftest, for tests of training."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from raysearch.methods import METHODS, methods_of
from raysearch.modalities.opening import prepare
from raysearch.modalities.text.config import TextTask
from raysearch.objectives.objective import Objective
from raysearch.plan import TrialPlan
from raysearch.training_settings import TrainingSettings

MODEL = {
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "vocab_size": 120,
    }
}
OBJECTIVES = tuple(
    Objective(data=data, transform=transform, representation=representation, output=output)
    for data, transform, representation, output in [
        ("end_task", "bert", "bidirectional", "denoise"),
        ("end_task", "none", "left_to_right", "denoise"),
        ("in_domain", "mask", "random_factorized", "denoise"),
        ("end_task", "replace", "random_factorized", "end_task"),
    ]
)
SHORT_PHASES = {"m": 4, "k": 2, "finetune_steps": 4, "pretrain_steps": 4, "retrain_steps": 4, "contrast_steps": 4}
QUICK = {"steps": 6, "eval_every": 2, "batch_size": 8, "aux_batch_size": 8, "max_length": 16, "dropout": 0.1}

AANG_OFFICIAL = {
    "meta_every": 3,
    "meta_mean": True,
    "sample_every": "micro_step",
    "micro_batches": 2,
    "weights_every": 2,
}
LEARNED_WEIGHTINGS = [  # those with a state that train in one branch; a few have cases of their own
    name
    for name, method in methods_of("weighting").items()
    if not method.merges_branches
    and name not in ("aang", "meta_tartan", "gates")
    and method.load()(OBJECTIVES, method.settings()).state()
]
FAST_WEIGHTING_SETTINGS = {
    "dwa_window": 1,
    "ol_aux_steps": 2,
    "dga_every": 2,
    "preference_every": 2,
    "evidence_every": 1,
    "dev_folds": 2,
}  # within a few steps


def fast_weighting_settings(weighting: str) -> dict[str, int]:
    """Settings under which a weighting of the field moves within a few steps."""
    return {name: value for name, value in FAST_WEIGHTING_SETTINGS.items() if name in METHODS[weighting].setting_names}


def prepare_tiny_task(task: dict[str, str], folder: Path) -> Path:
    """The prepared splits of a declared task."""
    prepare(TextTask(**task), MODEL, folder)
    return folder


def tiny_plan(
    data: Path, weighting: str = "static", surgery: str = "none", schedule: str = "joint", **settings: Any
) -> TrialPlan:
    """A plan of a few steps; `settings` as a search would set them, `seed` among them."""
    seed = settings.pop("seed", 0)
    workers = settings.pop("workers", 1)
    complete = asdict(TrainingSettings())
    for method in (weighting, surgery, schedule):
        complete |= asdict(METHODS[method].settings())
    complete |= {k: v for k, v in SHORT_PHASES.items() if k in complete}
    complete |= QUICK | settings
    return TrialPlan(
        number=0,
        seed=seed,
        arm="search",
        role="search",
        weighting=weighting,
        surgery=surgery,
        schedule=schedule,
        objectives=() if weighting == "end_task_only" else OBJECTIVES,
        settings=complete,
        params={},
        task={"name": "tiny", "data": str(data), "metric": "accuracy", "labels": []},
        model=MODEL,
        workers=workers,
    )
