"""A recorded trial trained a second time, and the comparison of both trainings.

On a CPU with one rank and the same number of threads, the second training is the same to the last bit.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.executors.trial_runner import reset_process_state
from raysearch.plan import TrialPlan
from raysearch.storage.run import Run
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import train


@dataclass(frozen=True)
class RetrainedTrial:
    """The result of a second training of a plan."""

    score: float  # best on select-dev
    best_step: int
    parameters: dict[str, Tensor]
    seconds: float
    reason: str = "The run had no weights of this trial, so it was trained a second time."


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A second training compared with the trial."""

    score: float
    best_step: int
    same_score: bool  # the same score at the same step
    same_weights: bool  # bit for bit
    largest_difference: float  # between any two weights
    seconds: float


def retrain_trial(run: Run, row: Mapping[str, Any], plan: TrialPlan) -> RetrainedTrial:
    """Trains the plan as the trial of `row` was trained: the same kind of device, threads and last step.

    It uses one rank; a trial that had several ranks is equal up to rounding.
    """
    on_cpu = row["device"] in (None, "", "cpu") or not torch.cuda.is_available()
    process_group = ProcessGroup(device=torch.device("cpu" if on_cpu else "cuda"))
    threads, search = torch.get_num_threads(), run.search
    in_process = search["executor"] == "in_process"
    reset_process_state(plan.seed, threads if in_process else max(1, int(search["resources"]["cpus"])))
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="raysearch-") as scratch:
            reports = train(plan, folder=Path(scratch), process_group=process_group)
            for report in reports:
                if report.step >= row["steps"]:
                    reports.close()
            best = checkpoint.load(TrialFolder(Path(scratch)).best)
    finally:
        torch.set_num_threads(threads)
    return RetrainedTrial(best["score"], best["step"], best["parameters"], time.perf_counter() - started)


def compare(row: Mapping[str, Any], parameters: Mapping[str, Tensor], second: RetrainedTrial) -> Verification:
    """Compares a second training with the trial of `row`, whose best weights are `parameters`."""
    return Verification(
        score=second.score,
        best_step=second.best_step,
        same_score=(second.score, second.best_step) == (row["score"], row["best_step"]),
        same_weights=sha256_of(parameters) == sha256_of(second.parameters),
        largest_difference=max(float((parameters[k] - v).abs().max()) for k, v in second.parameters.items()),
        seconds=second.seconds,
    )


def sha256_of(parameters: Mapping[str, Tensor]) -> str:
    """Returns the hash of the names, types, shapes and bytes of all tensors, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        value = parameters[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
