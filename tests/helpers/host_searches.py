"""Searches on several hosts, with a stub instead of training: what a test and `benchmarks/hosts.py` do with them.

    python tests/helpers/host_searches.py SCENARIO      inside of `hosts.run_inside`; prints one JSON object

The driver's lines, with their times, go to stderr.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.hosts import SHARED, Driver, Host, Network, network
from helpers.plans import MODEL

from raysearch.storage.run import Run

LONG = 400.0  # seconds; a machine may be busy
SEED = 5


def declare(shared: Path, name: str, trials: int, **more: Any) -> Path:
    """Writes a search of groups of two ranks, and the data of its task, to the shared folder."""
    rows = [json.dumps({"text": f"word{i} word{i % 7}", "label": "ab"[i % 2]}) + "\n" for i in range(40)]
    for split in ("train", "dev"):
        (shared / f"{split}.jsonl").write_text("".join(rows))
    search = {
        "name": name,
        "task": {"name": "nothing", "train": str(SHARED / "train.jsonl"), "dev": str(SHARED / "dev.jsonl")},
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": 16, "eval_every": 2, "batch_size": 8},
        "dimensions": {"lr": {"float": [0.01, 0.9]}},
        "budget": {"trials": trials},
        "resources": {"workers": 2, "cpus": 1},
        "runs": str(SHARED / "runs"),
    }
    file = shared / f"{name}.json"
    file.write_text(json.dumps(search | more))
    return SHARED / file.name


def drive(host: Host, search: Path, **environment: str) -> Driver:
    """Starts a driver on a host, which joins the cluster there."""
    words = [sys.executable, "-m", "helpers.stub_training", str(search), "auto"]
    return Driver(host, *words, environment=environment)


def outcome_of(run: Run) -> dict[str, Any]:
    """Returns what shows that nothing was lost or done twice."""
    rows, events = run.trials().to_pylist(), run.events().to_pylist()
    each = {
        name: Counter(e["trial_id"] for e in events if e["event"] == name) for name in ("asked", "committed", "told")
    }
    once = dict.fromkeys((row["trial_id"] for row in rows), 1)
    return {
        "state": run.status()["state"],
        "trials": len(rows),
        "complete": sum(row["state"] == "complete" for row in rows),
        "each_once": all(dict(counts) == once for counts in each.values()),
        "attempts": max((row["attempts"] for row in rows), default=0),
        "restarted_from_zero": sum(event["event"] == "anew" for event in events),
        "why_waited": sorted({json.loads(e["detail"])["why"] for e in events if e["event"] == "waits"}),
    }


def evaluations_of(run: Run) -> int:
    """Returns how many evaluations are recorded."""
    return run.evaluations().num_rows


def wait_until(condition: Callable[[], Any], driver: Driver, what: str, seconds: float = LONG) -> float:
    """Waits for a condition while the driver runs; returns the seconds."""
    start = time.monotonic()

    def holds(_lines: list[str]) -> bool:
        try:
            return bool(condition())
        except Exception:  # the run has not begun
            return False

    driver.wait_for(holds, seconds, what)
    return time.monotonic() - start


@contextmanager
def hosts(*cpus: int, dashboard: bool = False) -> Iterator[tuple[Network, list[Host]]]:
    """Yields a network whose hosts have so many CPUs and form a cluster; the first is its head."""
    folder = Path(tempfile.mkdtemp(prefix="raysearch-hosts-"))
    try:
        with network(folder) as made:
            machines = [made.add() for _ in cpus]
            machines[0].start_ray(cpus[0], None, *(["--include-dashboard=true"] if dashboard else []))
            joining = [
                threading.Thread(target=m.start_ray, args=(n, machines[0]))
                for m, n in zip(machines[1:], cpus[1:], strict=True)
            ]
            for thread in joining:
                thread.start()
            for thread in joining:
                thread.join()
            yield made, machines
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(title: str, driver: Driver) -> None:
    sys.stderr.write(f"== {title}\n{driver.transcript()}\n")


def replaced_host() -> dict[str, Any]:
    """A search whose only group is on both hosts: one is killed, the search waits and says so, a third one joins."""
    with hosts(1, 1) as (made, (head, worker)):
        driver = drive(head, declare(made.shared, "replaced", 3), STUB_SECONDS="0.5")
        run = Run(made.shared / "runs" / "replaced")
        wait_until(lambda: evaluations_of(run) >= 4, driver, "evaluations")
        before = evaluations_of(run)
        nodes = Counter(line.rsplit(" ", 1)[-1] for line in rank_lines(run))
        worker.kill()
        told = driver.wait_for_line("is lost; no worker group fits", LONG)
        waiting = wait_until(lambda: run.status()["waiting"], driver, "why the trial waits")
        status = run.status()["waiting"]
        third = made.add()
        third.start_ray(1, head)
        joined = driver.wait_for_line("has joined; 1 worker group fit", LONG)
        code = driver.wait(LONG)
        show("a host is killed, another one joins", driver)
        return outcome_of(run) | {
            "exit": code,
            "evaluations_before": before,
            "seconds_to_tell": told,
            "seconds_to_status": waiting,
            "waiting": status,
            "seconds_to_join": joined,
            "nodes": dict(nodes),
            "seconds": driver.lines[-1][0],
        }


def rank_lines(run: Run) -> list[str]:
    """Returns the line that each rank of each start of a trial has written: process and host."""
    return [line for file in (run.path / "trials").glob("*/hosts") for line in file.read_text().splitlines()]


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {"replaced_host": replaced_host}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]]()))
