"""How much of one dev gradient is signal: the cosine of two looks on one network, from rows that share nothing.

    python benchmarks/dev_gradients.py [--tasks planted docstrings] [--steps 0 30] [--looks 4] [--rows 0] [--trained 2]

Looks of every kind are taken on meta-dev, and on as many rows of select-dev in its place, after so many steps of static
training. The reference is the mean over all folds of all rows of select-dev that no look uses.

    agreement   mean cosine of a look on the one split with a look on the other
    reference   mean cosine of a look with the closed-form gradient on rows of neither, all folds together
    CPU ms      processor time of a look; a step of static training beside it

Kinds: `descent` is the dev head of META-TARTAN and AANG as published; `closed form` one fold of meta-dev through a head
of the others; `round` the mean of one look at every fold; `left out` the leave-one-out error of the least-squares head;
`own head` the end task's own.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysearch.config.search_config import Search
from raysearch.data.prepared import RowsOfSplit, Split
from raysearch.distributed import ProcessGroup
from raysearch.methods.weighting.evidence_settings import EvidenceSettings
from raysearch.methods.weighting.settings import DGASettings, GatesSettings, MetaTartanSettings
from raysearch.modalities.opening import prepare
from raysearch.modalities.table.dataset import TableSplit
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.step.dev_gradients import DevGradients
from raysearch.training.trainer import Trial

TASKS: dict[str, dict[str, Any]] = {
    "planted": {
        "task": {"kind": "table", "name": "planted", "planted": {"helpful": 4, "harmful": 6, "draw": 3000}},
        "model": {"mlp": [32, 8], "activation": "tanh"},
        "space": "planted",
        "settings": {
            "steps": 1000,
            "aux_batch_size": 128,
            "lr": 3e-3,
            "head_lr": 3e-3,
            "dropout": 0.0,
            "objectives_per_step": 0,
        },
    },
    "docstrings": {
        "task": "docstrings",
        "model": "minilm",
        "space": "aang_td",
        "settings": {
            "steps": 1000,
            "trained_layers": 2,
            "batch_size": 16,
            "aux_batch_size": 4,
            "max_length": 48,
            "lr": 5e-4,
            "head_lr": 2e-3,
            "objectives_per_step": 3,
            "lambda_e": 0.9,
        },
    },
}


@dataclass(frozen=True)
class Kind:
    """A way to look at the dev gradient."""

    compare: str
    settings: Any
    folds: int = 1  # looks at so many folds are averaged


def kinds() -> dict[str, Kind]:
    """Returns the ways by name."""
    made = {
        "descent, 32 + 16 rows": Kind("dev_head", MetaTartanSettings(meta_batch_size=16)),
        "descent, 32 + 32 rows": Kind("dev_head", MetaTartanSettings()),
        "descent, half + half": Kind("dev_head", MetaTartanSettings(dev_head_examples=10**6, meta_batch_size=0)),
        "own head, 32 rows": Kind("own_head", DGASettings()),
        "own head, all rows": Kind("own_head", DGASettings(meta_batch_size=0)),
        "left out, all rows": Kind("left_out", GatesSettings(gate_train_rows=0, meta_batch_size=0)),
    }
    for ridge in (0.1, 1.0):
        settings = EvidenceSettings(meta_batch_size=0, dev_head_ridge=ridge, dev_fit_examples=0)
        made[f"closed form, ridge {ridge}"] = Kind("cross_fitted", settings)
        made[f"closed form, ridge {ridge}, round"] = Kind("cross_fitted", settings, 8)
    made["closed form, 16 rows"] = Kind("cross_fitted", EvidenceSettings(meta_batch_size=16, dev_head_ridge=0.1))
    made["closed form, 16 rows, 128 fit"] = Kind(
        "cross_fitted", EvidenceSettings(meta_batch_size=16, dev_head_ridge=0.1, dev_fit_examples=128)
    )
    return made


class Rows(RowsOfSplit):
    """Some rows of a split, with their labels."""

    def __init__(self, split: Split, rows: Any) -> None:
        super().__init__(split, rows)
        assert split.labels is not None
        self.labels = np.array(split.labels[rows])


def rows_of(split: Split, rows: Any) -> Split:
    """Returns some rows of a split."""
    if isinstance(split, TableSplit):
        return TableSplit(split.features[rows], split.labels[rows])
    return Rows(split, rows)


class OtherSplits:
    """The splits of a trial with other rows in place of meta-dev's."""

    def __init__(self, splits: Callable[[str], Split], rows: Split) -> None:
        self.splits, self.replaced = splits, rows

    def __call__(self, name: str) -> Split:
        """Returns one split by name."""
        return self.replaced if name == "meta_dev" else self.splits(name)


class Looker:
    """Looks at the dev gradient of one trial's network, by rows in place of meta-dev's."""

    def __init__(self, trial: Trial, rows: Split) -> None:
        self.trial, self.rows = trial, rows

    def __call__(self, kind: Kind, number: int) -> tuple[Tensor, float]:
        """Returns the gradient (D,) of look `number`, and its CPU seconds."""
        context = self.trial.context
        gradients = DevGradients(context)
        gradients.settings = kind.settings
        splits = OtherSplits(context.splits, self.rows)
        object.__setattr__(context, "splits", splits)
        started = time.process_time()
        try:
            first = number * kind.folds
            seen = [gradients.compute(kind.compare, first + i + 1, first + i) for i in range(kind.folds)]
        finally:
            object.__setattr__(context, "splits", splits.splits)
        total = torch.stack([look for look in seen if look is not None]).mean(dim=0)
        return total.double(), (time.process_time() - started) / kind.folds


def make_trial(name: str, trained: int, folder: Path) -> Trial:
    """Returns a trial of static weights at its first step."""
    declared = {"name": "looks", "method": {"weighting": "static"}} | TASKS[name]
    if "trained_layers" in declared["settings"]:
        declared["settings"] = declared["settings"] | {"trained_layers": trained}
    search = Search.from_dict(declared)
    data = folder / name
    labels = list(prepare(search.task, search.model.to_plain(), data).labels)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=labels)
    return Trial(plan, TrialFolder(folder / f"{name}-trial"), ProcessGroup())


def train(trial: Trial, count: int) -> float:
    """Takes so many steps; returns the CPU seconds of one."""
    phase, started = trial.phases[0], time.process_time()
    if trial.runner.optimizer is None:
        trial.runner.begin(phase)
    for _ in range(count):
        trial.runner.advance(phase)
    return (time.process_time() - started) / max(count, 1)


def cosine(a: Tensor, b: Tensor) -> float:
    """Returns the cosine of two gradients."""
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-30))


def report(trial: Trial, repeats: int, rows: int) -> None:
    """Prints a line for each kind; at most so many `rows` stand for meta-dev."""
    select, meta_dev = trial.context.splits("select_dev"), trial.context.splits("meta_dev")
    chance = np.random.default_rng(0)
    order, of_meta_dev = chance.permutation(len(select)), chance.permutation(len(meta_dev))
    half = min(rows or len(meta_dev), len(meta_dev), len(order) // 2)
    first = Looker(trial, rows_of(meta_dev, np.sort(of_meta_dev[:half])))
    second, third = (Looker(trial, rows_of(select, np.sort(part))) for part in (order[:half], order[half:]))
    all_folds = Kind("cross_fitted", EvidenceSettings(meta_batch_size=0, dev_head_ridge=0.1, dev_fit_examples=0), 8)
    reference, _ = third(all_folds, 0)
    for name, kind in kinds().items():
        pairs = [(first(kind, number), second(kind, number)) for number in range(1 if kind.folds > 1 else repeats)]
        agreement = [cosine(a, b) for (a, _), (b, _) in pairs]
        with_reference = [cosine(v, reference) for pair in pairs for v, _ in pair]
        cost = [seconds for pair in pairs for _, seconds in pair]
        numbers = [f"{np.mean(values):.2f}" for values in (agreement, with_reference)]
        print(f"| {name} | {numbers[0]} | {numbers[1]} | {1e3 * float(np.median(cost)):.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 30])
    parser.add_argument("--looks", type=int, default=4)
    parser.add_argument("--rows", type=int, default=0, help="rows that stand for meta-dev; 0: as many as it has")
    parser.add_argument("--trained", type=int, default=2, help="layers of the encoder that are trained")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for task in arguments.tasks:
            trial, before = make_trial(task, arguments.trained, Path(folder)), 0
            for steps in arguments.steps:
                cost = train(trial, steps - before)
                before = steps
                cost_text = f", {1e3 * cost:.0f} CPU ms each" if steps else ""
                print(f"\n{task}, after {steps} steps{cost_text}\n\n| look | agreement | reference | CPU ms |")
                print("| --- | --- | --- | --- |", flush=True)
                report(trial, arguments.looks, arguments.rows)


if __name__ == "__main__":
    main()
