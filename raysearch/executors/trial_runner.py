"""How a worker trains one plan, wherever it runs. Knows no Ray.

What `train` raises is caught here and becomes the outcome of the trial: a failed trial is a row with its traceback.
A full disk is no trial's fault, and every further trial would fail of it: it ends the search, which can be resumed.
"""

from __future__ import annotations

import contextlib
import errno
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
from raysearch.executors.messages import TrialOutcome
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
TRAIN = "raysearch.training.trainer:train"


class TrainFunction(Protocol):
    """A function that trains a plan, such as `training.trainer.train`."""

    def __call__(self, plan: TrialPlan, *, folder: Path, process_group: ProcessGroup) -> Generator[Report, bool, None]:
        """Yields a report at each evaluation; `send(True)` makes it stop."""
        ...


PushReports = Callable[[list[Report]], bool]  # called on rank 0; returns True when the trial is to stop


def load_train_function(target: str) -> TrainFunction:
    """Returns the function `module:name`."""
    module, name = target.split(":")
    function: TrainFunction = getattr(importlib.import_module(module), name)
    return function


def run_plan(
    plan: TrialPlan, folder: Path, process_group: ProcessGroup, train: TrainFunction, push: PushReports
) -> TrialOutcome:
    """Trains a plan until it ends or is stopped, and pushes its reports. The outcome is the same on every rank."""
    try:
        return _run(train(plan, folder=folder, process_group=process_group), process_group, push)
    except Exception as error:
        last_call = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__qualname__} at {last_call.filename}:{last_call.lineno}"
        why = "".join(traceback.format_exception(error))
        return TrialOutcome(TrialState.FAILED, why, place, _obstacle(error))


def _obstacle(error: Exception) -> str:
    """Returns what stops every trial, if the error says so: a disk that takes no further file."""
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}: free some space and resume the run; its trial continues from its checkpoint"
    return ""


def _run(reports: Generator[Report, bool, None], process_group: ProcessGroup, push: PushReports) -> TrialOutcome:
    """Pushes replayed reports together with the next new one; a replayed report never stops the trial."""
    unsent: list[Report] = []
    for report in reports:
        unsent.append(report)
        if report.replayed and not report.last:
            continue
        is_to_stop = push(unsent) if process_group.rank == 0 else False
        unsent.clear()
        score = report.evaluation.get("score")
        is_finite = score is None or math.isfinite(score)
        is_to_stop, is_finite = process_group.broadcast((is_to_stop, is_finite))
        if not is_finite:
            reports.close()
            return TrialOutcome(TrialState.FAILED, f"the score at step {report.step} is {score}, not a number")
        if is_to_stop and not report.last:
            with contextlib.suppress(StopIteration):
                reports.send(True)
            reports.close()
            return TrialOutcome(TrialState.STOPPED, f"stopped after step {report.step}")
    if unsent and process_group.rank == 0:
        push(unsent)
    return TrialOutcome(TrialState.COMPLETE, "")


def device_name(device: torch.device) -> str:
    """Returns `cpu`, or the accelerator's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_process_state(seed: int, threads: int) -> None:
    """Resets what a trial may have changed in this process: random generators, threads, torch's global settings."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_deterministic_debug_mode("default")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
