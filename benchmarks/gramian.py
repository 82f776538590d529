"""The cost of a fresh ATTITTUD basis at every step, compared with multitask learning and other gradient engines.

    python benchmarks/gramian.py [--m 16 32 64 128] [--k 1 5 10 20] [--device cuda] [--model image] [--layers 6]
        [--what time memory operations]

It measures one step of the same trial (a BERT of 1.7 M parameters on 64 tokens, or a WideResNet-16-2 with GroupNorm on
32 x 32 images; m end-task and m auxiliary examples):

    multitask        one forward, one backward for both batches
    raysearch        ATTITTUD with an exact basis of m fresh examples at every step
    vector products  the authors' method: k backwards, each after its own forward of the m examples, then Gram-Schmidt
    autogram         only TorchJD's Gramian of the m examples
    ours alone       only raysearch's Gramian of the m examples
    plain gradient   one forward and one backward of the m examples, as in training

Times are medians of interleaved rounds. Memory is the peak of one step above the memory in use before it. Operations
are those that torch counts in matrix products, convolutions (without regard to groups) and attention.
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


def trial(folder: Path, m: int, k: int, surgery: str, arguments: argparse.Namespace) -> Trial:
    """Returns a trial at its first step; its `update(phase, n)` computes the gradient of step n."""
    settings = {"batch_size": m, "aux_batch_size": m, "dropout": 0.0, "objectives_per_step": 1}
    settings |= {"m": m, "k": k} if surgery == "attittud" else {}
    declaration = {"name": "gramian", "method": {"weighting": "static", "surgery": surgery}, "settings": settings}
    declaration |= (text if arguments.model == "text" else images)(folder, m, arguments.layers)
    search = Search.from_dict(declaration)
    data = folder / "data"
    prepared = prepare(search.task, search.model.to_plain(), data)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=list(prepared.labels))
    return Trial(plan, TrialFolder(folder / surgery), ProcessGroup(device=torch.device(arguments.device)))


def text(folder: Path, m: int, layers: int) -> dict[str, Any]:
    """Declares a BERT, and a task of random words that it writes to `folder`."""
    generator = random.Random(0)
    for split, rows in (("train", 4 * m), ("dev", 40)):
        texts = [" ".join(str(generator.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": str(i % 4)}) for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    shape = {"hidden_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 512}
    return {
        "task": {"name": "noise"} | {s: str(folder / f"{s}.jsonl") for s in ("train", "dev")},
        "model": {"config": {"model_type": "bert", "vocab_size": VOCABULARY} | shape},
        "space": "bert_style",
    }


def images(folder: Path, m: int, layers: int) -> dict[str, Any]:
    """Declares a WideResNet-16-2, and a task of random images: four classes, and six more of an auxiliary task."""
    del layers
    if not (folder / "train.npz").exists():
        generator = np.random.default_rng(0)
        labels = np.arange(20 * m) % 10
        np.savez(
            folder / "train.npz", images=generator.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels=labels
        )
    task = {"kind": "image", "name": "noise", "train": str(folder / "train.npz"), "auxiliary": "rest"}
    return {
        "task": task | {"classes": ["0", "1", "2", "3"], "dev_per_class": 10},
        "model": {"image": "wide_resnet", "depth": 16, "widen": 2, "norm": "group"},
        "space": "auxiliary_label",
    }


def workloads(folder: Path, m: int, k: int, arguments: argparse.Namespace) -> dict[str, Work]:
    """Returns the measured calls by name."""
    device = arguments.device
    plain = trial(folder, m, k, "none", arguments)
    cut = trial(folder, m, k, "attittud", arguments)
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
    other = trial(folder, m, k, "attittud", arguments)  # a separate trial, because the hooks remain
    engine = Engine(other.network.body, batch_dim=0)
    measured["autogram"] = lambda: engine.compute_gramian(other.update.basis.losses(rows))
    return measured


def wait(device: str) -> None:
    """Waits until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak(work: Work, device: str) -> float:
    """Returns the peak memory of one call above the memory in use before it, in MiB."""
    work()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # restarts the measurement of the peak
    before = kib("VmRSS")
    work()
    return max(0.0, (kib("VmHWM") - before) / 1024)


def matmul_operations(total: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...], *_: object, **__: object) -> int:
    """Returns the operations of a product that is added in temporary, which torch's counter omits; takes shapes."""
    del total
    return 2 * math.prod(a) * b[-1]


IN_PLACE = {torch.ops.aten.addmm_: matmul_operations, torch.ops.aten.baddbmm_: matmul_operations}


def operations(work: Work) -> float:
    """Returns the multiplications and additions of one call, in units of 1e9."""
    work()
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        work()
    return counter.get_total_flops() / 1e9


def kib(name: str) -> int:
    """Returns a number of /proc/self/status, in KiB."""
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line).split()[1])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the milliseconds, MiB or operations of each workload."""
    with tempfile.TemporaryDirectory() as temporary:
        device, calls = arguments.device, workloads(Path(temporary), arguments.m[0], arguments.k[0], arguments)
        if arguments.child == "memory":
            return {name: peak(work, device) for name, work in calls.items()}
        if arguments.child == "operations":
            return {name: operations(work) for name, work in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS + 1):
            for name, work in calls.items():
                wait(device)
                start = time.perf_counter()
                work()
                wait(device)
                times[name].append(1000 * (time.perf_counter() - start))
        return {name: statistics.median(values[1:]) for name, values in times.items()}


def measure_in_child(m: int, k: int, arguments: argparse.Namespace, what: str) -> dict[str, float]:
    """Measures in a child process; for memory, its allocator returns every freed block to the system at once."""
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if what == "memory" else {}
    command = [sys.executable, __file__, "--child", what, "--m", str(m), "--k", str(k)]
    command += ["--device", arguments.device, "--layers", str(arguments.layers), "--model", arguments.model]
    process = subprocess.run(command, env=os.environ | allocator, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
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
    arguments = options.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    print(f"{platform.processor()}, torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads\n")
    print(
        "| m | k | multitask | raysearch | x multitask | vector products | autogram | ours alone | x autogram | plain |"
    )
    print("| --- " * 10 + "|")
    for what in arguments.what:
        for m in arguments.m:
            for k in arguments.k:
                if k > m:
                    continue
                f = measure_in_child(m, k, arguments, what)
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
