"""The auxiliary tasks of a step: the sampled objectives, their coefficients, and how many examples each gets.

AANG samples its objectives once a step (Algorithm 1, https://arxiv.org/abs/2205.14082); its code, once for each
micro-batch. M micro-batches of equal weight make one step, in which an objective has the mean of its weights over the M
sampled sets (0 where it is not in a set) and the sum of its examples. In the authors' code each micro-batch has a mean
loss of its own. Here an objective has one mean loss over all its examples in the step, which is the same if its weight
is the same in every set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from raysearch.methods.weighting.base import Coefficients, Weighting
from raysearch.training_settings import TrainingSettings


@dataclass(frozen=True)
class SampledTasks:
    """The auxiliary tasks of a step."""

    sampled: list[int]  # objectives, in the plan's order
    coefficients: Coefficients
    batch_sizes: dict[int, int]  # examples of each sampled objective
    sets: tuple[tuple[int, ...], ...] = ()  # the sampled set of each micro-batch; empty if there is one for the step


def sample_tasks(weighting: Weighting, training: TrainingSettings, generator: Generator) -> SampledTasks:
    """Samples the objectives of a step: one set, or one for each micro-batch."""
    count = training.micro_batches if weighting.samples_every_micro_batch else 1
    sets = [weighting.sample(generator) for _ in range(count)]
    batch_sizes: Counter[int] = Counter()
    for sampled_set in sets:
        sizes = weighting.split_batch(sampled_set, training.aux_batch_size / count)
        batch_sizes.update(dict(zip(sampled_set, sizes, strict=True)))
    coefficients = [weighting.coefficients(sampled_set) for sampled_set in sets]
    if count == 1:
        return SampledTasks(sets[0], coefficients[0], dict(batch_sizes))
    sampled = sorted(batch_sizes)
    mean = mean_coefficients(sampled, sets, coefficients)
    return SampledTasks(sampled, mean, dict(batch_sizes), tuple(map(tuple, sets)))


def no_auxiliary_tasks(weighting: Weighting) -> SampledTasks:
    """Returns the tasks of a step in which no objective takes part."""
    return SampledTasks([], weighting.coefficients([]), {})


def mean_coefficients(
    sampled: list[int], sets: Sequence[list[int]], coefficients: Sequence[Coefficients]
) -> Coefficients:
    """Returns the mean of several sets' coefficients, over `sampled`, the union of the sets."""
    count = len(coefficients)
    end_task = sum(of_set.end_task for of_set in coefficients) / count
    aux = sum(of_set.aux for of_set in coefficients) / count
    weights = torch.zeros(len(sampled), dtype=torch.float64)
    for sampled_set, of_set in zip(sets, coefficients, strict=True):
        positions = torch.tensor([sampled.index(number) for number in sampled_set], dtype=torch.long)
        weights[positions] += of_set.objectives * (of_set.aux / aux if aux > 0 else 1.0) / count
    return Coefficients(end_task, aux, weights)
