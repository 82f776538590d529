"""Runs with known effects, written through the ledger that real searches write to.

score   0.5 + lr's part + mask's effect + luck of the configuration + luck of the seed
lr      its part is a parabola over log10(lr), best in the middle; EFFECTS["lr"] is the loss at either end
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from raysearch.storage.ledger import Ledger

EFFECTS = {"lr": 0.12, "mask": 0.03}
LUCK = 0.02  # standard deviation over configurations; that over seeds is half of it
STEPS = 4  # evaluations of a complete trial
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def write_planted_run(
    folder: Path, configurations: int, *, seed: int = 0, seeds: int = 1, stops: bool = False, effects: bool = True
) -> Path:
    """Writes a run of that many configurations on `seeds` seeds each; with `stops`, the worse half-way are stopped."""
    rng = np.random.default_rng(seed)
    dimensions = {
        "lr": {"float": [1e-4, 1e-2], "log": True},
        "warmup": {"int": [0, 100]},
        "kind": {"choice": ["a", "b", "c"]},
        "include.transform.mask": {"choice": [True, False]},
        "include.transform.replace": {"choice": [True, False]},
    }
    spec = {
        "name": folder.name,
        "task": {"name": "planted", "metric": "accuracy"},
        "method": {"weighting": "equal"},
        "dimensions": dimensions,
        "baselines": {},
        "seeds": list(range(seeds)),
        "budget": {"trials": configurations},
    }
    drawn = [
        {
            "lr": float(10 ** rng.uniform(-4, -2)),
            "warmup": int(rng.integers(0, 101)),
            "kind": str(rng.choice(["a", "b", "c"])),
            "include.transform.mask": bool(rng.integers(2)),
            "include.transform.replace": bool(rng.integers(2)),
        }
        for _ in range(configurations)
    ]
    planted = EFFECTS if effects else dict.fromkeys(EFFECTS, 0.0)
    means = np.array(
        [
            0.5
            - planted["lr"] * (math.log10(params["lr"]) + 3) ** 2
            + planted["mask"] * params["include.transform.mask"]
            for params in drawn
        ]
    )
    means += rng.normal(0, LUCK, configurations)
    scores = means[:, None] + rng.normal(0, LUCK / 2, (configurations, seeds))
    is_stopped = (scores < np.median(scores)) & stops
    trials, evaluations = [], []
    for number, params in enumerate(drawn):
        for at in range(seeds):
            trial, rows = _trial(number, at, params, float(scores[number, at]), stopped=bool(is_stopped[number, at]))
            trials.append(trial)
            evaluations += rows
    with Ledger.open(folder) as ledger:
        texts = {"spec": json.dumps(spec), "versions": "{}", "data": "{}", "hardware": "{}"}
        ledger.append("searches", [{"search": folder.name, "fingerprint": "0" * 64, **texts}], durable=True)
        ledger.append("evaluations", evaluations)
        for trial in trials:
            ledger.commit(trial)
    return folder


def _trial(
    number: int, seed: int, params: dict[str, object], score: float, *, stopped: bool
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Returns the rows of one trial; its score at an evaluation is nearer to its end the later that is."""
    last = STEPS // 2 if stopped else STEPS
    by_step = [score - 0.1 * (STEPS - step) for step in range(1, last + 1)]
    trial_id = f"search-{number:04d}-s{seed}-abcdef"
    names = ["none", *(name for name in ("mask", "replace") if params[f"include.transform.{name}"])]
    objective = {"data": "end_task", "representation": "bidirectional", "output": "denoise"}
    plan: dict[str, object] = {"arm": "search", "number": number, "seed": seed, "role": "search"}
    plan["objectives"] = [objective | {"transform": name} for name in names]
    moment = MOMENT + timedelta(seconds=number)
    trial: dict[str, object] = {"trial_id": trial_id, "arm": "search", "role": "search", "number": number, "seed": seed}
    trial |= {"state": "stopped" if stopped else "complete", "score": by_step[-1], "best_step": last, "steps": last}
    trial |= {
        "why": "",
        "attempts": 1,
        "started": moment,
        "ended": moment,
        "seconds": 1.0,
        "workers": 1,
        "device": "cpu",
    }
    trial |= {"params": json.dumps(params), "plan": json.dumps(plan)}
    key = {"trial_id": trial_id, "attempt": 0, "phase": "joint", "split": "select_dev", "metric": "accuracy"}
    rows = [key | {"step": i, "score": value, "best": value, "time": moment} for i, value in enumerate(by_step, 1)]
    return trial, rows
