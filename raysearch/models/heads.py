"""Heads on hidden states: of Hugging Face models, over the vocabulary, and for labels.

A head over the vocabulary is that of the masked language model: a dense layer, a norm, and a decoder (V, H). AANG
keeps a whole copy for each objective, which is 39 M parameters each with RoBERTa-base. The setting `lm_head` decides
which parts each objective has for itself:

    tied      dense layer, norm and bias; the decoder is the body's embedding table
    shared    nothing: all objectives with the same output share one tied head
    low_rank  as tied, plus a correction B A of rank r to the decoder, A (r, H) and B (V, r), initially 0
              (Hu et al. 2021, https://arxiv.org/abs/2106.09685)
    untied    a copy of everything
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from raysearch.models.pooling import pool

if TYPE_CHECKING:
    from raysearch.models.network import Network


class PrecomputedBody(nn.Module):
    """A replacement for the body of a Hugging Face model that returns hidden states computed before."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        """Returns the hidden states and ignores all arguments."""
        assert self.hidden is not None
        pooled = self.pooler(self.hidden) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=self.hidden, pooler_output=pooled)


class HuggingFaceHead(nn.Module):
    """A Hugging Face model without its body: it maps hidden states to logits."""

    def __init__(self, model: PreTrainedModel, pooler: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        setattr(model, model.base_model_prefix, PrecomputedBody(pooler))

    def forward(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the logits of `hidden` (B, S, H): (B, C) for classification, (B, S, V) for a language model.

        `real` (B, S) is for heads that pool over positions.
        """
        body = getattr(self.model, self.model.base_model_prefix)
        body.hidden = hidden
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        try:
            mask = None if real is None else real.long()
            logits: Tensor = self.model(input_ids=tokens, attention_mask=mask).logits
        finally:
            body.hidden = None
        return logits


class LowRank(nn.Module):
    """A decoder with a low-rank correction, which is 0 initially."""

    def __init__(self, decoder: nn.Linear, rank: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.down = nn.Linear(decoder.in_features, rank, bias=False)
        self.up = nn.Linear(rank, decoder.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the logits (..., V) of `hidden` (..., H)."""
        logits: Tensor = self.decoder(hidden) + self.up(self.down(hidden))
        return logits


class DenoiseHead(nn.Module):
    """A head over the vocabulary: it maps selected positions (n, H) to logits (n, V)."""

    def __init__(
        self, template: HuggingFaceHead, embedding: nn.Parameter, variant: str = "tied", rank: int = 0
    ) -> None:
        super().__init__()
        self.head = copy.deepcopy(template, {id(embedding): embedding})  # a copy of everything but the embeddings
        self.tie(self.head, embedding)
        decoder = self.head.model.get_output_embeddings()
        if variant == "untied":
            decoder.weight = nn.Parameter(embedding.detach().clone())
        elif variant == "low_rank":
            parents = [
                (parent, name) for parent in self.head.modules() for name, m in parent.named_children() if m is decoder
            ]
            for parent, name in parents:
                setattr(parent, name, LowRank(decoder, rank))

    @staticmethod
    def tie(head: HuggingFaceHead, embedding: nn.Parameter) -> None:
        """Makes the embeddings the weight of the head's decoder. Raises ValueError for a head without a decoder."""
        decoder = head.model.get_output_embeddings()
        if decoder is None:
            raise ValueError(f"{type(head.model).__name__} has no output embeddings to tie")
        decoder.weight = embedding

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the logits (n, V) of the positions."""
        logits: Tensor = self.head(hidden[None])[0]
        return logits


class LabelHead(nn.Module):
    """A head of two layers: it maps the examples' vectors (b, H) to logits (b, C).

    A vector is the state at position 0, or what `pooling` names (`models.pooling`).
    """

    def __init__(
        self, width: int, classes: int, activation: type[nn.Module], dropout: float, pooling: str = "first"
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, width), activation(), nn.Dropout(dropout), nn.Linear(width, classes)
        )

    def vectors(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        """Returns what the head reads of hidden states (b, S, H): the examples' vectors (b, H)."""
        return pool(hidden, real, self.pooling)

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns the logits (b, C)."""
        logits: Tensor = self.layers(vectors)
        return logits


class PooledHead(nn.Module):
    """A linear classifier: it maps hidden states (b, 1, F) to logits (b, C)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the logits (b, C)."""
        logits: Tensor = self.linear(hidden[:, 0])
        return logits


class BorrowedHead(nn.Module):
    """The end task's head, lent to an objective: the objective has no parameters of its own, and teaches that head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = (network,)  # a tuple, so that the network is no module of its own head

    def forward(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the end task's logits (b, C) of hidden states (b, S, H)."""
        return self._network[0].logits(hidden, real)

    def vectors(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the examples' vectors (b, H)."""
        return self._network[0].vectors(hidden, real)
