"""What a worker does with a plan, wherever it runs. Knows no Ray.

A trial that fails is a row with its traceback: what `train` raises is caught here, at the border of the trial, and
becomes its ending. Every rank of a group comes to the same ending, or says so.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import random
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from raysearch.distributed import ProcessGroup
from raysearch.executors.broker import TrialOutcome
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

TRAIN = "raysearch.training.trainer:train"


class Train(Protocol):
    """What trains a plan; see `training.train`."""

    def __call__(self, plan: TrialPlan, *, folder: Path, process_group: ProcessGroup) -> Generator[Report, bool, None]:
        """Reports, one an evaluation; `send(True)` ends the trial."""
        ...


Push = Callable[[list[Report]], bool]  # takes reports of rank 0; is the trial to leave?


def load(target: str) -> Train:
    """The function `module:name`."""
    module, name = target.split(":")
    function: Train = getattr(importlib.import_module(module), name)
    return function


def run_plan(plan: TrialPlan, folder: Path, process_group: ProcessGroup, train: Train, push: Push) -> TrialOutcome:
    """Train a plan to its end, pushing what it reports, and say how it ended."""
    try:
        return _run(train(plan, folder=folder, process_group=process_group), process_group, push)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__qualname__} at {place.filename}:{place.lineno}"
        return TrialOutcome(TrialState.FAILED, "".join(traceback.format_exception(error)), where)


def _run(reports: Generator[Report, bool, None], process_group: ProcessGroup, push: Push) -> TrialOutcome:
    """What was said before an interruption is pushed along with what comes next, and never ends the trial."""
    unsaid: list[Report] = []
    for report in reports:
        unsaid.append(report)
        if report.replayed and not report.last:
            continue
        leave = push(unsaid) if process_group.rank == 0 else False
        unsaid.clear()
        score = report.evaluation.get("score")
        sound = score is None or math.isfinite(score)
        leave, sound = process_group.broadcast((leave, sound))
        if not sound:
            reports.close()
            return TrialOutcome(TrialState.FAILED, f"the score at step {report.step} is {score}, not a number")
        if leave and not report.last:
            with contextlib.suppress(StopIteration):
                reports.send(True)
            reports.close()
            return TrialOutcome(TrialState.STOPPED, f"stopped after step {report.step}")
    if unsaid and process_group.rank == 0:
        push(unsaid)
    return TrialOutcome(TrialState.COMPLETE, "")


def device_name(device: torch.device) -> str:
    """cpu, or the accelerator's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_process_state(seed: int, threads: int) -> None:
    """Put what a trial may have changed in this process back to where a fresh one begins."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_deterministic_debug_mode("default")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
