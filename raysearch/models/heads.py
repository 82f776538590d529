"""Heads on hidden states: of Hugging Face models, over the vocabulary, and of labels.

A head over the vocabulary is the masked-LM model's: a dense layer, a norm, and a decoder (V, H). AANG keeps a whole
copy for each objective, 39 M parameters apiece with RoBERTa-base. `lm_head` says what an objective has of its own:

    tied      dense layer, norm and bias; the decoder is the table of embeddings, which is of the body
    shared    nothing: one tied head for all objectives with the same output
    low_rank  as tied, and to the decoder a correction B A of rank r, A (r, H) and B (V, r), at first 0
              (Hu et al. 2021, https://arxiv.org/abs/2106.09685)
    untied    a copy of all
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class PrecomputedBody(nn.Module):
    """Stands where a Hugging Face model has its body, and hands on hidden states that are already there."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPooling:
        """The hidden states, whatever is asked for."""
        assert self.hidden is not None
        pooled = self.pooler(self.hidden) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=self.hidden, pooler_output=pooled)


class HuggingFaceHead(nn.Module):
    """A Hugging Face model without its body: hidden states in, logits out."""

    def __init__(self, model: PreTrainedModel, pooler: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        setattr(model, model.base_model_prefix, PrecomputedBody(pooler))

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of `hidden` (B, S, H): (B, C) for classification, (B, S, V) for a language model."""
        given = getattr(self.model, self.model.base_model_prefix)
        given.hidden = hidden
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        try:
            logits: Tensor = self.model(input_ids=tokens).logits
        finally:
            given.hidden = None
        return logits


class LowRank(nn.Module):
    """A decoder and a correction to it of a low rank, 0 at first."""

    def __init__(self, decoder: nn.Linear, rank: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.down = nn.Linear(decoder.in_features, rank, bias=False)
        self.up = nn.Linear(rank, decoder.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of `hidden` (..., H), (..., V)."""
        logits: Tensor = self.decoder(hidden) + self.up(self.down(hidden))
        return logits


class DenoiseHead(nn.Module):
    """Vocabulary logits (n, V) of selected positions (n, H)."""

    def __init__(self, template: HuggingFaceHead, embedding: nn.Parameter, kind: str = "tied", rank: int = 0) -> None:
        super().__init__()
        self.head = copy.deepcopy(template, {id(embedding): embedding})  # of a tied one, all but the embeddings
        self.tie(self.head, embedding)
        decoder = self.head.model.get_output_embeddings()
        if kind == "untied":
            decoder.weight = nn.Parameter(embedding.detach().clone())
        elif kind == "low_rank":
            places = [
                (around, name) for around in self.head.modules() for name, m in around.named_children() if m is decoder
            ]
            for around, name in places:
                setattr(around, name, LowRank(decoder, rank))

    @staticmethod
    def tie(head: HuggingFaceHead, embedding: nn.Parameter) -> None:
        """Let a head decode by the embeddings. Raises ValueError for one without a decoder."""
        decoder = head.model.get_output_embeddings()
        if decoder is None:
            raise ValueError(f"{type(head.model).__name__} has no output embeddings to tie")
        decoder.weight = embedding

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of each of the n positions."""
        logits: Tensor = self.head(hidden[None])[0]
        return logits


class LabelHead(nn.Module):
    """Two layers on position 0: class logits (b, C) of (b, H)."""

    def __init__(self, width: int, classes: int, activation: type[nn.Module], dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, width), activation(), nn.Dropout(dropout), nn.Linear(width, classes)
        )

    def forward(self, first: Tensor) -> Tensor:
        """Logits of the hidden states at position 0."""
        logits: Tensor = self.layers(first)
        return logits


class PooledHead(nn.Module):
    """A classifier that reads hidden states (b, 1, F): logits (b, C)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.linear(hidden[:, 0])
        return logits
