"""The encoder and its heads.

The end task's head is the one of the Hugging Face sequence-classification model, so that what is trained is what is
exported; each objective that predicts tokens has the head of the masked-LM model, its decoder as `lm_head` says
(`heads`); each other objective has a two-layer ReLU head of its own (AANG's code).

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
        """Heads for the plan's objectives; `extra` are the classes of extra data sets, by data primitive."""
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
        kinds = {p.name: p.head for p in TAXONOMY.primitives if p.stage == "output"}
        kinds |= plan.primitives.get("heads", {})
        embedding = self.body.get_input_embeddings().weight  # type: ignore[operator]
        for objective in plan.objectives:
            kind = kinds[objective.output]
            if kind == "vocabulary":
                if template is None:
                    source, vocabulary = pretrained_source(plan.model), {"vocab_size": vocabulary_size}
                    template = HuggingFaceHead(
                        build_or_load(AutoModelForMaskedLM, plan.model, source, dropout, overrides=vocabulary)
                    )
                    DenoiseHead.tie(template, embedding)
                own = DenoiseHead(template, embedding, plan.training.lm_head, plan.training.lm_rank)
                if plan.training.lm_head == "shared":
                    own = shared.setdefault(objective.output, own)
                self.heads.append(own)
            else:
                labels = {"labels": "end_task", "extra_labels": objective.data}
                numbers = classes[labels[kind]] if kind in labels else int(kind)
                self.heads.append(LabelHead(self.width, numbers, nn.ReLU, dropout))

    def _agreeing_mask_style(self, tokens: Tensor, real: Tensor, expected: Tensor) -> str:
        """The way to hand over a (B, S, S) mask under which body and head give the whole model's logits.

        Architectures differ in what they take for a mask and in where their pooler is; rather than train on a mask
        that is silently ignored, the ways are tried and a model that agrees with none is refused by ValueError.
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
            "attention mask per pair of positions, or its head cannot be parted from its body; "
            "bert, roberta, distilbert, electra, mpnet and modernbert can"
        )

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    def hidden(self, tokens: Tensor, visible: Tensor, noise: Tensor | None = None) -> Tensor:
        """The body's last layer (B, S, H) for `tokens` (B, S), each query seeing the `visible` (B, S, S) keys.

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
        """Gaussian noise on word embeddings, NOISE standard deviations of the table: a row's by its own number alone.

        So it is the same on every rank and device, and however rows are put together.
        """
        if noise is None:
            yield
            return
        embedding: nn.Embedding = self.body.get_input_embeddings()  # type: ignore[operator]
        drawn = torch.zeros(*noise.shape, embedding.embedding_dim)
        for row, numbers in enumerate(noise.cpu()):
            if len(at := numbers.nonzero()[:, 0]):
                generator = torch.Generator().manual_seed(int(numbers[at[0]]))
                drawn[row, at] = torch.randn(len(at), embedding.embedding_dim, generator=generator)
        added = drawn.to(noise.device) * NOISE * embedding.weight.detach().std()
        hook = embedding.register_forward_hook(lambda _, __, sent: sent + added.to(sent.dtype))
        try:
            yield
        finally:
            hook.remove()

    def classifier(self) -> PreTrainedModel:
        """A copy of body and end-task head as one Hugging Face model, for `save_pretrained`."""
        whole = copy.deepcopy(self.end_task.model)
        prefix = whole.base_model_prefix
        given: PrecomputedBody = getattr(whole, prefix)
        body = copy.deepcopy(self.body)
        if given.pooler is not None:
            body.pooler = given.pooler
        setattr(whole, prefix, body)
        whole.eval()
        return whole


def _probe(classifier: PreTrainedModel, vocabulary_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A small padded input (tokens, real) and the whole model's logits for it, dropout off."""
    tokens = torch.arange(12).reshape(2, 6) % vocabulary_size
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, 4:] = False
    classifier.eval()
    with torch.no_grad():
        logits = classifier(input_ids=tokens, attention_mask=real.long()).logits
    classifier.train()
    return tokens, real, logits
