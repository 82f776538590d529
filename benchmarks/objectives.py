"""What it costs to look at every objective's gradient: a step with K objectives, beside plain multitask learning.

    python benchmarks/objectives.py [--k 1 3 8 24 40] [--rows 48] [--device cuda] [--shared]

One step of a text trial, the optimizer's step included (a BERT of 1.7 M parameters, 64 tokens, 16 end-task rows,
`--rows` auxiliary ones dealt to K of AANG-TD+ED's 40 objectives), with a given dev gradient:

    static      one forward, one backward
    products    the same, and the product of every objective's gradient with the dev gradient
    cosine      the same, and every gradient's norm
    jvp, difference, backward   the products by these engines
    whole       `cosine` and the dev gradient itself: dev head fitted, meta batch of 16 gone through

With `--shared` K label heads read the same `--rows` rows of one forward, where layers' products cannot tell the
objectives apart. Then memory: the peak of a step above what is held before it. Last, the bytes that a rank gives to be
summed in a step beyond the gradient that it sums in any case: numbers of K objectives, or K gradients.
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
    asked: argparse.Namespace,
    weighting: str,
    *,
    process_group: ProcessGroup | None = None,
    **more: object,
) -> Trial:
    """A trial at its first step."""
    chance = random.Random(0)
    for split, rows in (("train", 200), ("dev", 80), ("domain", 200)):
        texts = [" ".join(str(chance.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": str(i % 4)}) for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    settings = {"batch_size": 16, "aux_batch_size": asked.rows, "max_length": LENGTH, "dropout": 0.0}
    if weighting == "aang":
        settings |= {"meta_batch_size": 16, "batch_split": "equal"}  # the rows of the static step
    search = Search.from_dict(
        {
            "name": "objectives",
            "task": {"name": "noise"} | {s: str(folder / f"{s}.jsonl") for s in ("train", "dev", "domain")},
            "model": {"config": {"model_type": "bert", "vocab_size": 4096} | shape},
            "space": "aang_td_ed",
            "method": {"weighting": weighting},
            "settings": settings | {"objectives_per_step": k} | more,
        }
    )
    data = folder / "data"
    prepared = prepare(search.task, search.model.to_plain(), data)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=list(prepared.labels))
    process_group = process_group or ProcessGroup(device=torch.device(asked.device))
    return Trial(plan, TrialFolder(folder / weighting), process_group)


def works(place: Path, k: int, asked: argparse.Namespace) -> dict[str, Work]:
    """What is measured, by name."""
    return (together if asked.shared else apart)(place, k, asked)


def apart(place: Path, k: int, asked: argparse.Namespace) -> dict[str, Work]:
    """Every objective has rows of its own: steps of trials."""
    dot = {"similarity": "dot"}
    trials = {"static": trial(place, k, asked, "static"), "cosine": trial(place, k, asked, "aang")}
    for engine in ("products", "jvp", "difference", "backward"):
        trials[engine] = trial(place, k, asked, "aang", engine=engine, **dot)
    trials["whole"] = trial(place, k, asked, "aang")
    for name, one in trials.items():
        one.begin(one.phases[0])
        if name not in ("static", "whole"):
            v = one.update.dev_gradients.compute("dev_head", 1)
            one.update.dev_gradients.compute = lambda *_, v=v: v
    return {name: lambda one=one: one.advance(one.phases[0]) for name, one in trials.items()}


def together(place: Path, k: int, asked: argparse.Namespace) -> dict[str, Work]:
    """K label heads on the same rows."""
    one = trial(place, 1, asked, "static")
    network, body = one.network, one.network.body_parameters()
    heads = torch.nn.ModuleList(LabelHead(network.width, 4, torch.nn.ReLU, 0.0) for _ in range(k)).to(asked.device)
    rows = torch.arange(asked.rows)
    group = one.context.batches.end_task_batch(one.context.splits("train"), rows).to(torch.device(asked.device))
    labels = [(group.targets.labels + i) % 4 for i in range(k)]
    parameters = [*body, *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    v = torch.randn(sum(p.numel() for p in body), device=asked.device)
    v *= 0.3 / v.norm()

    def losses() -> dict[int, Tensor]:
        first = network.hidden(*group.inputs)[:, 0]
        return {
            i: example_losses(head(first), own).mean() for i, (head, own) in enumerate(zip(heads, labels, strict=True))
        }

    def static() -> dict[int, Tensor]:
        said = losses()
        assign_gradient(flat_gradient(sum(said.values()) / k, parameters), parameters)
        optimizer.step()
        return {i: loss.detach() for i, loss in said.items()}

    def by_jvp() -> None:
        jvp(losses, network, body, v)
        static()

    def by_difference() -> None:
        said = losses()
        assign_gradient(flat_gradient(sum(said.values()) / k, parameters), parameters)
        finite_differences(losses, {i: loss.detach() for i, loss in said.items()}, body, v)
        optimizer.step()

    def by_backward() -> None:
        said = losses()
        for loss in said.values():
            flat_gradient(loss, body, keep_graph=True) @ v
        assign_gradient(flat_gradient(sum(said.values()) / k, parameters), parameters)
        optimizer.step()

    return {"static": static, "jvp": by_jvp, "difference": by_difference, "backward": by_backward}


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Milliseconds or MiB of each work."""
    with tempfile.TemporaryDirectory() as place:
        chosen = works(Path(place), asked.k[0], asked)
        if asked.child == "memory":
            return {name: peak(work, asked.device) for name, work in chosen.items()}
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(asked.rounds + 1):
            for name, work in chosen.items():
                wait(asked.device)
                begun = time.perf_counter()
                work()
                wait(asked.device)
                times[name].append(1000 * (time.perf_counter() - begun))
        return {name: statistics.median(own[1:]) for name, own in times.items()}


def child(k: int, asked: argparse.Namespace, what: str) -> dict[str, float]:
    """The same in a process of its own, which for memory gives every freed block back at once."""
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if what == "memory" else {}
    command = [sys.executable, __file__, "--child", what, "--k", str(k), "--rows", str(asked.rows)]
    command += ["--device", asked.device, "--rounds", str(asked.rounds), *(["--shared"] if asked.shared else [])]
    done = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def summed(k: int, asked: argparse.Namespace) -> dict[str, int]:
    """Returns the bytes that a step sums over ranks, of K objectives and static, less the heads that only one has."""
    counted = {}
    with tempfile.TemporaryDirectory() as place:
        for name, more in (
            ("static", {}),
            ("cosine", {}),
            ("difference", {"similarity": "dot", "engine": "difference"}),
        ):
            process_group = Counting(device=torch.device(asked.device))
            weighting = "static" if name == "static" else "aang"
            one = trial(Path(place), k, asked, weighting, process_group=process_group, **more)
            one.begin(one.phases[0])
            one.advance(one.phases[0])
            counted[name] = process_group.bytes[0]
        counted["K gradients"] = 4 * (k + 1) * sum(p.numel() for p in one.network.body_parameters())
    return counted


@dataclass(frozen=True)
class Counting(ProcessGroup):
    """A rank alone that counts what it is given to sum."""

    bytes: list[int] = field(default_factory=lambda: [0])

    def sum(self, value: Tensor) -> Tensor:
        """The value, its bytes counted."""
        self.bytes[0] += value.numel() * value.element_size()
        return value


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--k", type=int, nargs="+", default=[1, 3, 8, 24, 40])
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", default="cpu")
    options.add_argument("--shared", action="store_true", help="K heads on the same rows")
    options.add_argument("--child", choices=("time", "memory"))
    asked = options.parse_args()
    if asked.child:
        print(json.dumps(measure(asked)))
        return
    for what in ("time", "memory"):
        for k in asked.k:
            figures = child(k, asked, what)
            if k == asked.k[0]:
                print(f"\n| K | static | {' | '.join(f'{name} | x' for name in list(figures)[1:])} |")
                print("| --- " * 2 * len(figures) + "|")
            unit = "ms" if what == "time" else "MiB"
            cells = [f"{figures['static']:.0f} {unit}"]
            for name in list(figures)[1:]:
                cells += [f"{figures[name]:.0f}", f"{figures[name] / figures['static']:.2f}"]
            print(f"| {k} | " + " | ".join(cells) + " |", flush=True)
    for k in () if asked.shared else asked.k:
        print(f"bytes summed a step, K = {k}: {summed(k, asked)}", flush=True)


if __name__ == "__main__":
    main()
