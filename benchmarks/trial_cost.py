"""What the engine costs: milliseconds a trial when a trial does nothing but one all_reduce over two ranks.

    python benchmarks/trial_cost.py [TRIALS]

Optuna alone is the floor; Tune with a reused class trainable is what Ray asks for a trial without training; the last
row is a whole raysearch trial: asked, trained by a two-rank torch process group, recorded durably, told.
"""

# ruff: noqa: ARG001, ARG002 - what Ray and the fleet call takes more than is looked at
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
TARGET = 150.0  # ms


def train(plan: TrialPlan, *, folder: Path, process_group: ProcessGroup) -> Generator[Report, bool, None]:
    """A trial that does nothing: one number, summed over the ranks, reported."""
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


def declared(folder: Path, trials: int) -> Search:
    """A search over eight settings, of a task that nobody will look at."""
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


def of_optuna(trials: int) -> float:
    """Plain TPE in memory, ms a trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    began = time.perf_counter()
    study.optimize(lambda trial: sum(trial.suggest_float(name, 0.001, 0.9) for name in DIMENSIONS), n_trials=trials)
    return 1000 * (time.perf_counter() - began) / trials


def of_tune(trials: int, folder: Path) -> float:
    """Ray Tune, one reused class trainable, random search, ms a trial from the first end to the last."""
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


def of_raysearch(trials: int, folder: Path) -> tuple[float, float, float]:
    """Ours: ms a trial from the first commit to the last, median of the gaps, and s until the first one starts."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    run: Run = launch(declared(folder, trials), progress=False, train="trial_cost:train")
    events = run.events().to_pylist()
    commits = [event["time"].timestamp() for event in events if event["event"] == "committed"]
    first = next(event["time"] for event in events if event["event"] == "started").timestamp()
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(commits)]
    return sum(gaps) / len(gaps), statistics.median(gaps), first - events[0]["time"].timestamp()


def main(trials: int) -> None:
    """Measure all three, print the table, and fail when ours is above its target."""
    with tempfile.TemporaryDirectory() as folder:
        plain = of_optuna(trials)
        tuned = of_tune(trials, Path(folder))
        mean, median, start = of_raysearch(trials, Path(folder))
    print(f"{trials} trials, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    print(f"{'':<52}{'ms a trial':>12}")
    print(f"{'Optuna alone (TPE, in memory, no ranks)':<52}{plain:>12.1f}")
    print(f"{'Ray Tune, class trainable reused (no ranks)':<52}{tuned:>12.1f}")
    print(f"{'raysearch fleet, 2 DDP ranks, recorded durably':<52}{mean:>12.1f}   median {median:.1f}")
    print(f"started once: {start:.1f} s from launch to the first trial")
    if mean > TARGET:
        sys.exit(f"above the target of {TARGET:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
