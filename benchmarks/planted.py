"""Planted transfer: what share of an oracle's gain does each method get in one run, and what is lost where all harm?

    python benchmarks/planted.py [--seconds 6] [--draws 0 1 2 3 4 5] [--methods equal gcs gates] [--variants mixed]

Every method gets the steps that take `seconds` of the processor here, by its own seconds a step, measured first; on
each draw of the tables all begin from one seed. fine_tune and the oracle (equal weights on what helps) set the scale:

    share   (method - fine_tune) / (oracle - fine_tune) of R2 on select-dev, best evaluation; BCa interval over draws
    lost    fine_tune - method where all tables harm, and where all are noise

`searched` is the best on select-dev of PARTS runs with static weights and lambda_e drawn at random, each a PARTS-th of
the seconds, so that all together take what one run of another method does.
"""

import argparse
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.config.compatibility import uses_setting
from raysearch.config.search_config import Search
from raysearch.modalities.opening import prepare
from raysearch.plan import TrialPlan
from raysearch.reports.statistics import bootstrap_interval
from raysearch.training.trainer import train

MODEL = {"mlp": [32, 8], "activation": "tanh"}
SETTINGS: dict[str, Any] = {
    "aux_batch_size": 128,
    "lr": 3e-3,
    "head_lr": 3e-3,
    "dropout": 0.0,
    "objectives_per_step": 0,
}
FEWEST = {"probes": 1100}  # steps that a method is measured from, else 44: whole rounds of alphavil and forkmerge
LONGER = 220  # steps by which it is measured first
VARIANTS: dict[str, dict[str, Any]] = {
    "mixed": {"helpful": 4, "harmful": 6},
    "factored": {"helpful": 3, "harmful": 3},
    "all harmful": {"helpful": 0, "harmful": 10},
    "null": {"helpful": 0, "harmful": 0, "unrelated": 10},
}
HARMFUL = {  # what the oracle leaves out; it takes part where it is told of any
    "mixed": [f"data.extra_{i}" for i in range(5, 11)],
    "factored": [*(f"data.extra_{i}" for i in range(4, 7)), "transform.shuffle", "output.restore"],
}
SPACES = {"factored": ("planted_factored", {"objectives_per_step": 12})}
DEV = {"meta_batch_size": 28}  # what the dev head leaves of 60 rows
METHODS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "fine_tune": ({"weighting": "end_task_only"}, {}),
    "oracle": ({"weighting": "static"}, {}),
    "gates": ({"weighting": "gates"}, {"gate_train_rows": 60, "meta_batch_size": 60}),
    "probes": (
        {"weighting": "probes"},
        {"pass_steps": 100, "probe_rate": 6.0, "gate_ridge": 0.3, "gate_train_rows": 60, "meta_batch_size": 60},
    ),
    "equal": ({"weighting": "static"}, {}),
    "searched": ({"weighting": "static_searched"}, {}),
    "meta_tartan": ({"weighting": "meta_tartan"}, {"lr_tasks": 0.1, **DEV}),
    "aang": ({"weighting": "aang"}, DEV),
    "aang, not factored": ({"weighting": "aang"}, {"factored": False, **DEV}),
    "gcs": ({"weighting": "static", "surgery": "gcs"}, {}),
    "pcd": ({"weighting": "static", "surgery": "pcd"}, {}),
    "aligned_mtl": ({"weighting": "static", "surgery": "aligned_mtl"}, {}),
    "pcgrad": ({"weighting": "static", "surgery": "pcgrad"}, {}),
    "attittud": ({"weighting": "static", "surgery": "attittud"}, {}),
    "dga": ({"weighting": "dga"}, {"meta_batch_size": 60}),
    "ol_aux": ({"weighting": "ol_aux"}, {}),
    "auxinash": ({"weighting": "auxinash"}, {"meta_batch_size": 60}),
    "gradnorm": ({"weighting": "gradnorm"}, {}),
    "uncertainty": ({"weighting": "uncertainty"}, {}),
    "dwa": ({"weighting": "dwa"}, {}),
    "famo": ({"weighting": "famo"}, {}),
    "alphavil": ({"weighting": "alphavil"}, {"pass_steps": 2}),
    "forkmerge": ({"weighting": "forkmerge"}, {"pass_steps": 2}),
    "diw": ({"weighting": "diw"}, {"pass_steps": 2}),
    "rlw": ({"weighting": "rlw"}, {}),
    "eta_prim": ({"weighting": "eta_prim"}, {}),
    "post_train": ({"weighting": "static", "schedule": "joint_then_finetune"}, {}),
    **{
        name: ({"weighting": "static", "surgery": name}, {})
        for name in ("mgda", "cagrad", "imtl_g", "upgrad", "dualproj", "config", "fairgrad", "nash_mtl", "gradvac")
    },
}
PARTS = 4  # runs of `searched`


@dataclass(frozen=True)
class Drawn:
    """A variant, a draw of its tables, and the folder of prepared data."""

    variant: str
    draw: int
    folder: Path


def plan(name: str, at: Drawn, steps: int, more: dict[str, Any]) -> TrialPlan:
    """The plan of one run of a method."""
    (method, own), tables = METHODS[name], VARIANTS[at.variant] | {"draw": at.draw}
    called, few = SPACES.get(at.variant, ("planted", {}))
    told = {f"include.{primitive}": False for primitive in HARMFUL[at.variant]} if name == "oracle" else {}
    given = {**SETTINGS, **few, **told, **own, "steps": steps, "eval_every": max(1, steps // 20), **more}
    methods = {"weighting": "static", "surgery": "none", "schedule": "joint"} | method
    auxiliary = method["weighting"] != "end_task_only"
    settings = {k: v for k, v in given.items() if uses_setting(methods, k)}
    declared = {"task": {"kind": "table", "name": "planted", "planted": tables}, "model": MODEL, "method": method}
    space = {"space": called} if auxiliary else {}
    search = Search.from_dict({"name": "planted", **declared, **space, "settings": settings})
    data = at.folder / "-".join(f"{key}{value}" for key, value in tables.items())
    labels = list(prepare(search.task, search.model.to_plain(), data).labels)
    return search.resolve("search", {}, number=0, seed=at.draw, data=str(data), labels=labels)


def steps_within(seconds: float, name: str, at: Drawn) -> int:
    """The steps of a method that take `seconds` of the processor, setting up included.

    Along the line through what the fewest take (the faster of two runs, as the first one imports) and what a run takes
    that is as long as LONGER steps more have it.
    """
    steps = fewest = FEWEST.get(name, 44)
    least = min(score(plan(name, at, fewest, {}))[1] for _ in range(2))
    for more in (LONGER, 0):
        steps += more
        taken = score(plan(name, at, steps, {}))[1]
        steps = max(fewest + 1, round(fewest + (seconds - least) / max(taken - least, 1e-3) * (steps - fewest)))
    return steps


def score(made: TrialPlan) -> tuple[float, float]:
    """The best R2 on select-dev, and the seconds of the processor."""
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        best = max(report.evaluation["score"] for report in train(made, folder=Path(place)))
    return best, time.process_time() - begun


def run(name: str, at: Drawn, steps: int) -> tuple[float, float]:
    """R2 and seconds of one run, or of the best of those that `searched` has instead."""
    if name != "searched":
        return score(plan(name, at, steps, {}))
    tried = [score(plan(name, at, steps // PARTS, weights(at, number))) for number in range(PARTS)]
    return max(r2 for r2, _ in tried), sum(seconds for _, seconds in tried)


def weights(at: Drawn, number: int) -> dict[str, Any]:
    """Static weights of the tables at random, alike in their logarithms, and lambda_e."""
    chance = random.Random(f"{at.draw} {number}")
    tables = sum(VARIANTS[at.variant].values())
    found = {f"weight.data.extra_{i}": 10 ** chance.uniform(-2, 0) for i in range(1, tables + 1)}
    return found | {"lambda_e": chance.uniform(0.2, 0.95)}


def said(values: Any, places: int) -> str:
    """A mean and its interval."""
    bounds = bootstrap_interval(list(values))
    return f"{np.mean(values):.{places}f}" + (f" [{bounds[0]:.{places}f}, {bounds[1]:.{places}f}]" if bounds else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of the processor, for every method")
    parser.add_argument("--draws", type=int, nargs="+", default=range(6))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=0, help="the same steps for all, not the same seconds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for variant in asked.variants:
            told = ["oracle"] if variant in HARMFUL else []
            names = list(dict.fromkeys(["fine_tune", *told, *(n for n in asked.methods if n != "oracle")]))
            first = Drawn(variant, 0, Path(place))
            steps = {name: asked.steps or steps_within(asked.seconds, name, first) for name in names}
            print(f"{variant}, steps: {steps}", flush=True)
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for draw in asked.draws:
                for name, found in runs.items():
                    found.append(run(name, Drawn(variant, draw, Path(place)), steps[name]))
                print(
                    f"draw {draw}: " + ", ".join(f"{name} {found[-1][0]:.3f}" for name, found in runs.items()),
                    flush=True,
                )
            table(variant, runs, steps)


def table(variant: str, runs: dict[str, list[tuple[float, float]]], steps: dict[str, int]) -> None:
    """One line a method, in Markdown."""
    r2 = {name: np.array([value for value, _ in found]) for name, found in runs.items()}
    head = "share of the oracle's gain" if "oracle" in r2 else "R2 lost"
    print(f"\n{variant}, {len(r2['fine_tune'])} draws\n\n| method | steps | s | R2 | {head} |")
    print("| --- | --- | --- | --- | --- |")
    for name, values in r2.items():
        loss = r2["fine_tune"] - values
        shown = said(-loss / (r2["oracle"] - r2["fine_tune"]), 2) if "oracle" in r2 else said(loss, 3)
        spent = np.mean([seconds for _, seconds in runs[name]])
        print(f"| {name} | {steps[name]} | {spent:.1f} | {values.mean():.3f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
