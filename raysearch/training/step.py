"""What is settled before a step's first forward, and what is said of it after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.base import END_TASK, Coefficients
from raysearch.modalities.batch import TaskBatch

SHARED = -3  # of a head's parameter: several objectives'
TaskBatches = list[tuple[int, TaskBatch]]  # tasks and their rows


class Losses(NamedTuple):
    """Mean losses of a step over all ranks, nat."""

    end_task: float
    aux: float  # sum_k w_k L_k


@dataclass(frozen=True)
class Step:
    """What is settled before a step's first forward."""

    number: int  # from 1
    tasks: list[int]  # END_TASK, where it takes part or is looked at, then the sampled objectives
    sampled: list[int]
    factors: Coefficients
    rows: dict[int, int]  # of each sampled objective
    sets: tuple[tuple[int, ...], ...] = ()  # what was sampled, if once for each micro-batch

    def weight(self, task: int) -> float:
        """w_k, and 1 for the end task."""
        return 1.0 if task == END_TASK else float(self.factors.objectives[self.sampled.index(task)])

    def coefficient(self, task: int) -> float:
        """The factor of a task's gradient in the update, surgery aside."""
        return self.factors.end_task if task == END_TASK else self.factors.aux * self.weight(task)

    def sides(self) -> Tensor:
        """The weights (2, tasks) of the tasks' gradients in g_E and in sum_k w_k g_k."""
        end_task = [float(task == END_TASK) for task in self.tasks]
        aux = [self.weight(task) * (task != END_TASK) for task in self.tasks]
        return torch.tensor([end_task, aux], dtype=torch.float64)

    def losses(self, said: Tensor) -> Losses:
        """The end task's of the tasks' losses (tasks,), and the objectives' by their weights."""
        return Losses(*(self.sides() @ said).tolist())


def within(phase: Phase, factors: Coefficients) -> Coefficients:
    """The weighting's factors, as far as the phase lets each side take part."""
    if phase.trains_end_task and phase.trains_objectives:
        return factors
    return Coefficients(float(phase.trains_end_task), float(phase.trains_objectives), factors.objectives)


def add_losses(said: dict[int, Tensor], losses: dict[int, Tensor]) -> None:
    """Add each task's loss to what was said of it."""
    for task, loss in losses.items():
        said[task] = said.get(task, torch.zeros((), device=loss.device)) + loss.detach()


def rows_of(groups: TaskBatches) -> dict[int, slice]:
    """Where each task's rows lie in the batch."""
    rows, at = {}, 0
    for task, group in groups:
        rows[task] = slice(at, at + len(group))
        at += len(group)
    return rows


def assign_tasks_to_rank(groups: TaskBatches, rank: int, world: int) -> TaskBatches:
    """The tasks of one rank, dealt largest first to whom has least."""
    loads = [0] * world
    mine: TaskBatches = []
    for task, group in sorted(groups, key=lambda pair: -len(pair[1])):
        least = loads.index(min(loads))
        loads[least] += len(group)
        if least == rank:
            mine.append((task, group))
    return mine
