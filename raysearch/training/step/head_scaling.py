"""The heads' gradients, scaled task by task."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from raysearch.methods.weighting.base import END_TASK
from raysearch.models.heads import BorrowedHead
from raysearch.models.network import Network
from raysearch.training.step.description import Step

SHARED = -3  # the task of a parameter that the heads of several tasks share


class HeadScaling:
    """Knows the task of every parameter of the heads, H numbers in all, and multiplies their gradients by it.

    A parameter that several tasks share has its gradient summed with the tasks' factors already in the backward pass.
    What objectives teach the end task's own head (`lent`) is kept apart from what the end task does.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        self.parameters = network.head_parameters()
        tasks = {id(p): END_TASK for p in network.end_task.parameters()}
        for number, head in enumerate(network.heads):
            tasks |= {id(p): SHARED if id(p) in tasks else number for p in head.parameters()}
        self.tasks = [tasks[id(p)] for p in self.parameters]  # of each parameter
        self.shared = [p for p, task in zip(self.parameters, self.tasks, strict=True) if task == SHARED]
        self.sizes = [p.numel() for p in self.parameters]
        filled = [torch.full((size,), task) for size, task in zip(self.sizes, self.tasks, strict=True)]
        task_of_number = torch.cat(filled).to(device)
        self.is_of_end_task, self.is_shared = task_of_number == END_TASK, task_of_number == SHARED  # (H,)
        is_lent = any(isinstance(head, BorrowedHead) for head in network.heads)
        self.lent = [p for p, task in zip(self.parameters, self.tasks, strict=True) if is_lent and task == END_TASK]

    def assign(self, heads: Tensor, tasks: Collection[int]) -> None:
        """Sets the gradients of these tasks' heads from those of all (H,); the optimizer leaves the others alone."""
        trained, start = {SHARED, *tasks}, 0
        for parameter, task, size in zip(self.parameters, self.tasks, self.sizes, strict=True):
            if task in trained:
                parameter.grad = heads[start : start + size].view(parameter.shape)
            start += size

    def scale_by_weight(self, step: Step, heads: Tensor) -> Tensor:
        """Returns the heads' gradient (H,) with each task's part times w_k; 0 for tasks that are not in the step."""
        return self._scale(step, heads, step.weight)

    def scale_by_coefficient(self, step: Step, heads: Tensor) -> Tensor:
        """Returns the heads' gradient (H,) with each task's part times `Step.head_coefficient`."""
        return self._scale(step, heads, step.head_coefficient)

    def _scale(self, step: Step, heads: Tensor, factor: Callable[[int], float]) -> Tensor:
        factors = {SHARED: 1.0} | {task: factor(task) for task in step.tasks}
        parts = zip(heads.split(self.sizes), self.tasks, strict=True)
        return torch.cat([part * factors.get(task, 0.0) for part, task in parts])
