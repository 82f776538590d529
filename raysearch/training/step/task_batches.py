"""The batches of a step's tasks: how they are drawn, and which part of them a rank computes.

All ranks draw the same batches from the same generator. A rank then takes either its slice of every task's examples,
or all examples of some of the tasks.
"""

from __future__ import annotations

from torch import Generator

from raysearch.distributed import ProcessGroup
from raysearch.methods.weighting.base import END_TASK
from raysearch.modalities.batch import TaskBatch
from raysearch.rng import ShuffledRows
from raysearch.training.context import TrainingContext
from raysearch.training.step.description import Step

TaskBatches = list[tuple[int, TaskBatch]]  # each with the number of its task


class StepBatches:
    """Draws the batches of steps from the training split and from the objectives' data."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.order = ShuffledRows(len(context.splits("train")), context.plan.seed)

    def draw(self, step: Step, generator: Generator) -> TaskBatches:
        """Returns the end task's batch and each objective's share of the auxiliary batch."""
        return [(task, self._draw_task(task, step, generator)) for task in step.tasks]

    def _draw_task(self, task: int, step: Step, generator: Generator) -> TaskBatch:
        context = self.context
        if task == END_TASK:
            size = context.training.batch_size
            rows = self.order.rows((step.number - 1) * size, size)
            return context.batches.end_task_batch(context.splits("train"), rows)
        return context.batches.objective_batch(context.plan.objectives[task], step.rows[task], generator)


def slice_for_rank(batches: TaskBatches, process_group: ProcessGroup) -> TaskBatches:
    """Returns this rank's slice of every task's examples, on its device."""
    rank, world, device = process_group.rank, process_group.world, process_group.device
    return [(task, batch.slice(rank, world).to(device)) for task, batch in batches]


def tasks_of_rank(batches: TaskBatches, process_group: ProcessGroup) -> TaskBatches:
    """Returns the whole batches of this rank's tasks, on its device.

    Norms and inner products of a task's gradient can then be computed without other ranks.
    """
    assigned = assign_tasks_to_rank(batches, process_group.rank, process_group.world)
    return [(task, batch.to(process_group.device)) for task, batch in assigned]


def assign_tasks_to_rank(batches: TaskBatches, rank: int, world: int) -> TaskBatches:
    """Returns the tasks of one rank; tasks go to the least loaded rank, largest batches first."""
    loads = [0] * world
    assigned: TaskBatches = []
    for task, batch in sorted(batches, key=lambda pair: -len(pair[1])):
        least = loads.index(min(loads))
        loads[least] += len(batch)
        if least == rank:
            assigned.append((task, batch))
    return assigned


def row_slices(batches: TaskBatches) -> dict[int, slice]:
    """Returns where each task's examples lie in the collated batch."""
    slices, start = {}, 0
    for task, batch in batches:
        slices[task] = slice(start, start + len(batch))
        start += len(batch)
    return slices


def split_sides(batches: TaskBatches) -> tuple[TaskBatches, TaskBatches]:
    """Returns the end task's batch, and those of the objectives."""
    end_task = [(task, batch) for task, batch in batches if task == END_TASK]
    return end_task, [(task, batch) for task, batch in batches if task != END_TASK]
