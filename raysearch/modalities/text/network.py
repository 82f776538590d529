"""The network of text tasks: a Hugging Face encoder and its heads.

The end task's head is that of the sequence classification model, so that the trained model is the exported one. An
objective that predicts tokens has the head of the masked language model, with the decoder that `lm_head` selects
(`models.heads`). Every other objective has a two-layer ReLU head (AANG's code).

    body       theta, shared by all tasks: the encoder without its pooler
    heads      phi: everything else
    hidden     (B, S, H) the body's last layer
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from raysearch.modalities.text.pretrained import pretrained_source
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.models.heads import DenoiseHead, HuggingFaceHead, LabelHead, PrecomputedBody
from raysearch.models.huggingface import build_or_load
from raysearch.models.network import Network
from raysearch.plan import TrialPlan

NOISE = 1.0  # standard deviation of noisy embeddings, in standard deviations of the embedding table
MASK_STYLES = ("additive", "boolean")  # (B, 1, S, S) of 0 and -3e38, or (B, S, S) of true and false


class TextNetwork(Network):
    """An encoder of text and its heads."""

    end_task: HuggingFaceHead

    def __init__(
        self, plan: TrialPlan, classes: int, vocabulary_size: int, extra: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Builds or loads the encoder; `extra` is the number of classes of each extra data set."""
        super().__init__()
        dropout = plan.training.dropout
        source, vocabulary = pretrained_source(plan.model), {"vocab_size": vocabulary_size}
        classifier: Any = build_or_load(
            AutoModelForSequenceClassification, plan.model, source, dropout, labels=classes, overrides=vocabulary
        )
        tokens, real, expected = _probe(classifier, vocabulary_size)
        prefix = classifier.base_model_prefix
        body: Any = getattr(classifier, prefix)
        self.body, self.config = body, classifier.config
        pooler = getattr(body, "pooler", None)
        if isinstance(pooler, nn.Module):
            body.pooler = None
        self.end_task = HuggingFaceHead(classifier, pooler if isinstance(pooler, nn.Module) else None)
        self.mask_style = self._agreeing_mask_style(tokens, real, expected)
        self.heads = nn.ModuleList()
        if plan.objectives:
            self._add_heads(plan, {"end_task": classes, **extra}, vocabulary_size, dropout)

    def _add_heads(self, plan: TrialPlan, classes: Mapping[str, int], vocabulary_size: int, dropout: float) -> None:
        template: HuggingFaceHead | None = None
        shared: dict[str, DenoiseHead] = {}
        sizes = {p.name: p.head for p in TAXONOMY.primitives if p.stage == "output"}
        sizes |= plan.primitives.get("heads", {})
        embedding = self.body.get_input_embeddings().weight  # type: ignore[operator]
        for objective in plan.objectives:
            size = sizes[objective.output]
            if size == "vocabulary":
                if template is None:
                    source, vocabulary = pretrained_source(plan.model), {"vocab_size": vocabulary_size}
                    template = HuggingFaceHead(
                        build_or_load(AutoModelForMaskedLM, plan.model, source, dropout, overrides=vocabulary)
                    )
                    DenoiseHead.tie(template, embedding)
                head = DenoiseHead(template, embedding, plan.training.lm_head, plan.training.lm_rank)
                if plan.training.lm_head == "shared":
                    head = shared.setdefault(objective.output, head)
                self.heads.append(head)
            else:
                labels = {"labels": "end_task", "extra_labels": objective.data}
                numbers = classes[labels[size]] if size in labels else int(size)
                self.heads.append(LabelHead(self.width, numbers, nn.ReLU, dropout))

    def _agreeing_mask_style(self, tokens: Tensor, real: Tensor, expected: Tensor) -> str:
        """Returns the style of a (B, S, S) mask under which body and head give the whole model's logits.

        Architectures differ in the masks that they accept and in where their pooler is. All styles are tried, so that
        no model trains with a mask that it silently ignores. Raises ValueError for a model that agrees with none.
        """
        visible = real[:, None, :].expand(-1, tokens.shape[1], -1)
        self.eval()
        for style in MASK_STYLES:
            self.mask_style = style
            try:
                with torch.no_grad():
                    logits = self.end_task(self.hidden(tokens, visible))
            except (RuntimeError, ValueError, TypeError, AttributeError):
                continue
            if logits.shape == expected.shape and torch.allclose(logits, expected, atol=1e-4, rtol=1e-3):
                self.train()
                return style
        raise ValueError(
            f"{type(self.end_task.model).__name__} (model_type {self.config.model_type!r}) cannot be used: it takes no "
            "attention mask per pair of positions, or its head cannot be separated from its body; "
            "bert, roberta, distilbert, electra, mpnet and modernbert can"
        )

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    def hidden(self, tokens: Tensor, visible: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns the body's last layer (B, S, H) for `tokens` (B, S); each query sees the `visible` (B, S, S) keys.

        Embeddings get noise where `noise` (B, S) is not 0.
        """
        mask = visible
        if self.mask_style == "additive":
            floor = torch.finfo(torch.float32).min
            mask = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, floor)[:, None]
            if torch.is_autocast_enabled(tokens.device.type):
                mask = mask.to(torch.get_autocast_dtype(tokens.device.type))
        with self._noisy(noise):
            output: Tensor = self.body(input_ids=tokens, attention_mask=mask).last_hidden_state
        return output

    @contextmanager
    def _noisy(self, noise: Tensor | None) -> Iterator[None]:
        """Adds Gaussian noise to word embeddings, NOISE standard deviations of the table, with a seed for each example.

        The noise is therefore the same on every rank and device, and in every composition of the batch.
        """
        if noise is None:
            yield
            return
        embedding: nn.Embedding = self.body.get_input_embeddings()  # type: ignore[operator]
        drawn = torch.zeros(*noise.shape, embedding.embedding_dim)
        for row, seeds in enumerate(noise.cpu()):
            if len(positions := seeds.nonzero()[:, 0]):
                generator = torch.Generator().manual_seed(int(seeds[positions[0]]))
                drawn[row, positions] = torch.randn(len(positions), embedding.embedding_dim, generator=generator)
        added = drawn.to(noise.device) * NOISE * embedding.weight.detach().std()
        hook = embedding.register_forward_hook(lambda _, __, output: output + added.to(output.dtype))
        try:
            yield
        finally:
            hook.remove()

    def merged(self) -> PreTrainedModel:
        """Returns a copy of body and end-task head as one Hugging Face model, for `save_pretrained`."""
        whole = copy.deepcopy(self.end_task.model)
        prefix = whole.base_model_prefix
        precomputed: PrecomputedBody = getattr(whole, prefix)
        body = copy.deepcopy(self.body)
        if precomputed.pooler is not None:
            body.pooler = precomputed.pooler
        setattr(whole, prefix, body)
        whole.eval()
        return whole


def _probe(classifier: PreTrainedModel, vocabulary_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a small padded input (tokens, real) and the whole model's logits for it, without dropout."""
    tokens = torch.arange(12).reshape(2, 6) % vocabulary_size
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, 4:] = False
    classifier.eval()
    with torch.no_grad():
        logits = classifier(input_ids=tokens, attention_mask=real.long()).logits
    classifier.train()
    return tokens, real, logits
