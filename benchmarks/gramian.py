"""What a fresh ATTITTUD basis costs at every step: time and peak memory, beside multitask learning and other engines.

    python benchmarks/gramian.py [--m 16 32 64 128] [--k 1 5 10 20] [--device cuda] [--model image] [--layers 6]
        [--what time memory operations]

One step of the same trial (a BERT of 1.7 M parameters on 64 tokens, or a WideResNet-16-2 with GroupNorm on 32 x 32
images; m end-task and m auxiliary examples):

    multitask        one forward, one backward for both batches
    raysearch        ATTITTUD with an exact basis of m fresh examples at every step
    vector products  the authors' way: k backwards, each after its own forward of the m examples, then Gram-Schmidt
    autogram         TorchJD's Gramian of the m examples, no more
    ours alone       raysearch's Gramian of the m examples, no more
    plain gradient   one forward and one backward of the m examples, as training takes them

Times are medians of interleaved rounds; memory is the peak of one step above what was held before it; operations are
what torch counts in matrix products, convolutions (groups not considered) and attention.
"""

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raysearch.config.search_config import Search
from raysearch.distributed import ProcessGroup
from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.jacobian import factored_jacobian
from raysearch.modalities.opening import prepare
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial

ROUNDS, LENGTH, VOCABULARY = 5, 64, 4096
UNITS = {"time": "ms", "memory": "MiB", "operations": "GF"}
Work = Callable[[], object]


def trial(folder: Path, m: int, k: int, surgery: str, asked: argparse.Namespace) -> Trial:
    """A trial at its first step; `update(phase, n)` computes the gradient of step n."""
    settings = {"batch_size": m, "aux_batch_size": m, "dropout": 0.0, "objectives_per_step": 1}
    settings |= {"m": m, "k": k} if surgery == "attittud" else {}
    declared = {"name": "gramian", "method": {"weighting": "static", "surgery": surgery}, "settings": settings}
    declared |= (text if asked.model == "text" else images)(folder, m, asked.layers)
    search = Search.from_dict(declared)
    data = folder / "data"
    prepared = prepare(search.task, search.model.to_plain(), data)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=list(prepared.labels))
    return Trial(plan, TrialFolder(folder / surgery), ProcessGroup(device=torch.device(asked.device)))


def text(folder: Path, m: int, layers: int) -> dict[str, Any]:
    """Random words for a BERT."""
    chance = random.Random(0)
    for split, rows in (("train", 4 * m), ("dev", 40)):
        texts = [" ".join(str(chance.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": str(i % 4)}) for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    shape = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 512}
    return {
        "task": {"name": "noise"} | {s: str(folder / f"{s}.jsonl") for s in ("train", "dev")},
        "model": {"config": {"model_type": "bert", "vocab_size": VOCABULARY} | shape},
        "space": "bert_style",
    }


def images(folder: Path, m: int, layers: int) -> dict[str, Any]:
    """Random images for a WideResNet-16-2 with GroupNorm: four classes to tell apart, six more beside them."""
    del layers
    if not (folder / "train.npz").exists():
        chance = np.random.default_rng(0)
        labels = np.arange(20 * m) % 10
        np.savez(
            folder / "train.npz", images=chance.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels=labels
        )
    task = {"kind": "image", "name": "noise", "train": str(folder / "train.npz"), "auxiliary": "rest"}
    return {
        "task": task | {"classes": ["0", "1", "2", "3"], "dev_per_class": 10},
        "model": {"image": "wide_resnet", "depth": 16, "widen": 2, "norm": "group"},
        "space": "auxiliary_label",
    }


def works(folder: Path, m: int, k: int, asked: argparse.Namespace) -> dict[str, Work]:
    """What is measured, by name."""
    device = asked.device
    plain = trial(folder, m, k, "none", asked)
    cut = trial(folder, m, k, "attittud", asked)
    phase, examples, network = cut.phases[0], cut.update.basis, cut.network
    rows, body = torch.arange(m), network.body_parameters()

    def vector_products() -> Tensor:
        V: list[Tensor] = []
        for _ in range(k):
            y = flat_gradient(torch.randn(m, device=device) @ examples.losses(rows), body)
            for v in V:
                y = y - (v @ y) * v
            V.append(y / y.norm())
        return torch.stack(V)

    def ours() -> Tensor:
        J = factored_jacobian(examples.losses, rows, examples.capture, ProcessGroup(device=torch.device(device)))
        return J.inner_products([])[0]

    def plain_gradient() -> Tensor:
        return flat_gradient(examples.losses(rows).mean(), body)

    measured: dict[str, Work] = {
        "multitask": lambda: plain.update(phase, 1),
        "raysearch": lambda: cut.update(phase, 1),
        "vector products": vector_products,
        "ours alone": ours,
        "plain gradient": plain_gradient,
    }
    try:
        from torchjd.autogram import Engine
    except ImportError:
        return measured
    other = trial(folder, m, k, "attittud", asked)  # of its own: its hooks stay
    engine = Engine(other.network.body, batch_dim=0)
    measured["autogram"] = lambda: engine.compute_gramian(other.update.basis.losses(rows))
    return measured


def wait(device: str) -> None:
    """Until the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak(work: Work, device: str) -> float:
    """MiB above what is held before, at the highest point of one call."""
    work()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = kib("VmRSS")
    work()
    return max(0.0, (kib("VmHWM") - before) / 1024)


def multiplied(total: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], *_: object, **__: object) -> int:
    """Operations of products that are added to what is there, which torch's counter leaves out; shapes."""
    del total
    return 2 * math.prod(a) * b[-1]


IN_PLACE = {torch.ops.aten.addmm_: multiplied, torch.ops.aten.baddbmm_: multiplied}


def operations(work: Work) -> float:
    """Thousand million multiplications and additions of one call."""
    work()
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        work()
    return counter.get_total_flops() / 1e9


def kib(name: str) -> int:
    """A line of /proc/self/status."""
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line).split()[1])


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Milliseconds, MiB or operations of each work."""
    with tempfile.TemporaryDirectory() as place:
        device, all_works = asked.device, works(Path(place), asked.m[0], asked.k[0], asked)
        if asked.child == "memory":
            return {name: peak(work, device) for name, work in all_works.items()}
        if asked.child == "operations":
            return {name: operations(work) for name, work in all_works.items()}
        times: dict[str, list[float]] = {name: [] for name in all_works}
        for _ in range(ROUNDS + 1):
            for name, work in all_works.items():
                wait(device)
                begun = time.perf_counter()
                work()
                wait(device)
                times[name].append(1000 * (time.perf_counter() - begun))
        return {name: statistics.median(own[1:]) for name, own in times.items()}


def child(m: int, k: int, asked: argparse.Namespace, what: str) -> dict[str, float]:
    """The same in a process of its own, which for memory gives every freed block back at once."""
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if what == "memory" else {}
    command = [sys.executable, __file__, "--child", what, "--m", str(m), "--k", str(k)]
    command += ["--device", asked.device, "--layers", str(asked.layers), "--model", asked.model]
    done = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--m", type=int, nargs="+", default=[16, 32, 64, 128])
    options.add_argument("--k", type=int, nargs="+", default=[1, 5, 10, 20])
    options.add_argument("--device", default="cpu")
    options.add_argument("--layers", type=int, default=6, help="of the text model")
    options.add_argument("--model", choices=("text", "image"), default="text")
    options.add_argument("--what", nargs="+", choices=UNITS, default=list(UNITS))
    options.add_argument("--child", choices=UNITS)
    asked = options.parse_args()
    if asked.child:
        print(json.dumps(measure(asked)))
        return
    print(f"{platform.processor()}, torch {torch.__version__}, {asked.device}, {torch.get_num_threads()} threads\n")
    print(
        "| m | k | multitask | raysearch | x multitask | vector products | autogram | ours alone | x autogram | plain |"
    )
    print("| --- " * 10 + "|")
    for what in asked.what:
        for m in asked.m:
            for k in asked.k:
                if k > m:
                    continue
                f = child(m, k, asked, what)
                cells = [f"{f['multitask']:.0f} {UNITS[what]}", f"{f['raysearch']:.0f}"]
                cells += [f"{f['raysearch'] / f['multitask']:.2f}", f"{f['vector products']:.0f}"]
                auto = f.get("autogram", float("nan"))
                cells += [
                    f"{auto:.0f}",
                    f"{f['ours alone']:.0f}",
                    f"{f['ours alone'] / auto:.2f}",
                    f"{f['plain gradient']:.0f}",
                ]
                print(f"| {m} | {k} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
