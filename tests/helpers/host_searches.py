"""Searches on several hosts, with a stub instead of training: what a test and `benchmarks/hosts.py` do with them.

    python tests/helpers/host_searches.py SCENARIO      inside of `hosts.run_inside`; prints one JSON object

The driver's lines, with their times, go to stderr.
"""

from __future__ import annotations

import json
import os
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

from helpers.hosts import SHARED, TEMPORARY, Driver, Host, Network, network

from raysearch.storage.run import Run

LONG = 1500.0  # seconds; a machine may be busy
MODEL = {"config": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 120}}


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


def drive(host: Host, search: Path) -> Driver:
    """Starts a driver on a host, which joins the cluster there."""
    return Driver(host, sys.executable, "-m", "helpers.stub_training", str(search), "auto")


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
def hosts(*cpus: int, dashboard: bool = False, **last: str) -> Iterator[tuple[Network, list[Host]]]:
    """Yields a network whose hosts have so many CPUs and form a cluster; the first is its head.

    `last`: environment variables with which Ray is started on the last one.
    """
    folder = Path(tempfile.mkdtemp(prefix="raysearch-hosts-"))
    try:
        with network(folder) as made:
            machines = [made.add() for _ in cpus]
            options = ["--include-dashboard=true", "--dashboard-host=0.0.0.0"] if dashboard else []
            machines[0].start_ray(cpus[0], None, *options)
            joining = [
                threading.Thread(
                    target=machine.start_ray, args=(count, machines[0]), kwargs=last if machine is machines[-1] else {}
                )
                for machine, count in zip(machines[1:], cpus[1:], strict=True)
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
        driver = drive(head, declare(made.shared, "replaced", 3))
        run = Run(made.shared / "runs" / "replaced")
        wait_until(lambda: evaluations_of(run) >= 4, driver, "evaluations")
        before = evaluations_of(run)
        nodes = Counter(line.rsplit(" ", 1)[-1] for line in rank_lines(run))
        worker.kill()
        noticed = driver.wait_for_line("is lost; no worker group fits", LONG)
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
            "seconds_to_tell": noticed,
            "seconds_to_status": waiting,
            "waiting": status,
            "seconds_to_join": joined,
            "nodes": dict(nodes),
            "seconds": driver.lines[-1][0],
        }


def rank_lines(run: Run) -> list[str]:
    """Returns the line that each rank of each start of a trial has written: process and host."""
    return [line for file in (run.path / "trials").glob("*/hosts") for line in file.read_text().splitlines()]


def full_cluster() -> dict[str, Any]:
    """Two hosts of two CPUs run two groups of two ranks, launched from the second host; Ctrl-C, and resumed."""
    with hosts(2, 2) as (made, (_, worker)):
        search = declare(made.shared, "full", 6)
        driver = drive(worker, search)
        run = Run(made.shared / "runs" / "full")
        two = wait_until(lambda: len(running_trials(run)) == 2, driver, "two trials at a time")
        nodes = Counter(line.rsplit(" ", 1)[-1] for line in rank_lines(run))
        answered, ended, code = interrupt(driver)
        show("two groups on two hosts, and Ctrl-C", driver)
        again = drive(worker, search)
        last_code = again.wait(LONG)
        show("resumed", again)
        more = {"seconds_to_two": two, "nodes": dict(nodes), "ctrl_c": [answered, ended, code], "exit": last_code}
        return outcome_of(run) | more


def third_host() -> dict[str, Any]:
    """A host joins a search on one host, is used, and is killed; a second search waits, and gets Ctrl-C."""
    with hosts(2) as (made, (head,)):
        search, other = declare(made.shared, "grown", 8), declare(made.shared, "other", 2)
        driver = drive(head, search)
        run = Run(made.shared / "runs" / "grown")
        wait_until(lambda: len(running_trials(run)) == 1, driver, "a trial")
        second = drive(head, other)
        second_run = Run(made.shared / "runs" / "other")
        wait_until(lambda: "others use them" in str(second_run.status()["waiting"]), second, "why the other one waits")
        waiting = second_run.status()["waiting"]
        answered, ended, code = interrupt(second)
        show("a second search on the full cluster, interrupted", second)
        joining = made.add()
        joining.start_ray(2, head)
        driver.wait_for_line("has joined; 2 worker groups fit", LONG)
        two = wait_until(lambda: len(running_trials(run)) == 2, driver, "two trials at a time")
        joining.kill()
        noticed = driver.wait_for_line("is lost; 1 worker group fit", LONG)
        first_code = driver.wait(LONG)
        show("a host joins, and is killed", driver)
        return {
            "first": outcome_of(run) | {"exit": first_code},
            "seconds_to_two": two,
            "seconds_to_tell": noticed,
            "waiting": waiting,
            "ctrl_c": [answered, ended, code],
            "second": outcome_of(second_run),
        }


def lost_head() -> dict[str, Any]:
    """The head is killed under a search that was launched on the other host; it goes on in a new cluster."""
    with hosts(1, 1) as (made, (head, worker)):
        search = declare(made.shared, "lost_head", 3)
        driver = drive(worker, search)
        run = Run(made.shared / "runs" / "lost_head")
        wait_until(lambda: evaluations_of(run) >= 10, driver, "evaluations")
        before = outcome_of(run)["trials"], evaluations_of(run)
        head.kill()
        start = time.monotonic()
        code = driver.wait(LONG)
        ended = time.monotonic() - start
        show("the head is killed", driver)
        state = run.status()["state"]
        fresh = made.add()
        fresh.start_ray(2)
        again = drive(fresh, search)
        last_code = again.wait(LONG)
        show("resumed on another host from the run's folder", again)
        more = {
            "before": before,
            "driver_exit": code,
            "driver_ended_after": ended,
            "state_then": state,
            "exit": last_code,
        }
        return outcome_of(run) | more


def unusable_network() -> dict[str, Any]:
    """A host's Ray was started with a network interface that does not exist: no process group can form."""
    with hosts(1, 1, GLOO_SOCKET_IFNAME="absent0") as (made, (head, _)):
        driver = drive(head, declare(made.shared, "unusable", 2))
        code = driver.wait(LONG)
        show("a network interface that does not exist", driver)
        return {"exit": code, "lines": [line for _, line in driver.lines], "seconds": driver.lines[-1][0]}


def job_from_outside() -> dict[str, Any]:
    """`ray job submit --working-dir` from a host outside of the cluster, with primitives of the user's own."""
    with hosts(1, 1, dashboard=True) as (made, (head, _)):
        outside = made.add()
        declare(made.shared, "unused", 1)  # writes the data
        folder = made.shared / "mine"
        folder.mkdir()
        (folder / "primitives.py").write_text(PRIMITIVES)
        (folder / "space.yaml").write_text(SPACE)
        (folder / "search.yaml").write_text(json.dumps(SMALL_SEARCH))
        outside.call("cp", "-r", str(SHARED / "mine"), f"{TEMPORARY}/mine")
        address = {"RAY_API_SERVER_ADDRESS": f"http://{head.address}:8265"}
        programs = Path(sys.executable).parent
        options = ["--address", "auto", "--runs", str(SHARED / "runs")]
        launch = ["--", str(programs / "raysearch"), "launch", "search.yaml", *options]
        words = [str(programs / "ray"), "job", "submit", "--working-dir", f"{TEMPORARY}/mine", *launch]
        submitted = Driver(outside, *words, environment=address)
        code = submitted.wait(LONG)
        show("ray job submit from outside", submitted)
        by_hand = outcome_of(Run(made.shared / "runs" / "small"))
        head.call("cp", "-r", str(SHARED / "mine"), f"{TEMPORARY}/mine")  # the other host has no such file
        search = f"{TEMPORARY}/mine/search.yaml"
        driver = Driver(head, str(programs / "raysearch"), "launch", search, *options, "--name", "by_hand")
        driver_code = driver.wait(LONG)
        show("launched on the head, with a file of primitives that no other host has", driver)
        return {
            "job": by_hand | {"exit": code},
            "by_hand": outcome_of(Run(made.shared / "runs" / "by_hand")) | {"exit": driver_code},
        }


PRIMITIVES = """\
def swap(tokens, selected, vocabulary, generator):
    return tokens.flip(1)


PRIMITIVES = {"transform": {"swap": swap}}
"""
SPACE = """\
primitives: primitives.py
stages:
  data: [end_task]
  transform: [swap]
  representation: [bidirectional]
  output: [denoise]
objectives: 1
"""
SMALL_SEARCH = {
    "name": "small",
    "task": {"name": "nothing", "train": str(SHARED / "train.jsonl"), "dev": str(SHARED / "dev.jsonl")},
    "model": MODEL,
    "space": "space.yaml",
    "method": {"weighting": "equal"},
    "settings": {"steps": 4, "eval_every": 2, "batch_size": 8, "aux_batch_size": 8, "max_length": 16},
    "dimensions": {"lr": {"float": [0.0001, 0.01]}},
    "budget": {"trials": 1},
    "resources": {"workers": 2, "cpus": 1},
}


def running_trials(run: Run) -> set[str]:
    """Returns the trials that a worker group runs now."""
    running: set[str] = set()
    for event in run.events().to_pylist():
        if event["event"] == "started":
            running.add(event["trial_id"])
        elif event["event"] in ("lost", "committed"):
            running.discard(event["trial_id"])
    return running


def interrupt(driver: Driver) -> tuple[float, float, int]:
    """Sends Ctrl-C; returns the seconds to the answer and to the end, and the exit code."""
    start = time.monotonic()
    driver.interrupt()
    driver.wait_for_line("stopping: ", LONG)
    answered = time.monotonic() - start
    code = driver.wait(LONG)
    return answered, time.monotonic() - start, code


SECONDS = {"full_cluster": "4", "third_host": "3", "replaced_host": "0.5", "lost_head": "0.5"}  # between evaluations

SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    scenario.__name__: scenario
    for scenario in (replaced_host, full_cluster, third_host, lost_head, unusable_network, job_from_outside)
}

if __name__ == "__main__":
    os.environ["STUB_SECONDS"] = SECONDS.get(sys.argv[1], "0")  # workers have it from the `ray start` of their host
    print(json.dumps(SCENARIOS[sys.argv[1]]()))
