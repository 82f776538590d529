"""Runs trials one after another in this process, without Ray. No trial is stopped early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raysearch.config.sections import Resources
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError, SearchInterrupted
from raysearch.executors.messages import EventKind, TrialEvent
from raysearch.executors.trial_runner import device_name, load_train_function, reset_process_state, run_plan
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState

NextTrial = Callable[[], tuple[TrialPlan, int] | None]  # plan and attempt; None when there are no more trials


def run_in_process(
    next_trial: NextTrial,
    handle: Callable[[TrialEvent], None],
    *,
    resources: Resources,
    folder: Path,
    train: str,
    interrupted: threading.Event,
) -> None:
    """Trains the trials of `next_trial` with the function `train` in `folder`/TRIAL; passes their events to `handle`.

    Raises SearchInterrupted, at the next report, after `interrupted` is set, and RunError when the disk is full.
    """
    process_group = ProcessGroup(device=torch.device("cuda" if resources.gpus else "cpu"))
    function, device = load_train_function(train), device_name(process_group.device)
    while (assignment := next_trial()) is not None:
        plan, attempt = assignment

        def emit(kind: EventKind, plan: TrialPlan = plan, attempt: int = attempt, **details: Any) -> None:
            handle(TrialEvent(kind, plan.trial_id, attempt, time.time(), device=device, **details))

        def push(reports: list[Report], emit: Callable[..., None] = emit) -> bool:
            emit(EventKind.REPORTS, reports=tuple(reports))
            return interrupted.is_set()

        reset_process_state(plan.seed, max(1, int(resources.cpus)))
        emit(EventKind.STARTED)
        outcome = run_plan(plan, folder / plan.trial_id, process_group, function, push)
        if interrupted.is_set() and outcome.state == TrialState.STOPPED:
            raise SearchInterrupted
        if outcome.obstacle:
            emit(EventKind.LOST, why=outcome.obstacle)
            raise RunError(outcome.obstacle)
        emit(EventKind.ENDED, state=outcome.state, why=outcome.why)
        if interrupted.is_set():
            raise SearchInterrupted
