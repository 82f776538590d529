"""The network of table tasks: a multilayer perceptron that gives each row one vector, and the heads on it.

features   (b, d) normalised
hidden     (b, 1, F) the last layer, which the end task's linear head reads
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from raysearch.modalities.table.taxonomy import TAXONOMY
from raysearch.models.heads import LabelHead, PooledHead
from raysearch.models.network import Network
from raysearch.plan import TrialPlan

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def perceptron(model: Mapping[str, Any], features: int, dropout: float) -> nn.Sequential:
    """Returns the declared layers, each followed by its activation and dropout."""
    widths: Sequence[int] = model["mlp"]
    layers: list[nn.Module] = []
    for before, after in zip([features, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), ACTIVATIONS[model["activation"]](), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class TableNetwork(Network):
    """A body for rows of numbers and its heads."""

    end_task: PooledHead

    def __init__(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        dropout, classes = plan.training.dropout, len(metadata["labels"])
        self.body = perceptron(plan.model, len(metadata["features"]), dropout)
        self.features = int(plan.model["mlp"][-1])
        self.end_task = PooledHead(nn.Linear(self.width, classes))
        self.heads = nn.ModuleList()
        for objective in plan.objectives:
            output = TAXONOMY.find("output", objective.output)
            assert output is not None
            if output.head == "labels":
                self.heads.append(LabelHead(self.width, classes, nn.ReLU, dropout))
            elif output.head == "features":
                self.heads.append(nn.Linear(self.width, len(metadata["features"])))
            elif output.head == "extra_labels":
                self.heads.append(nn.Linear(self.width, len(metadata["extra"][objective.data]["labels"])))
            else:
                self.heads.append(nn.Linear(self.width, int(output.head)))

    @property
    def width(self) -> int:
        """F, the size of a row's vector."""
        return self.features

    def hidden(self, features: Tensor) -> Tensor:
        """Returns the rows' vectors (b, 1, F)."""
        vectors: Tensor = self.body(features)
        return vectors[:, None]
