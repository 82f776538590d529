"""A stub for `training.train`: scores without learning, and every way in which a trial can fail.

A trial's behaviour depends on its `dropout`, which a search may draw freely; see `FAILURE_CASES`. Like the real
function it keeps a checkpoint: the last step.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Generator
from pathlib import Path

import torch

from raysearch.distributed import ProcessGroup
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report

FAILURE_CASES = {0.80: "raise", 0.81: "nan", 0.82: "lost", 0.84: "one rank raises", 0.85: "arithmetic", 0.86: "hang"}
FAILURE_CASES |= {0.87: "memory", 0.88: "accelerator memory", 0.89: "full disk", 0.79: "unreadable file"}


def train(plan: TrialPlan, *, folder: Path, process_group: ProcessGroup) -> Generator[Report, bool, None]:
    """Yields a report every `eval_every` steps; the score rises to 1 - lr at the last step."""
    training = plan.training
    case = FAILURE_CASES.get(round(training.dropout, 2), "")
    state, starts = folder / "state.json", folder / "starts"
    if process_group.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with starts.open("a") as file:
            file.write(f"{os.getpid()}\n")
    process_group.barrier()
    with (folder / "hosts").open("a") as file:
        file.write(f"{process_group.rank} {socket.gethostname()}\n")
    attempts = len(starts.read_text().splitlines())
    done = json.loads(state.read_text())["step"] if state.exists() else 0
    best = 0.0
    for step in range(training.eval_every, training.steps + 1, training.eval_every):
        score = (
            float(process_group.sum(torch.tensor((1 - plan.settings["lr"]) * step / training.steps)))
            / process_group.world
        )
        if step > done:
            time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
            _fail_as_planned(case, step, attempts, process_group)
            score = float("nan") if case == "nan" else score
            if process_group.rank == 0:
                state.with_suffix(".tmp").write_text(json.dumps({"step": step}))
                state.with_suffix(".tmp").replace(state)
            process_group.barrier()
        best = max(best, score)
        if (yield _report(plan, step, score, best, replayed=step <= done)):
            return


def _fail_as_planned(case: str, step: int, attempts: int, process_group: ProcessGroup) -> None:
    late = step >= 4
    if case == "hang" and late:
        time.sleep(3600)
    if case == "raise" and late:
        raise OSError("the disk is full")
    if case == "memory" and late:
        raise MemoryError
    if case == "accelerator memory" and late:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if case == "unreadable file" and late:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "data/train.arrow")
    if case == "full disk" and late and os.environ.get("STUB_DISK") == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state.safetensors")
    if case == "arithmetic" and late:
        raise ArithmeticError("the loss is nan")
    if case == "one rank raises" and late and process_group.rank == process_group.world - 1 and attempts == 1:
        raise OSError("only here")
    if late and process_group.rank == process_group.world - 1 and case == "lost" and attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _report(plan: TrialPlan, step: int, score: float, best: float, *, replayed: bool) -> Report:
    evaluation = {
        "step": step,
        "phase": "joint",
        "split": "select_dev",
        "metric": plan.task["metric"],
        "score": score,
        "loss": 1 - score,
        "best": best,
        "lambda_e": 1.0,
        "train_loss": 1 - score,
        "seconds": 0.01 * step,
    }
    return Report(step, evaluation, None, replayed=replayed, last=step == plan.training.steps)


def main(search: str, address: str | None = None) -> None:
    """Launches the search of a JSON file with this training: a driver in a process of its own."""
    from raysearch.config.search_config import Search
    from raysearch.search.launch import launch

    declared = Search.from_dict(json.loads(Path(search).read_text()))
    launch(declared, address=address, train="helpers.stub_training:train")


if __name__ == "__main__":
    main(*sys.argv[1:])
