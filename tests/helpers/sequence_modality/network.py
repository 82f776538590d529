"""The network of sequence tasks: a recurrent body whose last state the heads read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers.sequence_modality.taxonomy import TAXONOMY
from torch import Tensor, nn

from raysearch.models.heads import PooledHead
from raysearch.models.network import Network
from raysearch.plan import TrialPlan


class SequenceNetwork(Network):
    """A body for sequences and its heads."""

    def __init__(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        self.features = int(plan.model["gru"])
        self.body = nn.GRU(1, self.features, batch_first=True)
        self.end_task = PooledHead(nn.Linear(self.features, len(metadata["labels"])))
        self.heads = nn.ModuleList()
        for objective in plan.objectives:
            output = TAXONOMY.find("output", objective.output)
            assert output is not None
            numbers = metadata["length"] if output.head == "values" else int(output.head)
            self.heads.append(nn.Linear(self.features, numbers))

    @property
    def width(self) -> int:
        """F, the size of a sequence's vector."""
        return self.features

    def hidden(self, values: Tensor) -> Tensor:
        """Returns the sequences' vectors (b, 1, F)."""
        states, _ = self.body(values[..., None])
        last: Tensor = states[:, -1:]
        return last
