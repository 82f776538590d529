"""The engine's cost per trial, in milliseconds, when a trial does nothing but one all_reduce over two ranks.

    python benchmarks/trial_cost.py [TRIALS]

Optuna alone is the lower bound. Ray Tune with a reused class trainable is Ray's cost of a trial without training. The
last row is a whole raysearch trial: proposed, trained by a two-rank torch process group, recorded durably, reported.
"""

# ruff: noqa: ARG001, ARG002 - Ray and the worker groups pass arguments that are not used
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import optuna
import torch

from raysearch.config.search_config import Search
from raysearch.distributed import ProcessGroup
from raysearch.plan import TrialPlan
from raysearch.search.launch import launch
from raysearch.storage.run import Run
from raysearch.storage.schemas import Report

DIMENSIONS = ("lr", "head_lr", "weight_decay", "head_weight_decay", "warmup", "dropout", "clip", "batch_size")
TARGET = 150.0  # ms per trial


def train(plan: TrialPlan, *, folder: Path, process_group: ProcessGroup) -> Generator[Report, bool, None]:
    """Trains nothing: sums one number over the ranks and reports it."""
    score = float(process_group.sum(torch.tensor(plan.settings["lr"]))) / process_group.world
    evaluation = {
        "step": 1,
        "phase": "joint",
        "split": "select_dev",
        "metric": "accuracy",
        "score": score,
        "best": score,
    }
    yield Report(1, evaluation, None, last=True)


def make_search(folder: Path, trials: int) -> Search:
    """Returns a search over eight settings, of a task that is never used."""
    for split in ("train", "dev"):
        rows = [{"text": f"word{i} word{i % 7}", "label": "ab"[i % 2]} for i in range(40)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "nothing"} | {split: str(folder / f"{split}.jsonl") for split in ("train", "dev")}
    dimensions = {name: {"float": [0.001, 0.9]} for name in DIMENSIONS[:-1]} | {"batch_size": {"int": [2, 64]}}
    return Search.from_dict(
        {
            "name": "trial_cost",
            "task": task,
            "model": {"config": {"model_type": "bert", "vocab_size": 80}},
            "method": {"weighting": "end_task_only"},
            "dimensions": dimensions,
            "budget": {"trials": trials},
            "resources": {"workers": 2, "cpus": 1, "groups": 1},
            "runs": str(folder / "runs"),
        }
    )


def time_optuna(trials: int) -> float:
    """Returns the ms per trial of plain TPE in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    start = time.perf_counter()
    study.optimize(lambda trial: sum(trial.suggest_float(name, 0.001, 0.9) for name in DIMENSIONS), n_trials=trials)
    return 1000 * (time.perf_counter() - start) / trials


def time_tune(trials: int, folder: Path) -> float:
    """Returns the ms per trial of Ray Tune with one reused class trainable and random search.

    It is measured from the end of the first trial to the end of the last one.
    """
    import ray
    from ray import tune

    ends: list[float] = []

    class Nothing(tune.Trainable):
        def step(self) -> dict[str, float | bool]:
            return {"score": self.config["lr"], "done": True}

        def reset_config(self, new_config: dict[str, float]) -> bool:
            return bool(new_config)

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

    class Clock(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[object], trial: object, **info: object) -> None:
            ends.append(time.perf_counter())

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="critical")
    tune.Tuner(
        Nothing,
        param_space={name: tune.uniform(0.001, 0.9) for name in DIMENSIONS},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[Clock()]),
    ).fit()
    ray.shutdown()
    return 1000 * (ends[-1] - ends[0]) / (len(ends) - 1)


def time_raysearch(trials: int, folder: Path) -> tuple[float, float, float]:
    """Returns the ms per trial from the first commit to the last, their median, and s until the first trial starts."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    run: Run = launch(make_search(folder, trials), progress=False, train="trial_cost:train")
    events = run.events().to_pylist()
    commits = [event["time"].timestamp() for event in events if event["event"] == "committed"]
    first = next(event["time"] for event in events if event["event"] == "started").timestamp()
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(commits)]
    return sum(gaps) / len(gaps), statistics.median(gaps), first - events[0]["time"].timestamp()


def main(trials: int) -> None:
    """Measures all three and prints the table; exits with an error if raysearch is above its target."""
    with tempfile.TemporaryDirectory() as folder:
        optuna_ms = time_optuna(trials)
        tune_ms = time_tune(trials, Path(folder))
        mean, median, start = time_raysearch(trials, Path(folder))
    print(f"{trials} trials, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    print(f"{'':<52}{'ms per trial':>14}")
    print(f"{'Optuna alone (TPE, in memory, no ranks)':<52}{optuna_ms:>12.1f}")
    print(f"{'Ray Tune, class trainable reused (no ranks)':<52}{tune_ms:>12.1f}")
    print(f"{'raysearch, one group of 2 ranks, recorded durably':<52}{mean:>12.1f}   median {median:.1f}")
    print(f"once per search: {start:.1f} s from launch to the first trial")
    if mean > TARGET:
        sys.exit(f"above the target of {TARGET:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
