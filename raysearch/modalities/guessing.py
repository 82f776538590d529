"""What objectives learn from besides their data: a teacher's guesses, and the encoder as it was before training.

The protocols that batch builders use; `training.teachers` has the teachers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import labels_of
from raysearch.objectives.primitive import BORROWED, Primitive


@dataclass(frozen=True)
class Guesses:
    """What a teacher says of examples."""

    probabilities: Tensor  # (b, C)
    trust: Tensor  # (b,) how much each counts, from 0


class Teacher(Protocol):
    """Anything that guesses the end task's labels of examples."""

    def draw(self, split: Split, count: int, generator: Generator) -> Tensor:
        """Returns the numbers (count,) of examples of a split that are worth a guess, drawn with replacement."""

    def guess(self, split: Split, rows: Tensor) -> Guesses:
        """Returns what the teacher says of the examples `rows` as they are, without a transform."""


class Anchors(Protocol):
    """The vectors of examples by the encoder as it was before training."""

    def draw(self, split: Split, count: int, generator: Generator) -> Tensor:
        """Returns the numbers (count,) of examples of a split that have a vector, drawn with replacement."""

    def vectors(self, split: Split, rows: Tensor) -> Tensor:
        """Returns the vectors (b, H) of examples of a split."""


@dataclass(frozen=True)
class Tutors:
    """What the objectives of a trial learn from besides the data: a teacher, and the encoder as it was."""

    teacher: Teacher | None = None
    anchors: Anchors | None = None
    pools: Mapping[int, Tensor] = field(default_factory=dict)  # rows (R,) that views come from, by split id


def draw_label_pairs(labels: Tensor, count: int, generator: Generator) -> Tensor:
    """Returns the numbers of `count` examples, in pairs of one label each; the labels differ as far as they can.

    labels (n,) are classes. Pairs of a label with one example have it twice; an odd `count` ends with half a pair.
    """
    classes = labels.unique()
    pairs = -(-count // 2)
    order = [torch.randperm(len(classes), generator=generator) for _ in range(-(-pairs // len(classes)))]
    chosen = classes[torch.cat(order)[:pairs]]
    rows = []
    for label in chosen.tolist():
        of_label = (labels == label).nonzero()[:, 0]
        pair = of_label[torch.randperm(len(of_label), generator=generator)[:2]]
        rows.append(pair if len(pair) == 2 else pair.repeat(2))
    return torch.cat(rows)[:count]


def draw_rows(output: Primitive | None, tutors: Tutors, split: Split, count: int, generator: Generator) -> Tensor:
    """Returns the numbers (count,) of the examples of a batch for an objective's output.

    Most are uniform; where a teacher guesses, it says which examples are worth it, and pairs of one label come
    together. Raises ValueError where a teacher or classes are missing.
    """
    if output is not None and output.needs_guesses:
        return _teacher(output, tutors).draw(split, count, generator)
    if output is not None and output.needs_anchors:
        return _anchors(output, tutors).draw(split, count, generator)
    if output is not None and output.draws_label_pairs:
        labels = labels_of(split, torch.arange(len(split)))
        if not len(labels) or labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(f"output {output.name!r} compares classes, and its data has none")
        return draw_label_pairs(labels, count, generator)
    pool = tutors.pools.get(id(split)) if output is not None and output.head == BORROWED else None
    drawn = torch.randint(len(split) if pool is None else len(pool), (count,), generator=generator)
    return drawn if pool is None else pool[drawn]


def tutored_targets(output: Primitive | None, tutors: Tutors, split: Split, rows: Tensor) -> dict[str, Tensor]:
    """Returns the fields of `Targets` that an output reads of teacher and encoder, of each view of each example."""
    if output is None:
        return {}
    fields: dict[str, Tensor] = {}
    if output.needs_guesses:
        guesses = _teacher(output, tutors).guess(split, rows)
        fields |= {"guesses": guesses.probabilities, "trust": guesses.trust}
    if output.needs_anchors:
        fields["anchors"] = _anchors(output, tutors).vectors(split, rows)
    return {name: values.repeat_interleave(output.views, dim=0) for name, values in fields.items()}


def group_of(output: Primitive | None, examples: int) -> int:
    """Returns how many examples of a batch stay together when it is divided."""
    if output is None:
        return 1
    return examples if output.is_coupled else output.views


def _teacher(output: Primitive, tutors: Tutors) -> Teacher:
    if tutors.teacher is None:
        raise ValueError(f"output {output.name!r} needs a teacher")
    return tutors.teacher


def _anchors(output: Primitive, tutors: Tutors) -> Anchors:
    if tutors.anchors is None:
        raise ValueError(f"output {output.name!r} needs the encoder as it was before training")
    return tutors.anchors
