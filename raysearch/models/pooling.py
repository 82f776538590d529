"""From the states of an example's positions to one vector, and the classifier that reads it.

    hidden (b, S, H)   the body's last layer
    real   (b, S)      bool: the position holds something, not padding; None where every position does

`first` is the state at position 0, `mean` and `max` are taken over the real positions. Padding has no weight in them,
so that a vector does not depend on how the batch was padded (sentence-transformers; Reimers and Gurevych 2019,
https://arxiv.org/abs/1908.10084).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def pool(hidden: Tensor, real: Tensor | None, pooling: str) -> Tensor:
    """Returns the examples' vectors (b, H); every example has at least one real position."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "mean":
        if real is None:
            return hidden.mean(dim=1)
        weights = real.to(hidden.dtype)
        mean: Tensor = (hidden * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
        return mean
    assert pooling == "max"
    if real is not None:
        hidden = hidden.masked_fill(~real[..., None], float("-inf"))
    return hidden.amax(dim=1)


def normalise(vectors: Tensor) -> Tensor:
    """Returns the vectors (b, H) scaled to the length sqrt(H), so that a component is about 1 in size."""
    scale: float = vectors.shape[-1] ** 0.5
    return F.normalize(vectors, dim=-1) * scale


class PooledClassifier(nn.Module):
    """Pooling, dropout and one linear layer: it maps hidden states (b, S, H) to logits (b, C)."""

    def __init__(self, width: int, classes: int, pooling: str, dropout: float, *, normalises: bool = False) -> None:
        super().__init__()
        self.pooling, self.normalises = pooling, normalises
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(width, classes)

    def vectors(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the examples' vectors (b, H)."""
        pooled = pool(hidden, real, self.pooling)
        return normalise(pooled) if self.normalises else pooled

    def forward(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the logits (b, C)."""
        logits: Tensor = self.linear(self.dropout(self.vectors(hidden, real)))
        return logits
