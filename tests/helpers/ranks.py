"""Training on several ranks, each in its own process, with gloo on CPU."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.trainer import train


def report_values(report: Report) -> dict[str, Any]:
    """Returns the values of a report that depend on the plan alone."""
    evaluation = {name: value for name, value in report.evaluation.items() if name != "seconds"}
    return evaluation | {"weights": report.weights.to_pylist() if report.weights is not None else None}


def saved_parameters(folder: Path) -> dict[str, Tensor]:
    """Returns the parameters of a trial's last checkpoint."""
    values: dict[str, Tensor] = checkpoint.load(folder / "state.safetensors")["parameters"]
    return values


TrainingResult = tuple[list[dict[str, Any]], dict[str, Tensor]]  # values of the reports, and the parameters at the end


def train_on_ranks(world: int, plans: list[TrialPlan], folder: Path, *, resumed: bool = False) -> list[TrainingResult]:
    """Trains plans one after another on `world` ranks; with `resumed`, each is interrupted and resumed once."""
    if world == 1:
        _train(ProcessGroup(), plans, folder / "1", resumed=resumed)
    else:
        mp.spawn(_rank, args=(world, [plan.to_json() for plan in plans], str(folder), resumed), nprocs=world)
    results = []
    for number in range(len(plans)):
        out = folder / str(world) / str(number)
        results.append((json.loads((out / "reports.json").read_text()), saved_parameters(out)))
    return results


def _rank(rank: int, world: int, plans: list[str], folder: str, resumed: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous-{world}", rank=rank, world_size=world)
    process_group = ProcessGroup.from_torch(torch.device("cpu"))
    _train(process_group, [TrialPlan.from_json(plan) for plan in plans], Path(folder) / str(world), resumed=resumed)
    dist.destroy_process_group()


def _train(process_group: ProcessGroup, plans: list[TrialPlan], folder: Path, *, resumed: bool) -> None:
    for number, plan in enumerate(plans):
        out = folder / str(number)
        if resumed:
            first = train(plan, folder=out, process_group=process_group)
            next(first)
            first.close()
            process_group.barrier()
        reports = [report_values(report) for report in train(plan, folder=out, process_group=process_group)]
        if process_group.rank == 0:
            (out / "reports.json").write_text(json.dumps(reports))
