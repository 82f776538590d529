"""Importance with intervals on planted runs: does the planted dimension come first, and does an idle one's hold 0?

    python benchmarks/importance.py [--runs 60] [--configurations 40 200]

Each run is written through a real ledger and read back: `lr` and the primitive `mask` of the stage transform change the
score by known amounts, `warmup` and `kind` do nothing. In half of the runs the worse trials of each number are stopped
half-way, as a scheduler does. Printed for each size: how often the planted dimension comes first and is distinguished,
how often an idle one's interval holds 0, how often intervals hold the true value, and seconds of CPU for one answer.
For comparison, how often Optuna's PED-ANOVA and fANOVA, which give no intervals, have the planted dimension first.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from planted_runs import EFFECTS, write_planted_run

from raysearch.reports.query import analyze
from raysearch.storage.run import Run, open_run


def measure(run: Run, tally: dict[str, list[float]], *, is_stopped: bool) -> None:
    """Adds what one run's reports say to the tally."""
    started = time.process_time()
    answers = analyze(run, ["importance", "effects"])
    tally["seconds of CPU"].append(time.process_time() - started)
    rows = answers["importance"].to_pylist()
    by_name = {row["dimension"]: row for row in rows}
    suffix = " (stopped trials)" if is_stopped else ""
    tally[f"planted dimension first{suffix}"].append(rows[0]["dimension"] == "lr")
    tally[f"planted dimension distinguished{suffix}"].append(by_name["lr"]["low"] > 0)
    for name in ("warmup", "kind"):
        tally[f"idle dimension's interval holds 0{suffix}"].append(by_name[name]["low"] <= 0 <= by_name[name]["high"])
    effects = {row["name"]: row for row in answers["effects"].to_pylist()}
    mask, idle = effects["transform mask"], effects["transform replace"]
    tally[f"planted primitive distinguished{suffix}"].append(mask["low"] > 0)
    tally[f"idle primitive's interval holds 0{suffix}"].append(idle["low"] <= 0 <= idle["high"])
    if not is_stopped:  # stopped trials have no final score to compare with
        tally["planted primitive's interval holds its effect"].append(mask["low"] <= EFFECTS["mask"] <= mask["high"])


def rank_with_optuna(run: Run, tally: dict[str, list[float]], *, slow: bool) -> None:
    """Adds whether Optuna's evaluators have the planted dimension first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "warmup": optuna.distributions.IntDistribution(0, 100),
        "kind": optuna.distributions.CategoricalDistribution(["a", "b", "c"]),
    }
    study = optuna.create_study(direction="maximize")
    for row in run.configurations().to_pylist():
        params = {name: value for name, value in json.loads(row["params"]).items() if name in spaces}
        if row["state"] == "complete":
            study.add_trial(optuna.trial.create_trial(value=row["score"], params=params, distributions=spaces))
    evaluators = {"PED-ANOVA": optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)}
    if slow:
        evaluators["fANOVA"] = optuna.importance.FanovaImportanceEvaluator(seed=0)
    for name, evaluator in evaluators.items():
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importance = evaluator.evaluate(study)
        tally[f"Optuna's {name}: planted dimension first"].append(max(importance, key=importance.__getitem__) == "lr")
        tally[f"Optuna's {name}: seconds of CPU without an interval"].append(time.process_time() - started)


def main() -> None:
    """Prints a table for each number of configurations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--configurations", type=int, nargs="+", default=[40, 200])
    parser.add_argument("--optuna-runs", type=int, default=20, help="of these also with Optuna's evaluators")
    arguments = parser.parse_args()
    for configurations in arguments.configurations:
        tally: dict[str, list[float]] = defaultdict(list)
        for number in range(arguments.runs):
            with tempfile.TemporaryDirectory() as folder:
                is_stopped = bool(number % 2)
                write_planted_run(Path(folder) / "run", configurations, seed=number, stops=is_stopped)
                run = open_run(Path(folder) / "run")
                measure(run, tally, is_stopped=is_stopped)
                if not is_stopped and number < 2 * arguments.optuna_runs:
                    rank_with_optuna(run, tally, slow=number < 10)
        print(f"\n{configurations} configurations, {arguments.runs} runs")
        for name, values in sorted(tally.items()):
            error = (
                ""
                if "seconds" in name
                else f" +- {math.sqrt(np.mean(values) * (1 - np.mean(values)) / len(values)):.2f}"
            )
            print(f"  {name:72} {np.mean(values):.3f}{error}  ({len(values)})", flush=True)


if __name__ == "__main__":
    main()
