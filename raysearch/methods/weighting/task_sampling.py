"""What a step takes part with: the sampled objectives, their coefficients, and how many rows each gets.

AANG samples its objectives once a step (Algorithm 1, https://arxiv.org/abs/2205.14082); its code, once for each
micro-batch. M micro-batches of equal weight then make one step, in which an objective has the mean of its weights over
the M sets, 0 where it was not in, and the sum of its rows. In the code each micro-batch has a mean loss of its own;
here an objective has one mean loss over all its rows in the step, the same where its weight was in every set.
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
    """The auxiliary side of a step."""

    sampled: list[int]  # in the plan's order
    coefficients: Coefficients
    batch_sizes: dict[int, int]  # of each sampled objective
    sets: tuple[tuple[int, ...], ...] = ()  # what `sampled` is the union of, if of several


def sample_tasks(weighting: Weighting, training: TrainingSettings, generator: Generator) -> SampledTasks:
    """A step's draw, one set or one for each micro-batch."""
    count = training.micro_batches if weighting.samples_every_micro_batch else 1
    sets = [weighting.sample(generator) for _ in range(count)]
    rows: Counter[int] = Counter()
    for some in sets:
        rows.update(dict(zip(some, weighting.split_batch(some, training.aux_batch_size / count), strict=True)))
    factors = [weighting.coefficients(some) for some in sets]
    if count == 1:
        return SampledTasks(sets[0], factors[0], dict(rows))
    sampled = sorted(rows)
    return SampledTasks(sampled, mean_coefficients(sampled, sets, factors), dict(rows), tuple(map(tuple, sets)))


def no_auxiliary_tasks(weighting: Weighting) -> SampledTasks:
    """The draw of a step in which no objective takes part."""
    return SampledTasks([], weighting.coefficients([]), {})


def mean_coefficients(sampled: list[int], sets: Sequence[list[int]], factors: Sequence[Coefficients]) -> Coefficients:
    """The mean of several sets' coefficients, over the objectives of any of them."""
    end_task = sum(one.end_task for one in factors) / len(factors)
    aux = sum(one.aux for one in factors) / len(factors)
    weights = torch.zeros(len(sampled), dtype=torch.float64)
    for some, one in zip(sets, factors, strict=True):
        at = torch.tensor([sampled.index(number) for number in some], dtype=torch.long)
        weights[at] += one.objectives * (one.aux / aux if aux > 0 else 1.0) / len(factors)
    return Coefficients(end_task, aux, weights)
