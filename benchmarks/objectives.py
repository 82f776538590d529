"""What it costs to look at every objective's gradient: a step with K objectives, beside plain multitask learning.

    python benchmarks/objectives.py [--k 1 3 8 24 40] [--rows 48] [--device cuda]

One step of a text trial (a BERT of 1.7 M parameters, 64 tokens, 16 end-task rows, `--rows` auxiliary ones shared by K
of AANG-TD+ED's 40 objectives):

    static         one forward, one backward
    products       the same, and the product of every objective's gradient with a given dev gradient, and its norm
    backwards      likewise by a backward for each objective, after a forward for each
    whole aang     `products` and the dev gradient itself: dev head fitted, meta batch of 16 gone through
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from raysearch.checkpoint import TrialFolder
from raysearch.ranks import Ranks
from raysearch.spec import Search
from raysearch.tasks import prepare
from raysearch.training import Trial

ROUNDS, LENGTH = 5, 64


def trial(folder: Path, k: int, asked: argparse.Namespace, weighting: str, **more: object) -> Trial:
    """A trial at its first step."""
    chance = random.Random(0)
    for split, rows in (("train", 200), ("dev", 80), ("domain", 200)):
        texts = [" ".join(str(chance.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": str(i % 4)}) for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    settings = {"batch_size": 16, "aux_batch_size": asked.rows, "max_length": LENGTH, "dropout": 0.0}
    if weighting == "aang":
        settings["meta_batch_size"] = 16
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
    prepared = prepare(search.task, search.model.plain(), data)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=list(prepared.labels))
    return Trial(plan, TrialFolder(folder / weighting), Ranks(device=torch.device(asked.device)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--k", type=int, nargs="+", default=[1, 3, 8, 24, 40])
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--device", default="cpu")
    asked = options.parse_args()
    print("| K | static | products | x static | backwards | x static | whole aang | x static |\n" + "| --- " * 8 + "|")
    for k in asked.k:
        with tempfile.TemporaryDirectory() as place:
            trials = {
                "static": trial(Path(place), k, asked, "static"),
                "products": trial(Path(place), k, asked, "aang"),
                "backwards": trial(Path(place), k, asked, "aang", engine="backward"),
                "whole": trial(Path(place), k, asked, "aang"),
            }
            for name in ("products", "backwards"):
                update = trials[name].update
                v = update._dev_gradient(1)
                update._dev_gradient = lambda _, v=v: v
            times: dict[str, list[float]] = {name: [] for name in trials}
            for number in range(1, ROUNDS + 2):
                for name, one in trials.items():
                    begun = time.perf_counter()
                    one.update(one.phases[0], number)
                    if asked.device == "cuda":
                        torch.cuda.synchronize()
                    times[name].append(1000 * (time.perf_counter() - begun))
            ms = {name: statistics.median(own[1:]) for name, own in times.items()}
            cells = [f"{ms['static']:.0f} ms"]
            for name in ("products", "backwards", "whole"):
                cells += [f"{ms[name]:.0f}", f"{ms[name] / ms['static']:.2f}"]
            print(f"| {k} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
