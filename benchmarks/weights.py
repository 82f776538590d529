"""The cost of recording the weights of every step, as a share of a step's time.

    python benchmarks/weights.py [--spaces aang_td aang_full] [--k 3] [--steps 20]

Steps of `aang` on text are compared with the recording of their weights, in CPU time. The model is a BERT of 1.7 M
parameters with 64 tokens. A step has 16 end-task examples and 48 auxiliary ones, for K sampled objectives of AANG-TD's
24 or AANG-full's 524.

    record     copying the weights after each step
    flush      making the Arrow batch of all steps since the last evaluation, per step
    as dicts   the simple way: a dict for each row of the table at each step, and Arrow from these
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Returns a trial at its first step."""
    generator = random.Random(0)
    files = ("train", "dev", "domain", "out_of_domain", "neural_lm")
    for file in files:
        texts = [" ".join(str(generator.randrange(3000)) for _ in range(2 * LENGTH)) for _ in range(200)]
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


def as_dicts(log: WeightLog, step: int) -> list[dict[str, object]]:
    """Returns a step's rows of the weights table."""
    entries = zip(log.names, log.weighting.weights().tolist(), strict=True)
    return [
        {"step": step, "kind": kind, "stage": stage, "name": name, "weight": weight, "score": None}
        for (kind, stage, name), weight in entries
    ]


def measure(one_trial: Trial, steps: int) -> dict[str, float]:
    """Returns the microseconds of CPU time per step: of the step itself and of each way to record its weights."""
    log = one_trial.weights
    log.record(1, None)
    log.flush()  # libraries are loaded on first use
    times: dict[str, list[float]] = {"step": [], "record": [], "dicts": []}
    rows: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        with timed(times["step"]):
            one_trial.update(one_trial.phases[0], step)
        with timed(times["record"]):
            log.record(step, one_trial.update.last_similarities)
        with timed(times["dicts"]):
            rows += as_dicts(log, step)
    with timed(times.setdefault("flush", [])):
        log.flush()
    with timed(times.setdefault("from dicts", [])):
        pa.RecordBatch.from_pylist(rows, schema=COLUMNS)
    per_step = {name: statistics.median(values) for name, values in times.items()}
    return per_step | {name: per_step[name] / steps for name in ("flush", "from dicts")}


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Appends the microseconds of CPU time of its body to `times`."""
    start = time.process_time()
    yield
    times.append(1e6 * (time.process_time() - start))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--spaces", nargs="+", default=["aang_td", "aang_full"])
    options.add_argument("--k", type=int, default=3)
    options.add_argument("--steps", type=int, default=20)
    arguments = options.parse_args()
    print("| objectives | rows | a step | record | flush | share of a step | as dicts | share |\n" + "| --- " * 8 + "|")
    for space in arguments.spaces:
        with TemporaryDirectory() as folder:
            one_trial = trial(Path(folder), space, arguments.k)
            us = measure(one_trial, arguments.steps)
        ours, dicts = us["record"] + us["flush"], us["dicts"] + us["from dicts"]
        counts = [f"{len(one_trial.plan.objectives)}", f"{len(one_trial.weights.names)}"]
        cells = [f"{us['step'] / 1000:.0f} ms", f"{us['record']:.0f} us", f"{us['flush']:.0f}"]
        shares = [f"{100 * ours / us['step']:.2f} %", f"{dicts:.0f} us", f"{100 * dicts / us['step']:.2f} %"]
        print("| " + " | ".join([*counts, *cells, *shares]) + " |", flush=True)


if __name__ == "__main__":
    main()
