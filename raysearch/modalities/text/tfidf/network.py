"""The network and the batches of a bag of words.

features   (b, V) float32, dense for the b texts of a batch alone; the head is fitted to a sparse matrix of counts
hidden     (b, 1, V) the features, unchanged: the body has no parameters
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Generator, Tensor, nn

from raysearch.data.prepared import Split
from raysearch.modalities.batch import Output, Targets, TaskBatch, labels_of
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.tfidf.features import Matrix, TextFeatures, features_of
from raysearch.models.heads import PooledHead
from raysearch.models.network import Network
from raysearch.objectives.objective import Objective
from raysearch.plan import TrialPlan


class TfidfNetwork(Network):
    """A linear classifier on TF-IDF features."""

    end_task: PooledHead

    def __init__(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        self.features = features_of(plan).count
        self.body = nn.Identity()
        self.end_task = PooledHead(nn.Linear(self.features, len(metadata["labels"])))
        self.heads = nn.ModuleList()

    @property
    def width(self) -> int:
        """V, the number of features."""
        return self.features

    def hidden(self, features: Tensor) -> Tensor:
        """Returns the features as (b, 1, V)."""
        return features[:, None]

    def head_inputs(self, batches: Any, split: Split) -> Matrix:
        """Returns the features of every text of a split, (n, V)."""
        return cast(TfidfBatchBuilder, batches).matrix(split)


@dataclass(frozen=True)
class TfidfBatchBuilder:
    """A builder of task batches whose inputs are features (b, V); each split is transformed once."""

    features: TextFeatures
    matrices: dict[int, tuple[Split, Matrix]] = field(default_factory=dict)  # by the identity of the split

    def matrix(self, split: Split) -> Matrix:
        """Returns the features of every text of a split, (n, V)."""
        if id(split) not in self.matrices:
            texts = cast(TextSplit, split).texts_of(range(len(split)))
            self.matrices[id(split)] = split, self.features.recall(texts)
        return self.matrices[id(split)][1]

    def cache_rows(self, split: Split, rows: NDArray[np.int64]) -> None:
        """Does nothing: each split is transformed once."""

    def end_task_batch(self, split: Split, rows: Tensor) -> TaskBatch:
        """Returns the examples `rows`."""
        chosen = self.matrix(split)[rows.numpy()]
        features = torch.from_numpy(chosen.toarray() if sparse.issparse(chosen) else chosen).float()
        nothing = torch.zeros(len(rows), 1, dtype=torch.bool)
        return TaskBatch((features,), Targets(nothing, nothing, labels_of(split, rows), 0, len(rows)))

    def objective_batch(self, objective: Objective, count: int, generator: Generator) -> TaskBatch:
        """Raises ValueError: a bag of words has no auxiliary objectives."""
        del count, generator
        raise _no_objectives(objective)

    def output(self, objective: Objective) -> Output:
        """Raises ValueError: a bag of words has no auxiliary objectives."""
        raise _no_objectives(objective)

    def size(self, objective: Objective) -> int:
        """Raises ValueError: a bag of words has no auxiliary objectives."""
        raise _no_objectives(objective)

    def collate(self, task_batches: Sequence[TaskBatch]) -> tuple[Tensor, ...]:
        """Returns all task batches' features, one after another."""
        return (torch.cat([batch.inputs[0] for batch in task_batches]),)


def _no_objectives(objective: Objective) -> ValueError:
    return ValueError(f"{objective.name}: a bag of words has no auxiliary objectives")
