"""BatchBuilder of text: end task and all sampled objectives side by side.

A representation is only a mask of who sees whom, a transform only other token ids, so one forward serves all.

    tokens (b, S) int64, after the transforms; visible (b, S, S) bool; b rows of this rank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Open, TaskBatch, labels_of
from raysearch.modalities.text.attention_masks import REPRESENTATIONS
from raysearch.modalities.text.data_sources import data_of
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.outputs import Targets
from raysearch.modalities.text.token_labels import NO_TAG
from raysearch.modalities.text.token_statistics import token_statistics
from raysearch.modalities.text.transforms import TRANSFORMS, View, Vocabulary, select, viewed
from raysearch.objectives.objective import Objective
from raysearch.objectives.user_primitives import Functions


def padded(split: Split, rows: Sequence[int], vocabulary: Vocabulary, longest: int) -> Tensor:
    """Tokens (b, S) of `rows`, cut to `longest` (the last token stays the separator) and padded alike."""
    texts = [split.row(int(row)) for row in rows]
    width = min(max(len(text) for text in texts), longest)
    tokens = torch.full((len(texts), width), vocabulary.pad, dtype=torch.long)
    for i, text in enumerate(texts):
        kept = torch.from_numpy(np.asarray(text[:width], dtype=np.int64))
        tokens[i, : len(kept)] = kept
        if len(text) > width:
            tokens[i, -1] = vocabulary.sep
    return tokens


def aligned(values: NDArray[Any], split: TextSplit, rows: Sequence[int], width: int, blank: float) -> Tensor:
    """Values (b, width) of the tokens of `rows`, cut and padded as `padded` does; `blank` where there is none."""
    found = np.full((len(rows), width), blank, dtype=values.dtype)
    for line, row in zip(found, rows, strict=True):
        begin, end = (int(at) for at in split.offsets[row : row + 2])
        line[: end - begin] = values[begin : min(end, begin + width)]
        if end - begin > width:
            line[-1] = blank
    return torch.from_numpy(found)


@dataclass(frozen=True)
class TextBatchBuilder:
    """Groups whose inputs are tokens (b, S) and who sees whom, visible (b, S, S).

    Where embeddings get noise, a third says where, noise (b, S): 0, or a number that the row's noise is drawn by.
    """

    open_split: Open
    vocabulary: Vocabulary
    longest: int  # tokens kept of a text
    probability: float  # that a token is selected by a transform
    user_functions: Functions = field(default_factory=dict)  # primitives of the user's own
    statistics: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)  # of data, as far as asked for

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """`rows` as they are, each position seeing all others."""
        tokens = padded(split, rows.tolist(), self.vocabulary, self.longest)
        real = tokens != self.vocabulary.pad
        visible = REPRESENTATIONS["bidirectional"](real, Generator())
        nothing = torch.zeros_like(real)
        return TaskBatch((tokens, visible), Targets(tokens, nothing, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """`count` examples drawn with replacement for `objective`, transformed and masked as it says."""
        split = self._data(objective)
        rows = torch.randint(len(split), (count,), generator=generator)
        tokens = padded(split, rows.tolist(), self.vocabulary, self.longest)
        selected = select(tokens, self.probability, self.vocabulary, generator)
        transform = {**TRANSFORMS, **self.user_functions.get("transform", {})}[objective.transform]
        view = viewed(tokens, selected, transform(tokens, selected, self.vocabulary, generator), self.vocabulary)
        representation = {**REPRESENTATIONS, **self.user_functions.get("representation", {})}[objective.representation]
        visible = representation(view.real, generator)
        original, asked = self._asked(objective, view, visible, split, rows)
        labels = labels_of(split, rows)
        if objective.output == "end_task" and not len(labels):
            raise ValueError(f"{objective.name}: its data has no labels")
        targets = Targets(original, asked, labels, int(asked.sum()), count)
        inputs: tuple[Tensor, ...] = (view.tokens, visible)
        if view.noise.any():
            numbers = torch.randint(1, 1 << 62, (count, 1), generator=generator)
            inputs += (view.noise * numbers,)
        return TaskBatch(inputs, targets)

    def size(self, objective: Objective) -> int:
        """Texts that the objective draws from."""
        return len(self._data(objective))

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """All task batches' inputs, padded to the longest; padding sees only itself."""
        width = max(batch.inputs[0].shape[1] for batch in task_batches)
        noisy = any(len(batch.inputs) > 2 for batch in task_batches)
        tokens, masks, noise = [], [], []
        for batch in task_batches:
            own, seen, *more_noise = batch.inputs
            length = own.shape[1]
            more = width - length
            tokens.append(F.pad(own, (0, more), value=self.vocabulary.pad))
            visible = F.pad(seen, (0, more, 0, more))
            if more:
                visible[:, range(length, width), range(length, width)] = True
            masks.append(visible)
            noise.append(F.pad(more_noise[0], (0, more)) if more_noise else torch.zeros_like(tokens[-1]))
        return (torch.cat(tokens), torch.cat(masks), *([torch.cat(noise)] if noisy else []))

    def _data(self, objective: Objective) -> Split:
        data = self.user_functions.get("data", {}).get(objective.data) or data_of(objective.data)
        return data(self.open_split)

    def _asked(
        self, objective: Objective, view: View, visible: Tensor, split: Split, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is asked for (b, S), and where (b, S) bool; in most outputs the tokens that were selected."""
        width, output = view.tokens.shape[1], objective.output
        if output == "next_token":
            return following(view, visible, self.vocabulary, -1 if objective.representation == "right_to_left" else 1)
        if output == "real_synthetic":
            return view.spoiled.long(), view.real
        if output in ("tf", "tfidf"):
            assert isinstance(split, TextSplit)
            if objective.data not in self.statistics:
                self.statistics[objective.data] = token_statistics(split, self.vocabulary)
            values = self.statistics[objective.data][output]
            return view.moved(aligned(values, split, rows.tolist(), width, 0.0)), view.selected
        if output == "extra_label" and isinstance(split, TextSplit) and split.tags is not None:
            tags = aligned(split.tags, split, rows.tolist(), width, NO_TAG).long().gather(1, view.place)
            return tags, view.real & (tags != NO_TAG)
        return view.moved(view.before), view.selected


def following(view: View, visible: Tensor, vocabulary: Vocabulary, step: int) -> tuple[Tensor, Tensor]:
    """The token `step` further on (b, S), and the positions (b, S) bool that have one and do not see it."""
    asked = torch.zeros_like(view.real)
    next_, seen = view.kept.roll(-step, 1), visible.diagonal(step, 1, 2)
    if step > 0:
        asked[:, :-1] = view.real[:, :-1] & view.real[:, 1:] & ~seen
    else:
        asked[:, 1:] = view.real[:, 1:] & view.real[:, :-1] & ~seen
    return torch.where(asked, next_, vocabulary.pad), asked
