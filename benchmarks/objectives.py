"""The cost of a step that uses every objective's gradient, compared with plain multitask learning.

    python benchmarks/objectives.py [--k 1 3 8 24 40] [--rows 48] [--device cuda] [--shared]

It measures one step of a text trial with a fixed dev gradient, including the optimizer's step. The model is a BERT of
1.7 M parameters with 64 tokens; a step has 16 end-task examples, and `--rows` auxiliary ones split between K of
AANG-TD+ED's 40 objectives.

    static      one forward, one backward
    products    also the inner product of every objective's gradient with the dev gradient
    cosine      also every gradient's norm
    jvp, difference, backward   the inner products by these engines
    whole       `cosine`, and also the dev gradient: the dev head is fitted and a meta batch of 16 is evaluated

With `--shared`, K label heads use the same `--rows` examples of one forward, where the layers' factors cannot separate
the objectives. Then it measures memory: the peak of a step above the memory in use before it. Last, it prints the bytes
that a rank sums with others in a step: numbers of K objectives, compared with K gradients.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gramian import peak, wait
from torch import Tensor

from raysearch.config.search_config import Search
from raysearch.distributed import ProcessGroup
from raysearch.gradients.directional import finite_differences, jvp
from raysearch.gradients.flat import assign_gradient, flat_gradient
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import prepare
from raysearch.models.heads import LabelHead
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial

LENGTH = 64
Work = Callable[[], object]


def trial(
    folder: Path,
    k: int,
    arguments: argparse.Namespace,
    weighting: str,
    *,
    process_group: ProcessGroup | None = None,
    **overrides: object,
) -> Trial:
    """Returns a trial at its first step."""
    generator = random.Random(0)
    for split, rows in (("train", 200), ("dev", 80), ("domain", 200)):
        texts = [" ".join(str(generator.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": str(i % 4)}) for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    settings = {"batch_size": 16, "aux_batch_size": arguments.rows, "max_length": LENGTH, "dropout": 0.0}
    if weighting == "aang":
        settings |= {"meta_batch_size": 16, "batch_split": "equal"}  # equally many examples as in the static step
    search = Search.from_dict(
        {
            "name": "objectives",
            "task": {"name": "noise"} | {s: str(folder / f"{s}.jsonl") for s in ("train", "dev", "domain")},
            "model": {"config": {"model_type": "bert", "vocab_size": 4096} | shape},
            "space": "aang_td_ed",
            "method": {"weighting": weighting},
            "settings": settings | {"objectives_per_step": k} | overrides,
        }
    )
    data = folder / "data"
    prepared = prepare(search.task, search.model.to_plain(), data)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=list(prepared.labels))
    process_group = process_group or ProcessGroup(device=torch.device(arguments.device))
    return Trial(plan, TrialFolder(folder / weighting), process_group)


def workloads(folder: Path, k: int, arguments: argparse.Namespace) -> dict[str, Work]:
    """Returns the measured calls by name."""
    return (steps_with_shared_examples if arguments.shared else steps_with_separate_examples)(folder, k, arguments)


def steps_with_separate_examples(folder: Path, k: int, arguments: argparse.Namespace) -> dict[str, Work]:
    """Returns steps of trials in which every objective has its own examples."""
    dot = {"similarity": "dot"}
    trials = {"static": trial(folder, k, arguments, "static"), "cosine": trial(folder, k, arguments, "aang")}
    for engine in ("products", "jvp", "difference", "backward"):
        trials[engine] = trial(folder, k, arguments, "aang", engine=engine, **dot)
    trials["whole"] = trial(folder, k, arguments, "aang")
    for name, one_trial in trials.items():
        one_trial.runner.begin(one_trial.phases[0])
        if name not in ("static", "whole"):
            v = one_trial.update.dev_gradients.compute("dev_head", 1)
            one_trial.update.dev_gradients.compute = lambda *_, v=v: v
    return {
        name: lambda one_trial=one_trial: one_trial.runner.advance(one_trial.phases[0])
        for name, one_trial in trials.items()
    }


def steps_with_shared_examples(folder: Path, k: int, arguments: argparse.Namespace) -> dict[str, Work]:
    """Returns steps with K label heads on the same examples."""
    one_trial = trial(folder, 1, arguments, "static")
    network, body = one_trial.network, one_trial.network.body_parameters()
    heads = torch.nn.ModuleList(LabelHead(network.width, 4, torch.nn.ReLU, 0.0) for _ in range(k)).to(arguments.device)
    examples = torch.arange(arguments.rows)
    batch = one_trial.context.batches.end_task_batch(one_trial.context.splits("train"), examples).to(
        torch.device(arguments.device)
    )
    labels = [(batch.targets.labels + i) % 4 for i in range(k)]
    parameters = [*body, *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    v = torch.randn(sum(p.numel() for p in body), device=arguments.device)
    v *= 0.3 / v.norm()

    def losses() -> dict[int, Tensor]:
        first = network.hidden(*batch.inputs)[:, 0]
        pairs = enumerate(zip(heads, labels, strict=True))
        return {i: example_losses(head(first), head_labels).mean() for i, (head, head_labels) in pairs}

    def static() -> dict[int, Tensor]:
        task_losses = losses()
        assign_gradient(flat_gradient(sum(task_losses.values()) / k, parameters), parameters)
        optimizer.step()
        return {i: loss.detach() for i, loss in task_losses.items()}

    def by_jvp() -> None:
        jvp(losses, network, body, v)
        static()

    def by_difference() -> None:
        task_losses = losses()
        assign_gradient(flat_gradient(sum(task_losses.values()) / k, parameters), parameters)
        finite_differences(losses, {i: loss.detach() for i, loss in task_losses.items()}, body, v)
        optimizer.step()

    def by_backward() -> None:
        task_losses = losses()
        for loss in task_losses.values():
            flat_gradient(loss, body, keep_graph=True) @ v
        assign_gradient(flat_gradient(sum(task_losses.values()) / k, parameters), parameters)
        optimizer.step()

    return {"static": static, "jvp": by_jvp, "difference": by_difference, "backward": by_backward}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the milliseconds or MiB of each call."""
    with tempfile.TemporaryDirectory() as folder:
        calls = workloads(Path(folder), arguments.k[0], arguments)
        if arguments.child == "memory":
            return {name: peak(work, arguments.device) for name, work in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(arguments.rounds + 1):
            for name, work in calls.items():
                wait(arguments.device)
                start = time.perf_counter()
                work()
                wait(arguments.device)
                times[name].append(1000 * (time.perf_counter() - start))
        return {name: statistics.median(values[1:]) for name, values in times.items()}


def measure_in_child(k: int, arguments: argparse.Namespace, what: str) -> dict[str, float]:
    """Measures in a child process; for memory, its allocator returns every freed block to the system at once."""
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if what == "memory" else {}
    command = [sys.executable, __file__, "--child", what, "--k", str(k), "--rows", str(arguments.rows)]
    command += [
        "--device",
        arguments.device,
        "--rounds",
        str(arguments.rounds),
        *(["--shared"] if arguments.shared else []),
    ]
    process = subprocess.run(command, env=os.environ | allocator, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return figures


def summed_bytes(k: int, arguments: argparse.Namespace) -> dict[str, int]:
    """Returns the bytes that a step sums over ranks, and those that K + 1 gradients would take."""
    byte_counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in (
            ("static", {}),
            ("cosine", {}),
            ("difference", {"similarity": "dot", "engine": "difference"}),
        ):
            process_group = CountingGroup(device=torch.device(arguments.device))
            weighting = "static" if name == "static" else "aang"
            one_trial = trial(Path(folder), k, arguments, weighting, process_group=process_group, **settings)
            one_trial.runner.begin(one_trial.phases[0])
            one_trial.runner.advance(one_trial.phases[0])
            byte_counts[name] = process_group.bytes[0]
        byte_counts["K gradients"] = 4 * (k + 1) * sum(p.numel() for p in one_trial.network.body_parameters())
    return byte_counts


@dataclass(frozen=True)
class CountingGroup(ProcessGroup):
    """A process group of one rank that counts the bytes that are summed."""

    bytes: list[int] = field(default_factory=lambda: [0])

    def sum(self, value: Tensor) -> Tensor:
        """Returns the value and counts its bytes."""
        self.bytes[0] += value.numel() * value.element_size()
        return value


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--k", type=int, nargs="+", default=[1, 3, 8, 24, 40])
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", default="cpu")
    options.add_argument("--shared", action="store_true", help="K heads on the same examples")
    options.add_argument("--child", choices=("time", "memory"))
    arguments = options.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    for what in ("time", "memory"):
        for k in arguments.k:
            figures = measure_in_child(k, arguments, what)
            if k == arguments.k[0]:
                print(f"\n| K | static | {' | '.join(f'{name} | x' for name in list(figures)[1:])} |")
                print("| --- " * 2 * len(figures) + "|")
            unit = "ms" if what == "time" else "MiB"
            cells = [f"{figures['static']:.0f} {unit}"]
            for name in list(figures)[1:]:
                cells += [f"{figures[name]:.0f}", f"{figures[name] / figures['static']:.2f}"]
            print(f"| {k} | " + " | ".join(cells) + " |", flush=True)
    for k in () if arguments.shared else arguments.k:
        print(f"bytes summed per step, K = {k}: {summed_bytes(k, arguments)}", flush=True)


if __name__ == "__main__":
    main()
