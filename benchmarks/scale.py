"""What a large run costs: its status, its reports, its resumption, and the decisions of a long search.

    python benchmarks/scale.py [TRIALS [EVALUATIONS]]

A synthetic run is written by the ledger. Each measurement is a process of its own: seconds of CPU time and MiB of
memory at the most, imports included, and the seconds of the engine alone. The last lines are the ms of a decision, ask
and tell, at the beginning and at the end of a search of so many trials.
"""

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from raysearch.config.search_config import Search
from raysearch.storage.ledger import Ledger

TRIALS, EVALUATIONS = 10_000, 100
DIMENSIONS = ("lr", "weight_decay", "dropout", "warmup")
BATCH = 500  # trials that are written at a time
EDGE = 200  # decisions at the beginning and the end whose medians are compared
MEASURES = {
    "status": "from raysearch.storage.run import open_run; call = lambda: open_run(path).status()",
    "leaderboard": "from raysearch.reports.query import analyze; from raysearch.storage.run import open_run; "
    "call = lambda: analyze(open_run(path), ['leaderboard'])",
    "curves": "from raysearch.reports.query import analyze; from raysearch.storage.run import open_run; "
    "call = lambda: analyze(open_run(path), ['curves'])",
    "resume": "sys.path.insert(0, folder); import scale; call = lambda: scale.reopen(path)",
}
PROGRAM = """
import json, resource, sys, time
path, folder = sys.argv[1:]
{measure}
start = time.process_time()
call()
end = time.process_time()
print(json.dumps([end - start, end, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def make_search(trials: int, sampler: str = "random") -> Search:
    """Returns a search over four settings, of a task that is never read."""
    return Search.from_dict(
        {
            "name": "large",
            "task": {"name": "nothing", "metric": "accuracy", "train": "/never/read.jsonl"},
            "model": {"config": {"model_type": "bert", "vocab_size": 80}},
            "method": {"weighting": "end_task_only"},
            "dimensions": {name: {"float": [0.001, 0.9]} for name in DIMENSIONS},
            "sampler": sampler,
            "budget": {"trials": trials},
            "keep": 1,
        }
    )


def write_run(folder: Path, trials: int, evaluations: int) -> None:
    """Writes a finished run of so many trials with so many evaluations each."""
    search, chance = make_search(trials), random.Random(0)
    prepared = SimpleNamespace(fingerprint="none", sizes={}, labels=("a", "b"))
    from raysearch.search import resume

    with Ledger.open(folder) as ledger:
        resume.declare(ledger, search, folder, prepared, None, "")  # type: ignore[arg-type]
        for first in range(0, trials, BATCH):
            rows = []
            for number in range(first, min(first + BATCH, trials)):
                params = {name: chance.uniform(0.001, 0.9) for name in DIMENSIONS}
                rows.append(_write_trial(ledger, search, number, params, evaluations))
            ledger.restore(rows)
            ledger.compact()
        ledger.event("finished")


def _write_trial(ledger: Ledger, search: Search, number: int, params: dict[str, float], evaluations: int) -> dict:
    plan = search.resolve(
        "search", params, number=number, seed=search.seeds[0], fold=-1, role="search", data="", labels=2
    )
    name, best = plan.trial_id, 1 - params["lr"]
    steps = pa.array(np.arange(1, evaluations + 1))
    scores = pa.array(best * np.arange(1, evaluations + 1) / evaluations)
    text = {"phase": "joint", "split": "select_dev", "metric": "accuracy"}
    columns = {"step": steps, **{key: pa.array([value] * evaluations) for key, value in text.items()}}
    columns |= {"score": scores, "best": scores}
    ledger.event("asked", name, detail={"plan": plan.to_dict()})
    ledger.event("started", name, detail={"device": "cpu"})
    ledger.append("evaluations", pa.RecordBatch.from_pydict(columns), fill={"trial_id": name, "attempt": 0})
    ledger.event("committed", name, detail={"state": "complete", "score": best})
    ledger.event("told", name, detail={"state": "complete", "score": best})
    row = {"trial_id": name, "arm": "search", "role": "search", "number": number, "seed": plan.seed}
    row |= {"state": "complete", "why": "took all its steps", "score": best, "best_step": evaluations}
    row |= {"steps": evaluations, "attempts": 1, "seconds": 1.0, "workers": 1, "device": "cpu"}
    return row | {"params": json.dumps(params), "plan": plan.to_json()}


def reopen(path: str) -> None:
    """Does what `resume` does before the first trial: opens the ledger, restores the study, tidies files."""
    from raysearch.search import resume
    from raysearch.search.launch import _open_recorder

    folder = Path(path)
    with Ledger.open(folder) as ledger:
        search = resume.load_stored_search(folder)
        assert search is not None
        resume.mend(ledger, folder)
        prepared = SimpleNamespace(labels=("a", "b"))
        assert _open_recorder(search, ledger, folder, prepared).done  # type: ignore[arg-type]


def time_decisions(trials: int, sampler: str) -> tuple[float, float]:
    """Returns the median ms of ask and tell at the beginning and at the end of a search."""
    from raysearch.search.study import Study

    study, times = Study(make_search(trials, sampler), data="", labels=2), []
    for _ in range(trials):
        start = time.process_time()
        proposal = study.ask()
        assert proposal is not None
        study.tell(proposal.plan.trial_id, "complete", 1 - proposal.plan.settings["lr"], 10, 1.0, 10)
        assert study.done == (len(times) == trials - 1)
        times.append(1000 * (time.process_time() - start))
    edge = min(EDGE, math.ceil(trials / 4))
    return statistics.median(times[:edge]), statistics.median(times[-edge:])


def main(trials: int, evaluations: int) -> None:
    """Writes a run, and prints what it costs."""
    print(f"{trials} trials x {evaluations} evaluations; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "large", time.process_time()
        write_run(path, trials, evaluations)
        size = sum(file.stat().st_size for file in path.rglob("*.parquet")) / 2**20
        print(f"written in {time.process_time() - start:.1f} s of CPU time, tables of {size:.0f} MiB", flush=True)
        for name, measure in MEASURES.items():
            program = PROGRAM.format(measure=measure)
            words = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
            seconds, whole, memory = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{name:<12} {seconds:6.2f} s, with imports {whole:6.2f} s, {memory:5.0f} MiB", flush=True)
    for sampler, count in (("random", trials), ("tpe", trials // 10)):
        first, last = time_decisions(count, sampler)
        print(f"a decision of {count} with {sampler}: {first:.1f} ms, at the end {last:.1f} ms", flush=True)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*(numbers + [TRIALS, EVALUATIONS][len(numbers) :]))
