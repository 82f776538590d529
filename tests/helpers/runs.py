"""Synthetic runs: plausible searches written through the ledger, for tests of everything that reads runs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import exp, log
from pathlib import Path
from typing import Any

from raysearch.modalities.loading import load_space
from raysearch.plan import TrialPlan
from raysearch.storage.ledger import Ledger

STEPS, EVERY, WEIGHTS_EVERY = 120, 20, 3  # steps, between evaluations, between meta-gradients
SYNTHETIC_SEARCH = {
    "name": "synthetic",
    "task": {"name": "docstrings", "metric": "macro_f1"},
    "model": {"config": {"model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2}},
    "method": {"weighting": "aang", "surgery": "", "schedule": "joint"},
    "space": "aang_td",
    "dimensions": {
        "surgery": {"choice": ["none", "attittud"]},
        "eta_neg": {"float": [-1.0, 1.0], "when": {"surgery": ["attittud"]}},
        "k": {"int": [1, 8]},
        "objectives_per_step": {"choice": [1, 3, 6]},
        "lambda_e": {"float": [0.3, 0.9]},
        "lr": {"float": [1e-4, 2e-3], "log": True},
        "include.transform.mask": {"choice": [True, False]},
    },
    "baselines": {"fine_tune": {"method": {"weighting": "end_task_only"}, "trials": 4}},
    "budget": {"trials": 16, "seconds": 240.0},
    "seeds": [0],
    "confirm": {"seeds": [101, 102, 103]},
}
TRACEBACK = """Traceback (most recent call last):
  File "raysearch/training.py", line 210, in _step
    raise ArithmeticError(f"loss is {loss} at step {step}")
ArithmeticError: loss is nan at step 43 <lr 0.0019>
"""


def draw(rng: random.Random) -> dict[str, Any]:
    """Returns the values of a configuration of SYNTHETIC_SEARCH."""
    surgery = rng.choice(["none", "attittud"])
    return {
        "surgery": surgery,
        **({"eta_neg": rng.uniform(-1, 1)} if surgery == "attittud" else {}),
        "k": rng.randint(1, 8),
        "objectives_per_step": rng.choice([1, 3, 6]),
        "lambda_e": rng.uniform(0.3, 0.9),
        "lr": exp(rng.uniform(log(1e-4), log(2e-3))),
        "include.transform.mask": rng.random() < 0.5,
    }


def synthetic_plan(arm: str, number: int, seed: int, role: str, params: dict[str, Any]) -> TrialPlan:
    """Returns a plausible plan."""
    searched = arm == "search"
    return TrialPlan(
        number=number,
        seed=seed,
        arm=arm,
        role=role,
        weighting="aang" if searched else "end_task_only",
        surgery=params.get("surgery", "none"),
        schedule="joint",
        objectives=load_space("aang_td").objectives if searched else (),
        settings={"steps": STEPS, **{name: value for name, value in params.items() if "." not in name}},
        params=params,
        task={"name": "docstrings", "data": "/nowhere", "metric": "macro_f1", "labels": 8},
        model=SYNTHETIC_SEARCH["model"],
    )


def synthetic_score(params: dict[str, Any], rng: random.Random) -> float:
    """Returns a score that is higher for a learning rate near 1e-3 and a large lambda_e."""
    return 0.40 - 0.05 * abs(log(params["lr"] / 1e-3)) + 0.06 * (params.get("lambda_e", 0.9) - 0.6) + rng.gauss(0, 0.01)


def synthetic_weights(plan: TrialPlan, steps: int, rng: random.Random, moving: bool) -> list[dict[str, Any]]:
    """Returns weights of every objective, primitive and task, which drift as AANG's do."""
    stages = ("data", "transform", "representation", "output")
    logits = {(s, name): 0.0 for s in stages for name in sorted({getattr(o, s) for o in plan.objectives})}
    drift = {key: rng.gauss(0, 0.012) for key in logits}
    drift[("output", "denoise")], drift[("output", "end_task")] = -0.012, 0.012
    rows, pair = [], 0.0

    def add(step: int, kind: str, stage: str, names: list[str], values: list[float]) -> None:
        total = sum(map(exp, values))
        for name, value in zip(names, values, strict=True):
            row = {"step": step, "kind": kind, "stage": stage, "name": name, "weight": exp(value) / total}
            rows.append({**row, "score": rng.gauss(0, 0.1) if rng.random() < 0.3 else None})

    for step in range(WEIGHTS_EVERY if moving else 1, (steps if moving else 1) + 1, WEIGHTS_EVERY):
        for stage in stages:
            names = [name for s, name in logits if s == stage]
            add(step, "primitive", stage, names, [logits[stage, name] for name in names])
        values = [sum(logits[s, getattr(o, s)] for s in stages) for o in plan.objectives]
        add(step, "objective", "", [o.name for o in plan.objectives], values)
        add(step, "task", "", ["end_task", "auxiliary"], [pair, 0.0])
        pair += 0.01 * WEIGHTS_EVERY
        for key in logits:
            logits[key] += WEIGHTS_EVERY * drift[key] * (1.5 - step / STEPS) + rng.gauss(0, 0.02)
    for number, objective in enumerate(plan.objectives):
        mean = 0.1 if number == 0 else 0.004 * (-1) ** number
        signal = {"step": rows[-1]["step"], "kind": "signal", "stage": "", "name": objective.name}
        rows.append({**signal, "weight": mean / 0.01, "score": mean})
    return rows


class SyntheticWriter:
    """Writes trials to a ledger, one after another on an imagined clock."""

    def __init__(self, ledger: Ledger, seed: int, moving: bool) -> None:
        self.ledger, self.rng, self.moving, self.now = ledger, random.Random(seed), moving, datetime.now(UTC)
        self.ended: list[tuple[float, int, str]] = []  # score, number and state of the search's own

    def declare(self, search: dict[str, Any]) -> None:
        """Writes the row of the table of searches."""
        known = {"python": "3.11.7", "raysearch": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "optuna": "5.0.0"}
        sizes = {"train": 400, "meta_dev": 300, "select_dev": 300, "test": 1000}
        row = {
            "search": search["name"],
            "spec": search,
            "fingerprint": "5" * 64,
            "versions": known,
            "data": {"fingerprint": "ab" * 32, "sizes": sizes, "labels": ["numpy", "scipy"]},
            "hardware": {"host": "here", "cores": 2, "memory": 8 << 30, "accelerators": []},
        }
        row = {name: json.dumps(part) if isinstance(part, dict) else part for name, part in row.items()}
        self.ledger.append("searches", [row], durable=True)

    def trial(self, plan: TrialPlan, state: str, steps: int = STEPS, score: float | None = None) -> None:
        """Writes all rows of a trial."""
        rng, began = self.rng, self.now
        final = synthetic_score(plan.params, rng) if score is None else score
        key = {"trial_id": plan.trial_id, "attempt": 0}
        self.ledger.event("asked", plan.trial_id, detail={"plan": plan.to_dict()})
        self.ledger.event("started", plan.trial_id, detail={"device": "cpu"})
        best, best_step = None, None
        for step in range(EVERY, steps + 1, EVERY):
            self.now += timedelta(seconds=2.1)
            value = final * (1 - exp(-3 * step / STEPS)) / (1 - exp(-3)) + rng.gauss(0, 0.004)
            if best is None or value > best:
                best, best_step = value, step
            row = {"step": step, "phase": "joint", "split": "select_dev", "metric": "macro_f1", "score": value}
            row |= {"loss": 2.1 - value, "best": best, "lambda_e": 0.5, "train_loss": 1.9 - value, "aux_loss": 5.0}
            row |= {"seconds": (self.now - began).total_seconds(), "time": self.now}
            self.ledger.append("evaluations", [row], fill=key)
        if plan.arm == "search" and best is not None:
            self.ended.append((best, plan.number, state))
        if plan.objectives:
            self.ledger.append("weights", synthetic_weights(plan, steps, rng, self.moving), fill=key)
        if state == "complete":
            guesses = [{"step": best_step, "row": i, "target": [i % 2], "outputs": [best, 1 - best]} for i in range(2)]
            self.ledger.append("predictions", guesses, fill=key)
        why = {"complete": "took all its steps", "stopped": f"stopped by the scheduler at step {steps}"}
        self.ledger.commit(
            {
                "trial_id": plan.trial_id,
                "arm": plan.arm,
                "role": plan.role,
                "number": plan.number,
                "seed": plan.seed,
                "state": state,
                "why": why.get(state, TRACEBACK),
                "score": best,
                "best_step": best_step,
                "steps": steps,
                "attempts": 1,
                "started": began,
                "ended": self.now,
                "seconds": (self.now - began).total_seconds(),
                "workers": 1,
                "device": "cpu",
                "params": json.dumps(plan.params, sort_keys=True),
                "plan": plan.to_json(),
            }
        )
        if plan.role == "confirm" and best is not None:  # the test split is read afterwards
            self.ledger.event("opened_test", plan.trial_id)
            scored = {"step": best_step, "split": "test", "metric": "macro_f1", "score": best - 0.02, "loss": 2.0}
            self.ledger.append("evaluations", [scored | key])


def write_run(
    folder: Path,
    *,
    trials: int = 16,
    baselines: int = 4,
    confirm: tuple[int, ...] = (101, 102, 103),
    failing: tuple[int, ...] = (5,),
    moving: bool = True,
    gain: float = 0.004,
    seed: int = 0,
) -> Path:
    """Writes a run into `folder`; on fresh seeds the search's winner is better by `gain`."""
    with Ledger.open(folder) as ledger:
        writer = SyntheticWriter(ledger, seed, moving)
        writer.declare({**SYNTHETIC_SEARCH, "confirm": {"seeds": list(confirm)}})
        drawn = [draw(writer.rng) for _ in range(trials)]
        for number, params in enumerate(drawn):
            plan = synthetic_plan("search", number, 0, "search", params)
            if number in failing:
                writer.trial(plan, "failed", 40)
            elif number % 3 == 2:
                writer.trial(plan, "stopped", 40, 0.3)
            else:
                writer.trial(plan, "complete")
            if number % 4 == 0 and number // 4 < baselines:
                tuned = {"lr": params["lr"]}
                writer.trial(synthetic_plan("fine_tune", number // 4, 0, "search", tuned), "complete")
        ended = [(score, number) for score, number, state in writer.ended if state == "complete"]
        for i, again in enumerate(confirm if ended else ()):
            noise, (_, winner) = 0.01 * (-1) ** i, max(ended)
            plan = synthetic_plan("search", winner, again, "confirm", drawn[winner])
            writer.trial(plan, "complete", score=0.38 + gain + noise)
            writer.trial(
                synthetic_plan("fine_tune", 0, again, "confirm", {"lr": 1e-3}), "complete", score=0.38 + noise / 2
            )
        ledger.event("finished")
    return folder


def write_study(
    folder: Path,
    dimensions: dict[str, Any],
    score: Callable[[dict[str, Any], str], float],
    *,
    baselines: tuple[str, ...] = (),
    confirm: tuple[int, ...] = (),
    noise: float = 0.01,
    **declared: Any,
) -> Path:
    """Writes a grid over dimensions of choices on five seeds, then every arm on fresh seeds, into `folder`.

    `score` returns the mean for values and arm. Each seed adds the same luck to every trial, and `noise` comes on top.
    """
    arms = {name: {"method": {"weighting": "end_task_only"}} for name in baselines}
    search = SYNTHETIC_SEARCH | {
        "dimensions": dimensions,
        "baselines": arms,
        "sampler": "grid",
        "seeds": [0, 1, 2, 3, 4],
    }
    search |= declared
    search = (
        {**search, "confirm": {"seeds": list(confirm)}} if confirm else {k: search[k] for k in search if k != "confirm"}
    )
    with Ledger.open(folder) as ledger:
        writer = SyntheticWriter(ledger, 0, moving=False)
        writer.declare(search)

        def run(arm: str, number: int, seed: int, role: str, params: dict[str, Any]) -> None:
            luck = random.Random(seed).gauss(0, 0.02) + writer.rng.gauss(0, noise)
            writer.trial(synthetic_plan(arm, number, seed, role, params), "complete", score=score(params, arm) + luck)

        choices = (dimension["choice"] for dimension in dimensions.values())
        grid = [dict(zip(dimensions, values, strict=True)) for values in itertools.product(*choices)]
        for arm, configurations in {"search": grid, **{name: [{}] for name in baselines}}.items():
            for number, params in enumerate(configurations):
                for seed in search["seeds"]:
                    run(arm, number, seed, "search", params)
            best = max(range(len(configurations)), key=lambda i: score(configurations[i], arm))
            for seed in confirm:
                run(arm, best, seed, "confirm", configurations[best])
        ledger.event("finished")
    return folder
