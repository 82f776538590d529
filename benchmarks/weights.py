"""What it costs to keep the weights of every step: the share of a step that the weights table takes.

    python benchmarks/weights.py [--spaces aang_td aang_full] [--k 3] [--steps 20]

Steps of `aang` on text (a BERT of 1.7 M parameters, 64 tokens, 16 end-task rows, 48 auxiliary ones shared by K sampled
objectives of AANG-TD's 24 or AANG-full's 524), and beside them, of the same weights, in CPU time:

    remember   what is kept after each step
    take       the Arrow batch of all steps since the last evaluation, told per step
    as dicts   the plain way: a dict for each row of the table at each step, and Arrow from these
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from raysearch.config.search_config import Search
from raysearch.distributed import ProcessGroup
from raysearch.modalities.opening import prepare
from raysearch.storage.schemas import WEIGHTS
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial
from raysearch.training.weight_log import WeightLog

LENGTH = 64
COLUMNS = pa.schema([f for f in WEIGHTS if f.name not in ("trial_id", "attempt")])


def trial(folder: Path, space: str, k: int) -> Trial:
    """A trial at its first step."""
    chance = random.Random(0)
    files = ("train", "dev", "domain", "out_of_domain", "neural_lm")
    for file in files:
        texts = [" ".join(str(chance.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(200)]
        lines = [json.dumps({"text": text, "label": str(i % 4)}) for i, text in enumerate(texts)]
        (folder / f"{file}.jsonl").write_text("\n".join(lines))
    shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    sizes = {"batch_size": 16, "aux_batch_size": 48, "meta_batch_size": 16, "max_length": LENGTH, "lm_head": "shared"}
    search = Search.from_dict(
        {
            "name": "weights",
            "task": {"name": "noise"} | {file: str(folder / f"{file}.jsonl") for file in files},
            "model": {"config": {"model_type": "bert", "vocab_size": 4096} | shape},
            "space": space,
            "method": {"weighting": "aang"},
            "settings": sizes | {"objectives_per_step": k},
        }
    )
    data = folder / "data"
    prepared = prepare(search.task, search.model.to_plain(), data)
    plan = search.resolve("search", {}, number=0, seed=0, data=str(data), labels=list(prepared.labels))
    return Trial(plan, TrialFolder(folder / "trial"), ProcessGroup())


def as_dicts(told: WeightLog, step: int) -> list[dict[str, object]]:
    """A step's rows, one by one."""
    named = zip(told.names, told.weighting.weights().tolist(), strict=True)
    return [
        {"step": step, "kind": kind, "stage": stage, "name": name, "weight": weight, "score": None}
        for (kind, stage, name), weight in named
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--spaces", nargs="+", default=["aang_td", "aang_full"])
    options.add_argument("--k", type=int, default=3)
    options.add_argument("--steps", type=int, default=20)
    asked = options.parse_args()
    print(
        "| objectives | rows | a step | remember | take | share of a step | as dicts | share |\n" + "| --- " * 8 + "|"
    )
    for space in asked.spaces:
        with TemporaryDirectory() as place:
            one = trial(Path(place), space, asked.k)
            told = one.weights
            told.record(1, None)
            told.flush()  # libraries are loaded on first use
            times: dict[str, list[float]] = {"step": [], "remember": [], "dicts": []}
            rows: list[dict[str, object]] = []

            def timed(name: str, begun: float, times: dict[str, list[float]] = times) -> None:
                times[name].append(1e6 * (time.process_time() - begun))

            for step in range(1, asked.steps + 1):
                begun = time.process_time()
                one.update(one.phases[0], step)
                timed("step", begun)
                begun = time.process_time()
                told.record(step, one.update.last_similarities)
                timed("remember", begun)
                begun = time.process_time()
                rows += as_dicts(told, step)
                timed("dicts", begun)
            begun = time.process_time()
            told.flush()
            take = 1e6 * (time.process_time() - begun) / asked.steps
            begun = time.process_time()
            pa.RecordBatch.from_pylist(rows, schema=COLUMNS)
            plain = 1e6 * (time.process_time() - begun) / asked.steps
            us = {name: statistics.median(own) for name, own in times.items()}
            new, old = us["remember"] + take, us["dicts"] + plain
            cells = [f"{len(one.plan.objectives)}", f"{len(told.names)}", f"{us['step'] / 1000:.0f} ms"]
            cells += [f"{us['remember']:.0f} us", f"{take:.0f}", f"{100 * new / us['step']:.2f} %"]
            print("| " + " | ".join([*cells, f"{old:.0f} us", f"{100 * old / us['step']:.2f} %"]) + " |", flush=True)


if __name__ == "__main__":
    main()
