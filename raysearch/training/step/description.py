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
    has_surgery: bool = False

    def weight(self, task: int) -> float:
        """Returns w_k, and 1 for the end task."""
        return 1.0 if task == END_TASK else float(self.coefficients.objectives[self.sampled.index(task)])

    def coefficient(self, task: int) -> float:
        """Returns the factor of a task's gradient in the update without surgery: c_E, or c_aux w_k."""
        return self.coefficients.end_task if task == END_TASK else self.coefficients.aux * self.weight(task)

    def head_coefficient(self, task: int) -> float:
        """Returns the scale of a task's gradient in its own head, and of its row in a surgery: its coefficient.

        It is 1 for an end task with c_E = 0 that a surgery compares objectives with: there is something to compare
        with only if its head learns.
        """
        coefficient = self.coefficient(task)
        return 1.0 if task == END_TASK and self.has_surgery and coefficient == 0 else coefficient

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
