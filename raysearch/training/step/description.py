"""The immutable description of one optimization step (tasks, coefficients, batch sizes), and its losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raysearch.methods.schedule.phases import Phase
from raysearch.methods.weighting.base import END_TASK, Coefficients


class Losses(NamedTuple):
    """Mean losses of a step over all ranks, nat."""

    end_task: float
    aux: float  # sum_k w_k L_k


@dataclass(frozen=True)
class Step:
    """The tasks of a step and their coefficients; only the coefficients may change after the forward pass."""

    number: int  # from 1
    tasks: list[int]  # END_TASK, where it takes part or is observed, then the sampled objectives
    sampled: list[int]
    coefficients: Coefficients
    rows: dict[int, int]  # examples of each sampled objective
    sets: tuple[tuple[int, ...], ...] = ()  # the sets whose union was sampled, if each micro-batch has its own

    def weight(self, task: int) -> float:
        """Returns w_k, and 1 for the end task."""
        return 1.0 if task == END_TASK else float(self.coefficients.objectives[self.sampled.index(task)])

    def coefficient(self, task: int) -> float:
        """Returns the factor of a task's gradient in the update without surgery: c_E, or c_aux w_k."""
        return self.coefficients.end_task if task == END_TASK else self.coefficients.aux * self.weight(task)

    def nonzero_coefficient(self, task: int) -> float:
        """Returns a task's coefficient, or 1 if that is 0: the scale of its gradient in its own head and in a surgery.

        So the head of a task that does not move the body still learns.
        """
        return self.coefficient(task) or 1.0

    def side_weights(self) -> Tensor:
        """Returns the weights (2, tasks) of the tasks' gradients in the two sides g_E and sum_k w_k g_k."""
        end_task = [float(task == END_TASK) for task in self.tasks]
        aux = [self.weight(task) * (task != END_TASK) for task in self.tasks]
        return torch.tensor([end_task, aux], dtype=torch.float64)

    def losses(self, task_losses: Tensor) -> Losses:
        """Returns the two sides' losses from those of all tasks, (tasks,)."""
        return Losses(*(self.side_weights() @ task_losses).tolist())


def coefficients_in(phase: Phase, coefficients: Coefficients) -> Coefficients:
    """Returns the weighting's coefficients, as far as the phase lets both sides take part."""
    if phase.trains_end_task and phase.trains_objectives:
        return coefficients
    return Coefficients(float(phase.trains_end_task), float(phase.trains_objectives), coefficients.objectives)
