"""The network of text tasks: a Hugging Face encoder and its heads.

The end task's head is that of the sequence classification model, so that the trained model is the exported one; or,
where the model declares a pooling, one linear layer on a text's pooled vector (`models.pooling`). An objective that
predicts tokens has the head of the masked language model, with the decoder that `lm_head` selects (`models.heads`).
Every other objective has a two-layer ReLU head (AANG's code), which reads the same vector as the end task.

    body       theta, shared by all tasks: the encoder without its pooler, or the part of it that is trained
    heads      phi: everything else
    hidden     (B, S, H) the body's last layer
    states     (c, S, H) what the trained layers read of c examples, computed before (`modalities.text.states`)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from raysearch.modalities.text.heads import make_heads
from raysearch.modalities.text.pooling import HEAD, resolve_pooling
from raysearch.modalities.text.pretrained import pretrained_source
from raysearch.models.adapters import add_adapters, merge_adapters
from raysearch.models.frozen_layers import EVERYTHING, FrozenLayers, trained_layers
from raysearch.models.heads import HuggingFaceHead, PrecomputedBody
from raysearch.models.huggingface import build_or_load
from raysearch.models.network import Network
from raysearch.models.pooling import PooledClassifier
from raysearch.plan import TrialPlan

NOISE = 1.0  # standard deviation of noisy embeddings, in standard deviations of the embedding table
MASK_STYLES = ("additive", "boolean")  # (B, 1, S, S) of 0 and -3e38, or (B, S, S) of true and false


class TextNetwork(Network):
    """An encoder of text and its heads."""

    end_task: HuggingFaceHead | PooledClassifier

    def __init__(
        self, plan: TrialPlan, classes: int, vocabulary_size: int, extra: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Builds or loads the encoder; `extra` is the number of classes of each extra data set."""
        super().__init__()
        model = resolve_pooling(plan.model, fetch=True)
        if plan.training.encoder_layers:
            model["layers"] = plan.training.encoder_layers
        self.pooling = model.get("pooling", HEAD)
        family: Any = AutoModelForSequenceClassification if self.pooling == HEAD else AutoModel
        labels = classes if self.pooling == HEAD else None
        whole = build_or_load(
            family,
            model,
            pretrained_source(model),
            plan.training.dropout,
            labels=labels,
            overrides={"vocab_size": vocabulary_size},
        )
        self.config, self.is_pretrained = whole.config, not model.get("config")
        self.caches_states = plan.training.cache_states == "auto"
        tokens, real, expected = _probe(whole, vocabulary_size)
        self._split(whole, classes, plan.training.dropout, normalises=bool(model.get("normalise")))
        self.mask_style = self._agreeing_mask_style(tokens, real, expected)
        if (trained := plan.training.trained_layers) != EVERYTHING:
            self._freeze(trained, tokens, real)
        if plan.training.lora_rank and trained:
            add_adapters(self.body, trained_layers(self.body, self.frozen), plan.training.lora_rank)
        self.heads = nn.ModuleList()
        if plan.objectives:
            pooling = "first" if self.pooling == HEAD else self.pooling
            self.heads += make_heads(plan, self, {"end_task": classes, **extra}, pooling)

    def _split(self, whole: Any, classes: int, dropout: float, *, normalises: bool) -> None:
        """Sets body and end-task head from the model as it was loaded."""
        body: Any = getattr(whole, whole.base_model_prefix) if self.pooling == HEAD else whole
        pooler = getattr(body, "pooler", None)
        self.unused_pooler: tuple[nn.Module, ...] = ()  # of a pooled encoder, for its export; no part of the network
        if isinstance(pooler, nn.Module):
            body.pooler = None
        self.body = body
        if self.pooling == HEAD:
            self.end_task = HuggingFaceHead(whole, pooler if isinstance(pooler, nn.Module) else None)
            return
        self.unused_pooler = (pooler,) if isinstance(pooler, nn.Module) else ()
        self.end_task = PooledClassifier(self.width, classes, self.pooling, dropout, normalises=normalises)

    def _agreeing_mask_style(self, tokens: Tensor, real: Tensor, expected: Tensor) -> str:
        """Returns the style of a (B, S, S) mask under which body and head give what the whole model gives.

        Architectures differ in the masks that they accept and in where their pooler is. All styles are tried, so that
        no model trains with a mask that it silently ignores. Raises ValueError for a model that agrees with none.
        """
        visible = real[:, None, :].expand(-1, tokens.shape[1], -1)
        self.eval()
        for style in MASK_STYLES:
            self.mask_style = style
            try:
                with torch.no_grad():
                    hidden = self._run_body(tokens, self._mask(visible))
                    output = self.end_task(hidden, real) if self.pooling == HEAD else hidden[real]
            except (RuntimeError, ValueError, TypeError, AttributeError):
                continue
            if output.shape == expected.shape and torch.allclose(output, expected, atol=1e-4, rtol=1e-3):
                self.train()
                return style
        whole = self.end_task.model if isinstance(self.end_task, HuggingFaceHead) else self.body
        raise ValueError(
            f"{type(whole).__name__} (model_type {self.config.model_type!r}) cannot be used: it takes no "
            "attention mask per pair of positions, or its head cannot be separated from its body; "
            "bert, roberta, distilbert, electra, mpnet and modernbert can"
        )

    def _freeze(self, trained: int, tokens: Tensor, real: Tensor) -> None:
        """Freezes all but the `trained` upper layers. Raises ValueError if the body cannot be divided there."""
        visible = real[:, None, :].expand(-1, tokens.shape[1], -1)
        self.eval()
        with torch.no_grad():
            expected = self.hidden(tokens, visible)
            self.frozen = FrozenLayers(self.body, trained, lambda: self._run_body(tokens, self._mask(visible)))
            output = self.hidden(tokens, visible) if self.frozen.can_run_apart else expected + 1
        self.train()
        if not torch.allclose(output, expected, atol=1e-4, rtol=1e-3):
            name = f"{type(self.body).__name__} (model_type {self.config.model_type!r})"
            raise ValueError(f"trained_layers: {name} cannot be divided into frozen and trained layers")

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    def logits(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the end task's logits (B, C) of hidden states."""
        logits: Tensor = self.end_task(hidden, real)
        return logits

    def vectors(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns one vector of each text (B, H): pooled, or the state at position 0."""
        return self.end_task.vectors(hidden, real) if isinstance(self.end_task, PooledClassifier) else hidden[:, 0]

    def with_cached_states(self, batches: Any, folder: Path) -> Any:
        """Returns batches with cached states, if a part of a pre-trained encoder is frozen."""
        from raysearch.modalities.text.states import with_states

        return with_states(self, batches, folder)

    def hidden(
        self,
        tokens: Tensor,
        visible: Tensor,
        noise: Tensor | None = None,
        states: Tensor | None = None,
        is_cached: Tensor | None = None,
    ) -> Tensor:
        """Returns the body's last layer (B, S, H) for `tokens` (B, S); each query sees the `visible` (B, S, S) keys.

        Embeddings get noise where `noise` (B, S) is not 0. Of the examples `is_cached` (B,), the `states` are known.
        """
        if self.frozen is None:
            return self._run_body(tokens, self._mask(visible), noise)
        if states is None:
            states = self.frozen_states(tokens, visible, noise)
        else:
            states = states.to(next(self.body.parameters()).dtype)
        if is_cached is not None and not bool(is_cached.all()):
            fresh = ~is_cached
            computed = self.frozen_states(tokens[fresh], visible[fresh], None if noise is None else noise[fresh])
            mixed = computed.new_zeros(len(tokens), *computed.shape[1:])
            mixed[fresh], mixed[is_cached] = computed, states.to(computed.dtype)
            states = mixed
        if self.frozen.is_whole:
            return states
        with self.frozen.starting_from(states):
            return self._run_body(tokens, self._mask(visible))

    def frozen_states(self, tokens: Tensor, visible: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns the states (B, S, H) that the trained layers read."""
        assert self.frozen is not None
        return self.frozen.states(lambda: self._run_body(tokens, self._mask(visible), noise))

    def _run_body(self, tokens: Tensor, mask: Tensor, noise: Tensor | None = None) -> Tensor:
        with _noisy(self.body, noise):
            output: Tensor = self.body(input_ids=tokens, attention_mask=mask).last_hidden_state
        return output

    def _mask(self, visible: Tensor) -> Tensor:
        return _additive(visible) if self.mask_style == "additive" else visible

    def merged(self) -> PreTrainedModel:
        """Returns a copy of body and end-task head as one Hugging Face model; of a pooled encoder the body alone."""
        return merged_model(self)


def _additive(visible: Tensor) -> Tensor:
    """Returns the mask (B, 1, S, S) that is added to attention scores: 0 where a key is visible."""
    floor = torch.finfo(torch.float32).min
    mask = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, floor)[:, None]
    if torch.is_autocast_enabled(visible.device.type):
        mask = mask.to(torch.get_autocast_dtype(visible.device.type))
    return mask


@contextmanager
def _noisy(body: Any, noise: Tensor | None) -> Iterator[None]:
    """Adds Gaussian noise to word embeddings, NOISE standard deviations of the table, with a seed for each example.

    The noise is therefore the same on every rank and device, and in every composition of the batch.
    """
    if noise is None:
        yield
        return
    embedding: nn.Embedding = body.get_input_embeddings()
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


def merged_model(network: TextNetwork) -> PreTrainedModel:
    """Returns a copy of body and end-task head as one model, for `save_pretrained`, with adapters in the weights."""
    body: Any = copy.deepcopy(network.body)
    merge_adapters(body)
    if isinstance(network.end_task, PooledClassifier):
        if network.unused_pooler:
            body.pooler = copy.deepcopy(network.unused_pooler[0])
        whole: Any = body
    else:
        whole = copy.deepcopy(network.end_task.model)
        prefix = whole.base_model_prefix
        precomputed: PrecomputedBody = getattr(whole, prefix)
        if precomputed.pooler is not None:
            body.pooler = precomputed.pooler
        setattr(whole, prefix, body)
    whole.eval()
    model: PreTrainedModel = whole
    return model


def _probe(whole: PreTrainedModel, vocabulary_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a small padded input (tokens, real) and what the model gives for it without dropout.

    This is the logits of a classifier, and of an encoder the last layer at the real positions.
    """
    tokens = torch.arange(12).reshape(2, 6) % vocabulary_size
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, 4:] = False
    whole.eval()
    with torch.no_grad():
        output: Any = whole(input_ids=tokens, attention_mask=real.long())
    whole.train()
    return tokens, real, output.logits if hasattr(output, "logits") else output.last_hidden_state[real]
