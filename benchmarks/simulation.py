"""Thousands of simulated searches with faults, each checked at its end; see tests/helpers/simulated_search.py.

    python benchmarks/simulation.py [SCHEDULES [FIRST_SEED]]
    python benchmarks/simulation.py --seed SEED

The study, recorder, ledger, broker and searcher are the real ones; workers, messages and time are simulated. Prints the
seeds of schedules after which an invariant does not hold, and ends with an error if there is one. `--seed` repeats one.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.simulated_search import run_schedule

from raysearch.config.search_config import Search

TASK = {"name": "nothing", "metric": "accuracy", "train": "/never/read.jsonl"}
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # in memory: the simulation has disks of its own that fail


def main(first: int, count: int) -> int:
    """Runs schedules; returns how many ended wrongly."""
    searches: dict[str, Search] = {}
    total, wrong, start = Counter[str](), 0, time.process_time()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        for seed in range(first, first + count):
            problems, counts = run_schedule(seed, TASK, Path(folder), searches)
            total += counts
            wrong += bool(problems)
            for problem in problems:
                print(f"seed {seed}: {problem}", flush=True)
    seconds = time.process_time() - start
    print(f"{count} schedules in {seconds:.0f} s of CPU time, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(json.dumps(total, sort_keys=True))
    print(f"{wrong} ended wrongly")
    return wrong


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of coroutines that end with their process
    arguments = sys.argv[1:]
    first, count = (int(arguments[1]), 1) if arguments[:1] == ["--seed"] else (0, 1000)
    if arguments and arguments[0] != "--seed":
        count, first = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    sys.exit(main(first, count) > 0)
