"""Planted transfer: the share of an oracle's gain that each method gets in one run, and the loss where all tables harm.

    python benchmarks/planted.py [--seconds 6] [--draws 0 1 2 3 4 5] [--methods equal gcs gates] [--variants mixed]

Every method gets as many steps as take `seconds` of CPU time, by its own time per step, which is measured first. On
each draw of the tables all methods use one seed. The scale is set by fine_tune and by the oracle, which has equal
weights on the helpful tables:

    share   (method - fine_tune) / (oracle - fine_tune), of the best R2 on select-dev; BCa interval over draws
    loss    fine_tune - method where all tables harm, and where all are noise

`searched` is the best on select-dev of SEARCHED_RUNS runs with random static weights and lambda_e. Each has an equal
part of the seconds, so that together they cost as much as one run of another method.
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
from raysearch.modalities.table.config import TableModel
from raysearch.plan import TrialPlan
from raysearch.reports.statistics import bootstrap_interval
from raysearch.training.trainer import train

MODEL = {"mlp": [32, 8], "activation": "tanh"}
TABLE_MODEL = TableModel(mlp=(32, 8))
SETTINGS: dict[str, Any] = {
    "aux_batch_size": 128,
    "lr": 3e-3,
    "head_lr": 3e-3,
    "dropout": 0.0,
    "objectives_per_step": 0,
}
MIN_STEPS = {
    "probes": 1100,
    "factored_probes": 2600,
}  # of the shorter timing run; else 44, which are whole rounds of alphavil and forkmerge
MORE_STEPS = 220  # of the first longer timing run
VARIANTS: dict[str, dict[str, Any]] = {
    "mixed": {"helpful": 4, "harmful": 6},
    "factored": {"helpful": 3, "harmful": 3},
    "all harmful": {"helpful": 0, "harmful": 10},
    "null": {"helpful": 0, "harmful": 0, "unrelated": 10},
}
HARMFUL = {  # primitives that the oracle excludes; it takes part in these variants only
    "mixed": [f"data.extra_{i}" for i in range(5, 11)],
    "factored": [*(f"data.extra_{i}" for i in range(4, 7)), "transform.shuffle", "output.restore"],
}
SPACES = {"factored": ("planted_factored", {"objectives_per_step": 12})}
DEV = {"meta_batch_size": 28}  # the examples that the dev head leaves of 60
CLOSED_FORM = {"meta_batch_size": 0, "dev_head_ridge": 0.1}
METHODS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "fine_tune": ({"weighting": "end_task_only"}, {}),
    "oracle": ({"weighting": "static"}, {}),
    "gates": ({"weighting": "gates"}, {"gate_train_rows": 60, "meta_batch_size": 60}),
    "probes": (
        {"weighting": "probes"},
        {"pass_steps": 100, "probe_rate": 6.0, "gate_ridge": 0.3, "gate_train_rows": 60, "meta_batch_size": 60},
    ),
    "factored_probes": (
        {"weighting": "factored_probes"},
        {
            "pass_steps": 100,
            "probe_rate": 6.0,
            "probe_keep": 2,
            "gate_ridge": 0.3,
            "gate_train_rows": 60,
            "meta_batch_size": 60,
        },
    ),
    "evidence": ({"weighting": "evidence"}, CLOSED_FORM),
    "evidence, from zero": ({"weighting": "evidence"}, CLOSED_FORM | {"evidence_start": "zero"}),
    "aang, closed form": ({"weighting": "aang"}, CLOSED_FORM | {"dev_head": "closed_form"}),
    "exp3": ({"weighting": "exp3"}, {}),
    "ucb1": ({"weighting": "ucb1"}, {"ucb_reach": 0.05}),
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
SEARCHED_RUNS = 4


@dataclass(frozen=True)
class Scenario:
    """A variant, a draw of its tables, and the folder of prepared data."""

    variant: str
    draw: int
    folder: Path


def make_plan(name: str, scenario: Scenario, steps: int, overrides: dict[str, Any]) -> TrialPlan:
    """Returns the plan of one run of a method."""
    (method, method_settings), tables = METHODS[name], VARIANTS[scenario.variant] | {"draw": scenario.draw}
    space, space_settings = SPACES.get(scenario.variant, ("planted", {}))
    excluded = {f"include.{primitive}": False for primitive in HARMFUL[scenario.variant]} if name == "oracle" else {}
    length = {"steps": steps, "eval_every": max(1, steps // 20)}
    settings = {**SETTINGS, **space_settings, **excluded, **method_settings, **length, **overrides}
    methods = {"weighting": "static", "surgery": "none", "schedule": "joint"} | method
    declaration = {
        "name": "planted",
        "task": {"kind": "table", "name": "planted", "planted": tables},
        "model": MODEL,
        "method": method,
        "settings": {key: value for key, value in settings.items() if uses_setting(methods, key, TABLE_MODEL)},
    }
    if method["weighting"] != "end_task_only":
        declaration["space"] = space
    search = Search.from_dict(declaration)
    data = scenario.folder / "-".join(f"{key}{value}" for key, value in tables.items())
    labels = list(prepare(search.task, search.model.to_plain(), data).labels)
    return search.resolve("search", {}, number=0, seed=scenario.draw, data=str(data), labels=labels)


def steps_within(seconds: float, name: str, scenario: Scenario) -> int:
    """Returns how many steps of a method take `seconds` of CPU time, setup included.

    The time is taken to be linear in the steps, through two points: a short run (the faster of two, because the first
    one imports modules), and a run of about the resulting length.
    """
    steps = min_steps = MIN_STEPS.get(name, 44)
    min_seconds = min(train_once(make_plan(name, scenario, min_steps, {}))[1] for _ in range(2))
    for more in (MORE_STEPS, 0):
        steps += more
        elapsed = train_once(make_plan(name, scenario, steps, {}))[1]
        steps_per_second = (steps - min_steps) / max(elapsed - min_seconds, 1e-3)
        steps = max(min_steps + 1, round(min_steps + (seconds - min_seconds) * steps_per_second))
    return steps


def train_once(plan: TrialPlan) -> tuple[float, float]:
    """Returns the best R2 on select-dev, and the seconds of CPU time."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        best = max(report.evaluation["score"] for report in train(plan, folder=Path(folder)))
    return best, time.process_time() - start


def run(name: str, scenario: Scenario, steps: int) -> tuple[float, float]:
    """Returns R2 and seconds of one run; for `searched`, the best R2 and the total seconds of its runs."""
    if name != "searched":
        return train_once(make_plan(name, scenario, steps, {}))
    steps_each = steps // SEARCHED_RUNS
    plans = [make_plan(name, scenario, steps_each, random_weights(scenario, i)) for i in range(SEARCHED_RUNS)]
    results = [train_once(plan) for plan in plans]
    return max(r2 for r2, _ in results), sum(seconds for _, seconds in results)


def random_weights(scenario: Scenario, number: int) -> dict[str, Any]:
    """Returns random static weights of the tables, uniform in their logarithms, and a random lambda_e."""
    generator = random.Random(f"{scenario.draw} {number}")
    tables = sum(VARIANTS[scenario.variant].values())
    weights = {f"weight.data.extra_{i}": 10 ** generator.uniform(-2, 0) for i in range(1, tables + 1)}
    return weights | {"lambda_e": generator.uniform(0.2, 0.95)}


def format_interval(values: Any, places: int) -> str:
    """Returns the mean of the values and its interval."""
    bounds = bootstrap_interval(list(values))
    return f"{np.mean(values):.{places}f}" + (f" [{bounds[0]:.{places}f}, {bounds[1]:.{places}f}]" if bounds else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="CPU time of every method")
    parser.add_argument("--draws", type=int, nargs="+", default=range(6))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=0, help="give all methods so many steps, not the same time")
    parser.add_argument("--steps-of", nargs="+", default=[], metavar="METHOD=N", help="steps of single methods")
    arguments = parser.parse_args()
    fixed_steps = {name: int(count) for name, count in (each.rsplit("=", 1) for each in arguments.steps_of)}
    with tempfile.TemporaryDirectory() as folder:
        for variant in arguments.variants:
            oracle = ["oracle"] if variant in HARMFUL else []
            names = list(dict.fromkeys(["fine_tune", *oracle, *(n for n in arguments.methods if n != "oracle")]))
            first = Scenario(variant, 0, Path(folder))
            steps = {
                name: fixed_steps.get(name) or arguments.steps or steps_within(arguments.seconds, name, first)
                for name in names
            }
            print(f"{variant}, steps: {steps}", flush=True)
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for draw in arguments.draws:
                for name, results in runs.items():
                    results.append(run(name, Scenario(variant, draw, Path(folder)), steps[name]))
                scores = ", ".join(f"{name} {results[-1][0]:.3f}" for name, results in runs.items())
                print(f"draw {draw}: {scores}", flush=True)
            print_table(variant, runs, steps)


def print_table(variant: str, runs: dict[str, list[tuple[float, float]]], steps: dict[str, int]) -> None:
    """Prints one line per method, in Markdown."""
    r2 = {name: np.array([value for value, _ in results]) for name, results in runs.items()}
    head = "share of the oracle's gain" if "oracle" in r2 else "loss of R2"
    print(f"\n{variant}, {len(r2['fine_tune'])} draws\n\n| method | steps | s | R2 | {head} |")
    print("| --- | --- | --- | --- | --- |")
    for name, values in r2.items():
        loss = r2["fine_tune"] - values
        share_or_loss = (
            format_interval(-loss / (r2["oracle"] - r2["fine_tune"]), 2) if "oracle" in r2 else format_interval(loss, 3)
        )
        mean_seconds = np.mean([seconds for _, seconds in runs[name]])
        print(f"| {name} | {steps[name]} | {mean_seconds:.1f} | {values.mean():.3f} | {share_or_loss} |", flush=True)


if __name__ == "__main__":
    main()
