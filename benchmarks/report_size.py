"""Time, memory and bytes of a run's reports and of its page, for a synthetic run of any size.

    python benchmarks/report_size.py [--trials 10000] [--evaluations 100] [--weights 4] [--folder FOLDER]

The run is written through the ledger: real configurations of the quick start's search, scores that depend on them,
baselines, fresh seeds, stopped and failed trials. Each measurement is a process of its own, and `memory` its peak.
A run that is in FOLDER already is measured again, so that two versions can be compared on the same one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysearch.config.arm import Arm, Configuration
from raysearch.config.loading import load_search
from raysearch.plan import TrialPlan
from raysearch.storage.ledger import Ledger
from raysearch.storage.schemas import TRIALS

ROOT = Path(__file__).parent.parent
FRESH_SEEDS = (101, 102, 103, 104, 105)
BATCH = 500  # trials that are written together
TRACEBACK = 'Traceback (most recent call last):\n  File "step.py", line 1, in step\nArithmeticError: loss is nan\n'
MEASURED = {
    "status": "run.status()",
    "leaderboard": "analyze(run, ['leaderboard'])",
    "arms": "analyze(run, ['arms'])",
    "sweep": "analyze(run, ['sweep'])",
    "curves": "analyze(run, ['curves'])",
    "page": "write_html(run)",
}
PROGRAM = """
import sys, time
start = time.perf_counter()
from raysearch.storage.run import open_run
from raysearch.reports.query import analyze
from raysearch.reports.page import write_html
run = open_run(sys.argv[1])
imported = time.perf_counter()
{call}
seconds = time.perf_counter() - imported
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))  # of this program alone
print(seconds, imported - start, peak)
"""


def draw(arm: Arm, rng: random.Random) -> Configuration:
    """Returns a random configuration of an arm."""
    values: dict[str, Any] = {}
    for name, dimension in arm.dimensions.items():
        if dimension.values is not None:
            values[name] = rng.choice(dimension.values)
        elif dimension.log:
            values[name] = math.exp(rng.uniform(math.log(dimension.low), math.log(dimension.high)))
        else:
            values[name] = rng.uniform(dimension.low, dimension.high)
    return arm.configure({name: value for name, value in values.items() if arm.is_active(arm.dimensions[name], values)})


def quality(params: dict[str, Any]) -> float:
    """Returns a score that depends on the learning rate, lambda_e and eta_neg."""
    score = 0.62 - 0.03 * abs(math.log(params.get("lr", 5e-4) / 6e-4)) + 0.05 * (params.get("lambda_e", 0.8) - 0.8)
    return float(score - 0.015 * params.get("eta_neg", 0.0) ** 2)


class Writer:
    """Writes trials to a ledger in batches, on an imagined clock."""

    def __init__(self, ledger: Ledger, search: dict[str, Any], evaluations: int, weights: int) -> None:
        self.ledger, self.search, self.evaluations, self.weights = ledger, search, evaluations, weights
        self.now, self.noise = datetime.now(UTC) - timedelta(days=2), np.random.default_rng(0)
        self.pending: dict[str, list[Any]] = {"trials": [], "evaluations": [], "weights": [], "events": []}

    def trial(self, configuration: Configuration, arm: str, number: int, seed: int, role: str, state: str) -> float:
        """Adds all rows of a trial; returns its score."""
        plan = TrialPlan(
            number=number,
            seed=seed,
            arm=arm,
            role=role,
            **configuration.methods,
            objectives=configuration.objectives,
            settings=configuration.settings,
            params=configuration.params,
            task={"name": "docstrings", "data": "/nowhere", "metric": self.search["task"]["metric"], "labels": 8},
            model=self.search["model"],
        )
        trial_id, text = plan.trial_id, plan.to_json()
        share = {"complete": 1.0, "stopped": self.noise.uniform(0.1, 0.9), "failed": 0.2}[state]
        count, began = max(2, int(share * self.evaluations)), self.now
        step = 20 * np.arange(1, count + 1)
        rise = 1 - np.exp(-4.0 * np.arange(1, count + 1) / self.evaluations)
        score = (quality(configuration.params) + self.noise.normal(0, 0.01)) * rise + self.noise.normal(0, 0.006, count)
        self.now += timedelta(seconds=0.3 * count)
        self._evaluations(trial_id, step, score, rise, began)
        if self.weights and plan.objectives:
            self._weights(trial_id, plan, step)
        best = int(score.argmax())
        ended = {"state": state, "score": float(score[best]), "best_step": int(step[best]), "steps": int(step[-1])}
        ended |= {"started": began, "ended": self.now, "seconds": 0.3 * count, "attempts": 1, "workers": 1}
        ended |= {"why": {"complete": "took all its steps", "failed": TRACEBACK}.get(state, "stopped by the scheduler")}
        row = {"trial_id": trial_id, "arm": arm, "role": role, "number": number, "seed": seed, "device": "cpu"}
        texts = {"params": json.dumps(plan.params, sort_keys=True), "plan": text}
        self.pending["trials"].append(row | ended | texts)
        self._events(trial_id, text, began)
        if len(self.pending["trials"]) >= BATCH:
            self.flush()
        return float(score[best])

    def flush(self) -> None:
        """Writes what has been added."""
        for table in ("events", "evaluations", "weights"):
            if rows := self.pending[table]:
                self.ledger.append(table, pa.concat_tables(rows) if table != "events" else rows)
        self.ledger.restore(pa.Table.from_pylist(self.pending["trials"], schema=TRIALS).to_batches()[0])
        self.pending = {name: [] for name in self.pending}

    def _evaluations(
        self, trial_id: str, step: np.ndarray, score: np.ndarray, rise: np.ndarray, began: datetime
    ) -> None:
        count = len(step)
        columns = {
            "trial_id": [trial_id] * count,
            "attempt": pa.array(np.zeros(count), pa.int32()),
            "step": step,
            "phase": ["joint"] * count,
            "split": ["select_dev"] * count,
            "metric": [self.search["task"]["metric"]] * count,
            "score": score,
            "loss": 2.0 - 1.2 * rise + self.noise.normal(0, 0.02, count),
            "best": np.maximum.accumulate(score),
            "lambda_e": np.full(count, 0.8),
            "train_loss": 2.0 - 1.6 * rise + self.noise.normal(0, 0.03, count),
            "aux_loss": 6.0 - 2.0 * rise + self.noise.normal(0, 0.05, count),
            "seconds": 0.3 * np.arange(1, count + 1),
            "time": pa.array([began] * count, pa.timestamp("us", tz="UTC")),
        }
        self.pending["evaluations"].append(pa.table(columns))

    def _weights(self, trial_id: str, plan: TrialPlan, step: np.ndarray) -> None:
        names = [objective.name for objective in plan.objectives]
        at = step[np.linspace(0, len(step) - 1, self.weights).astype(int)]
        logits = np.cumsum(self.noise.normal(0, 0.1, (self.weights, len(names))), axis=0)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for kind, key, values in (
            ("objective", names, shares),
            ("task", ["end_task", "auxiliary"], np.tile([0.8, 0.2], (self.weights, 1))),
            ("signal", names, np.cumsum(self.noise.normal(0.1, 1.0, (self.weights, len(names))), axis=0)),
        ):
            rows = values.size
            columns = {
                "trial_id": [trial_id] * rows,
                "attempt": pa.array(np.zeros(rows), pa.int32()),
                "step": np.repeat(at, len(key)),
                "kind": [kind] * rows,
                "stage": [""] * rows,
                "name": key * self.weights,
                "weight": values.ravel(),
                "score": 0.02 * values.ravel(),
            }
            self.pending["weights"].append(pa.table(columns))

    def _events(self, trial_id: str, plan: str, began: datetime) -> None:
        details = {"asked": f'{{"plan": {plan}}}', "started": '{"device": "cpu"}', "committed": "{}", "told": "{}"}
        for event, detail in details.items():
            at = began if event in ("asked", "started") else self.now
            row = {"time": at, "event": event, "trial_id": trial_id, "attempt": 0, "detail": detail}
            self.pending["events"].append(row)


def write_run(folder: Path, trials: int, evaluations: int, weights: int) -> None:
    """Writes a run of so many configurations of the search; baselines have a twentieth of that."""
    search, rng = load_search("quickstart"), random.Random(0)
    spec = search.to_dict()
    arms = {name: arm for name, arm in search.arms.items() if name in ("search", "fine_tune")}
    with Ledger.open(folder) as ledger:
        row = {"search": folder.name, "spec": json.dumps(spec), "fingerprint": "5" * 64, "versions": "{}"}
        ledger.append("searches", [row | {"data": "{}", "hardware": "{}"}], durable=True)
        writer, best = Writer(ledger, spec, evaluations, weights), {}
        counts = {"search": trials, "fine_tune": max(1, trials // 20)}
        for name, number, configuration in drawn(arms, counts, rng):
            state = rng.choices(["complete", "stopped", "failed"], [0.8, 0.18, 0.02])[0] if number else "complete"
            score = writer.trial(configuration, name, number, 0, "search", state)
            if state == "complete" and score > best.get(name, (0.0,))[0]:
                best[name] = (score, number, configuration)
        for name, (_, number, configuration) in best.items():
            for seed in FRESH_SEEDS:
                writer.trial(configuration, name, number, seed, "confirm", "complete")
        writer.flush()
        ledger.event("finished")


def drawn(arms: dict[str, Arm], counts: dict[str, int], rng: random.Random) -> Iterator[tuple[str, int, Configuration]]:
    """Yields arm, number and configuration."""
    for name, count in counts.items():
        for number in range(count):
            yield name, number, draw(arms[name], rng)


def measure(folder: Path, names: list[str]) -> None:
    """Prints seconds, peak memory and bytes of each report, in a process of its own."""
    for name in names:
        program = PROGRAM.format(call=MEASURED[name])
        command = [sys.executable, "-c", program, str(folder)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds, imports, peak = map(float, answer.splitlines()[-1].split())
        size = f"  {(folder / 'report.html').stat().st_size / 1e6:6.2f} MB" if name == "page" else ""
        times = f"{seconds:6.2f} s (+ {imports:.2f} s of imports; {processor:.2f} s of processor)"
        print(f"{name:12} {times}  memory {peak / 1e3:6.0f} MB{size}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--weights", type=int, default=4, help="steps at which a trial's weights are logged")
    parser.add_argument("--folder", type=Path, help="where the run is, or is written (a temporary folder)")
    parser.add_argument("--only", default=",".join(MEASURED), help="what is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "synthetic"
        if not (folder / "tables").is_dir():
            start = time.perf_counter()
            write_run(folder, options.trials, options.evaluations, options.weights)
            tables = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
            print(f"written      {time.perf_counter() - start:6.1f} s, tables {tables / 1e6:.1f} MB")
        measure(folder, options.only.split(","))


if __name__ == "__main__":
    main()
