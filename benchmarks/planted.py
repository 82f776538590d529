"""Planted transfer: what share of an oracle's gain does each method get in one run, and what is lost where all harm?

    python benchmarks/planted.py [--seconds 4] [--draws 0 1 2 3 4 5] [--methods equal gcs gates] [--subsets 16]

Every method gets steps for the same seconds, after its own seconds a step have been measured here; on each draw of the
tables all begin from one seed. fine_tune and the oracle (equal weights on the helpful tables alone) set the scale:

    share   (method - fine_tune) / (oracle - fine_tune) of R2 on select-dev, best evaluation; BCa interval over draws
    harm    fine_tune - method where all tables harm, and where all are noise

`subsets` is no one run: the best of so many random subsets of the tables under equal weights, each in a run of its own.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.arms import uses
from raysearch.checkpoint import TrialFolder
from raysearch.paired import bootstrap_interval
from raysearch.plan import TrialPlan
from raysearch.ranks import Ranks
from raysearch.spec import Search
from raysearch.tasks import prepare
from raysearch.training import Trial, train

MODEL = {"mlp": [32, 8], "activation": "tanh"}
SETTINGS: dict[str, Any] = {
    "aux_batch_size": 128,
    "lr": 3e-3,
    "head_lr": 3e-3,
    "dropout": 0.0,
    "objectives_per_step": 0,
}
HELPFUL, TABLES, MEASURED = 4, 10, 40
VARIANTS = {
    "mixed": {"helpful": HELPFUL, "harmful": TABLES - HELPFUL},
    "all harmful": {"helpful": 0, "harmful": TABLES},
    "null": {"helpful": 0, "harmful": 0, "unrelated": TABLES},
}
DEV = {"meta_batch_size": 28}  # what the dev head leaves of 60 rows
METHODS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "fine_tune": ({"weighting": "end_task_only"}, {}),
    "oracle": ({"weighting": "static"}, {f"include.data.extra_{i}": False for i in range(HELPFUL + 1, TABLES + 1)}),
    "equal": ({"weighting": "static"}, {}),
    "gcs": ({"weighting": "static", "surgery": "gcs"}, {}),
    "pcd": ({"weighting": "static", "surgery": "pcd"}, {}),
    "aligned_mtl": ({"weighting": "static", "surgery": "aligned_mtl"}, {}),
    "pcgrad": ({"weighting": "static", "surgery": "pcgrad"}, {}),
    "attittud": ({"weighting": "static", "surgery": "attittud"}, {}),
    "meta_tartan": ({"weighting": "meta_tartan"}, {"lr_tasks": 0.1, **DEV}),
    "aang": ({"weighting": "aang"}, DEV),
    "gates": ({"weighting": "gates"}, {"gate_train_rows": 60, "meta_batch_size": 60}),
}


def plan(name: str, tables: dict[str, Any], folder: Path, steps: int, more: dict[str, Any]) -> TrialPlan:
    """The plan of one run of a method."""
    method, own = METHODS[name]
    given = {**SETTINGS, **own, **more, "steps": steps, "eval_every": max(1, steps // 20)}
    methods = {"weighting": "static", "surgery": "none", "schedule": "joint"} | method
    auxiliary = method["weighting"] != "end_task_only"
    settings = {k: v for k, v in given.items() if (auxiliary if k.startswith("include.") else uses(methods, k))}
    declared = {"task": {"kind": "table", "name": "planted", "planted": tables}, "model": MODEL, "method": method}
    space = {"space": "planted"} if auxiliary else {}
    search = Search.from_dict({"name": "planted", **declared, **space, "settings": settings})
    data = folder / "-".join(f"{key}{value}" for key, value in tables.items())
    labels = list(prepare(search.task, search.model.plain(), data).labels)
    return search.resolve("search", {}, number=0, seed=tables["draw"], data=str(data), labels=labels)


def seconds_a_step(name: str, folder: Path) -> float:
    """Of the fastest fifth of some steps: what the machine does beside them is left out."""
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(
            plan(name, VARIANTS["mixed"] | {"draw": 0}, folder, MEASURED, {}), TrialFolder(Path(place)), Ranks()
        )
        taken = []
        for number in range(1, MEASURED + 1):
            begun = time.process_time()
            trial.update(trial.phases[0], number)
            taken.append(time.process_time() - begun)
    return float(np.mean(sorted(taken)[: MEASURED // 5]))


def score(made: TrialPlan) -> tuple[float, float]:
    """The best R2 on select-dev, and the seconds of the processor."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        best = max(report.evaluation["score"] for report in train(made, folder=Path(place)))
    return best, time.process_time() - begun


def subset(draw: int, number: int) -> dict[str, Any]:
    """The settings that leave out a random part of the tables, never all."""
    chance = random.Random(f"{draw} {number}")
    kept = chance.sample(range(1, TABLES + 1), chance.randint(1, TABLES))
    return {f"include.data.extra_{i}": False for i in range(1, TABLES + 1) if i not in kept}


def said(values: Any, places: int = 3) -> str:
    """A mean and its interval."""
    bounds = bootstrap_interval(list(values))
    return f"{np.mean(values):.{places}f}" + (f" [{bounds[0]:.{places}f}, {bounds[1]:.{places}f}]" if bounds else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of training steps, for every method")
    parser.add_argument("--draws", type=int, nargs="+", default=range(6))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--subsets", type=int, default=0, help="random subsets of a search of static weights")
    parser.add_argument("--steps", type=int, default=0, help="the same steps for all, not the same seconds")
    asked = parser.parse_args()
    names = list(dict.fromkeys(["fine_tune", "oracle", *asked.methods]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        steps = {name: asked.steps or round(asked.seconds / seconds_a_step(name, folder)) for name in names}
        for variant in asked.variants:
            runs = {name: [] for name in names if variant == "mixed" or name != "oracle"}
            for draw in asked.draws:
                tables = VARIANTS[variant] | {"draw": draw}
                for name in runs:
                    runs[name].append(score(plan(name, tables, folder, steps[name], {})))
            if asked.subsets and variant == "mixed":
                tried = [
                    [
                        score(plan("equal", VARIANTS[variant] | {"draw": d}, folder, steps["oracle"], subset(d, n)))
                        for n in range(asked.subsets)
                    ]
                    for d in asked.draws
                ]
                runs[f"best of {asked.subsets}"] = [(max(r2 for r2, _ in one), sum(t for _, t in one)) for one in tried]
            table(variant, runs, steps)


def table(variant: str, runs: dict[str, list[tuple[float, float]]], steps: dict[str, int]) -> None:
    """One line a method."""
    r2 = {name: np.array([value for value, _ in found]) for name, found in runs.items()}
    head = "share of the oracle's gain" if "oracle" in r2 else "R2 lost"
    print(f"\n{variant}, {len(r2['fine_tune'])} draws\n{'method':14} {'steps':>6} {'s':>6} {'R2':>6}  {head}")
    for name, values in r2.items():
        loss = r2["fine_tune"] - values
        shown = said(-loss / (r2["oracle"] - r2["fine_tune"]), 2) if "oracle" in r2 else said(loss)
        spent = np.mean([seconds for _, seconds in runs[name]])
        print(f"{name:14} {steps.get(name, ''):>6} {spent:>6.1f} {values.mean():>6.3f}  {shown}", flush=True)


if __name__ == "__main__":
    main()
