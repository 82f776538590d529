"""Text batches: the end task and all sampled objectives in one forward.

A representation is only a mask of which position sees which, a transform only other token ids, so one forward serves
all.

    tokens (b, S) int64, after the transforms; visible (b, S, S) bool; b examples of this rank
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy import sparse
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.errors import SpecError
from raysearch.modalities.batch import OpenSplit, Output, Targets, TaskBatch, labels_of
from raysearch.modalities.guessing import Tutors, draw_rows, group_of, tutored_targets
from raysearch.modalities.text.primitives.attention_masks import bidirectional
from raysearch.modalities.text.primitives.outputs import Predicted, Statistics, TextExamples, selected_tokens
from raysearch.modalities.text.primitives.token_statistics import token_counts
from raysearch.modalities.text.primitives.transforms import Vocabulary, make_view, select, vocabulary_of
from raysearch.modalities.text.state_files import SplitStates
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.modalities.text.tokenizer import load_tokenizer
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import BORROWED, STAGES, load_target
from raysearch.objectives.user_primitives import Functions, load_functions
from raysearch.plan import TrialPlan


def pad_texts(split: Split, rows: Sequence[int], vocabulary: Vocabulary, longest: int) -> Tensor:
    """Returns the tokens (b, S) of `rows`, padded to the same length.

    A text is cut to `longest` tokens; the last of them stays the separator.
    """
    texts = [split.row(int(row)) for row in rows]
    width = min(max(len(text) for text in texts), longest)
    tokens = torch.full((len(texts), width), vocabulary.pad, dtype=torch.long)
    for i, text in enumerate(texts):
        beginning = torch.from_numpy(np.asarray(text[:width], dtype=np.int64))
        tokens[i, : len(beginning)] = beginning
        if len(text) > width:
            tokens[i, -1] = vocabulary.sep
    return tokens


class CachedStates(Protocol):
    """The cached states of splits (`text.states.StateCache`)."""

    def __call__(self, split: Split) -> SplitStates | None:
        """Returns the states of a split; None if they are not cached."""

    def register(self, split: Split, rows: NDArray[np.int64]) -> None:
        """Caches the states of some texts of an unlabelled split."""


@dataclass(frozen=True)
class TextBatchBuilder:
    """A builder of task batches whose inputs are tokens (b, S) and the mask visible (b, S, S).

    Where embeddings get noise, a third input says where, noise (b, S): 0, or the seed of the example's noise. Batches
    of the end task may have their cached states (b, S, H) as a fourth, and as a fifth that they are there (b,): all
    true. Collated, the fourth is of the examples that have states, and the fifth says which these are.
    """

    open_split: OpenSplit
    vocabulary: Vocabulary
    longest: int  # tokens kept of a text
    probability: float  # that a token is selected by a transform
    user_functions: Functions = field(default_factory=dict)  # the user's primitives
    statistics: Statistics = field(default_factory=dict)  # of data, computed when they are first needed
    opened: dict[str, Split] = field(default_factory=dict)  # data that objectives draw from, by name
    states: CachedStates | None = None  # what is cached of a split, if anything is
    tutors: Tutors = field(default_factory=Tutors)
    tokenizer: Path | None = None  # the folder of the prepared data's tokenizer

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """Returns the examples `rows` unchanged, each position seeing all others."""
        cached = self.states(split) if self.states is not None else None
        longest = 1 if cached is not None and cached.is_pooled else self.longest
        tokens = pad_texts(split, rows.tolist(), self.vocabulary, longest)
        real = tokens != self.vocabulary.pad
        visible = bidirectional(real, Generator())
        nothing = torch.zeros_like(real)
        targets = Targets(tokens, nothing, labels_of(split, rows), 0, len(rows), real)
        inputs: tuple[Tensor, ...] = (tokens, visible)
        if cached is not None:
            states, is_cached = cached.read(rows, tokens.shape[1]), torch.ones(len(rows), dtype=torch.bool)
            inputs += (torch.zeros_like(tokens), states, is_cached)
        return TaskBatch(inputs, targets)

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """Returns `count` examples for `objective`, drawn with replacement, transformed and masked.

        An output with two views has each example twice, one after the other. Raises ValueError for the end task's
        output on data without labels, and for an output that needs a teacher where there is none.
        """
        split, output = self.split_of(objective), TAXONOMY.find("output", objective.output)
        views = output.views if output is not None else 1
        rows = draw_rows(output, self.tutors, split, count, generator)
        tutored = tutored_targets(output, self.tutors, split, rows)
        rows = rows.repeat_interleave(views)
        tokens = pad_texts(split, rows.tolist(), self.vocabulary, self.longest)
        selected = self._select(objective, tokens, generator)
        transform = self._functions["transform"][objective.transform]
        view = make_view(tokens, selected, transform(tokens, selected, self.vocabulary, generator), self.vocabulary)
        visible = self._functions["representation"][objective.representation](view.real, generator)
        examples = TextExamples(objective, split, rows, view, visible, self.vocabulary, self.statistics)
        predicted, positions = self._predicted(objective)(examples)
        labels = labels_of(split, rows)
        if objective.output == "end_task" and not len(labels):
            raise ValueError(f"{objective.name}: its data has no labels")
        targets = Targets(predicted, positions, labels, int(positions.sum()), count, view.real, **tutored)
        inputs: tuple[Tensor, ...] = (view.tokens, visible)
        if view.noise.any():
            seeds = torch.randint(1, 1 << 62, (len(rows), 1), generator=generator)
            inputs += (view.noise * seeds,)
        elif output is not None and output.head == BORROWED and torch.equal(view.tokens, tokens):
            inputs += self._cached_states(split, rows, view.tokens, visible)
        return TaskBatch(inputs, targets, group=group_of(output, len(rows)))

    def cache_rows(self, split: Split, rows: NDArray[np.int64]) -> None:
        """Caches the states of texts of an unlabelled split, where the frozen layers' states are cached."""
        if self.states is not None and split.labels is None:
            self.states.register(split, rows)

    def with_tutors(self, tutors: Tutors) -> TextBatchBuilder:
        """Returns the same builder with a teacher, and with the encoder as it was before training."""
        return replace(self, tutors=tutors)

    def keys_of(self, examples: Sequence[str]) -> list[bytes]:
        """Returns the tokens of texts as a split stores them, as bytes; empty texts have none. Raises SpecError."""
        if self.tokenizer is None:
            raise SpecError("texts cannot be compared with the prepared ones, because there is no tokenizer")
        tokens, offsets = load_tokenizer(self.tokenizer).encode([example.strip() for example in examples])
        return [tokens[begin:end].tobytes() for begin, end in itertools.pairwise(offsets)]

    def features(self, split: Split, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Returns how often each token and each pair of neighbouring tokens stands in texts of a split."""
        return token_counts([split.row(row) for row in rows.tolist()], self.vocabulary)

    def _cached_states(self, split: Split, rows: Tensor, tokens: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
        """Returns the inputs that unchanged texts (b, S) have besides, where their states are cached."""
        cached = self.states(split) if self.states is not None else None
        real = tokens != self.vocabulary.pad
        if cached is None or cached.is_pooled or not torch.equal(visible, bidirectional(real, Generator())):
            return ()
        if any(row not in cached.places for row in rows.tolist()):
            return ()
        states = cached.read(rows, tokens.shape[1])
        return torch.zeros_like(tokens), states, torch.ones(len(rows), dtype=torch.bool)

    def _select(self, objective: Objective, tokens: Tensor, generator: Generator) -> Tensor:
        """Returns the positions (b, S) bool that the objective's transform may change."""
        transform = TAXONOMY.find("transform", objective.transform)
        if transform is None or not transform.selects:
            return select(tokens, self.probability, self.vocabulary, generator)
        selected: Tensor = load_target(transform.selects)(tokens, self.vocabulary, generator)
        return selected

    def output(self, objective: Objective) -> Output:
        """Returns the loss function of the objective's output."""
        return self._functions["output"][objective.output]

    def size(self, objective: Objective) -> int:
        """Returns how many texts the objective draws from."""
        return len(self.split_of(objective))

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """Returns all task batches' inputs, padded to the longest; padding sees only itself."""
        width = max(batch.inputs[0].shape[1] for batch in task_batches)
        noisy = any(len(batch.inputs) > 2 for batch in task_batches)
        tokens, masks, noises = [], [], []
        cached: list[Tensor] = []
        for batch in task_batches:
            short, mask, *noise = batch.inputs[:3]
            if len(batch.inputs) > 3:
                cached.append(F.pad(batch.inputs[3], (0, 0, 0, width - short.shape[1])))
            length = short.shape[1]
            missing = width - length
            tokens.append(F.pad(short, (0, missing), value=self.vocabulary.pad))
            visible = F.pad(mask, (0, missing, 0, missing))
            if missing:
                visible[:, range(length, width), range(length, width)] = True
            masks.append(visible)
            noises.append(F.pad(noise[0], (0, missing)) if noise else torch.zeros_like(tokens[-1]))
        collated = (torch.cat(tokens), torch.cat(masks), *([torch.cat(noises)] if noisy else []))
        if not cached:
            return collated
        has_states = [
            torch.full((len(batch),), len(batch.inputs) > 3, device=batch.inputs[0].device) for batch in task_batches
        ]
        with torch.autocast(tokens[0].device.type, enabled=False):  # which refuses half precision on a CPU
            states = torch.cat(cached)
        return (*collated, states, torch.cat(has_states))

    @cached_property
    def _functions(self) -> dict[str, dict[str, Callable[..., Any]]]:
        """The functions of all primitives, by stage and name."""
        return {stage: {**TAXONOMY.functions(stage), **self.user_functions.get(stage, {})} for stage in STAGES}

    def _predicted(self, objective: Objective) -> Callable[[TextExamples], Predicted]:
        """Returns the function that returns what the objective's output predicts."""
        output = TAXONOMY.find("output", objective.output)  # None for one of the user's
        function: Callable[[TextExamples], Predicted] = selected_tokens
        return load_target(output.labels) if output is not None and output.labels else function

    def split_of(self, objective: Objective) -> Split:
        """Opens the data that an objective draws from; `extra_NAME` is the split of that name."""
        if objective.data not in self.opened:
            source = self._functions["data"].get(objective.data)
            self.opened[objective.data] = (
                source(self.open_split) if source is not None else self.open_split(objective.data)
            )
        return self.opened[objective.data]


def text_batches(plan: TrialPlan, metadata: Mapping[str, Any], open_split: OpenSplit) -> TextBatchBuilder:
    """Returns the builder of a trial's batches."""
    training, functions = plan.training, load_functions(plan.primitives)
    vocabulary = vocabulary_of(metadata)
    tokenizer = Path(plan.task["data"]) / "tokenizer"
    return TextBatchBuilder(
        open_split, vocabulary, training.max_length, training.select_probability, functions, tokenizer=tokenizer
    )
