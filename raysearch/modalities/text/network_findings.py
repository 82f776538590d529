"""What a text network that is built shows of its encoder and tokenizer together, by one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from raysearch.modalities.text.model_findings import LONGEST_TEXT
from raysearch.modalities.text.network import TextNetwork
from raysearch.models.findings import Finding
from raysearch.models.huggingface import missing_weight_findings
from raysearch.models.network import Network
from raysearch.plan import TrialPlan


def network_findings(network: Network, plan: TrialPlan, metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields why the network cannot train on the prepared texts; nothing for one that has no encoder."""
    if not isinstance(network, TextNetwork):
        return
    yield from missing_weight_findings(network, plan.model)
    tokens = metadata["tokens"]
    source = plan.model.get("path") or plan.model.get("package") or "the declared encoder"
    rows, largest = _embedding_rows(network), max(tokens["vocab_size"] - 1, *tokens["special"])
    if largest >= rows:
        yield Finding(
            f"{source}: the tokenizer has tokens up to id {largest}, and the encoder has embeddings for {rows}: they "
            "do not belong together"
        )
        return
    if tokens["vocab_size"] <= len(tokens["special"]) + 1:
        yield Finding(f"{source}: its tokenizer knows {tokens['vocab_size']} tokens, so that every word is unknown")
        return
    yield from _pad_findings(network, tokens["pad"], source)
    yield from _length_findings(network, min(plan.training.max_length, LONGEST_TEXT), tokens, source)


def _embedding_rows(network: TextNetwork) -> int:
    embedding: nn.Embedding = network.body.get_input_embeddings()  # type: ignore[operator]
    return int(embedding.num_embeddings)


def _pad_findings(network: TextNetwork, pad: int, source: str) -> Iterator[Finding]:
    """Yields whether positions are counted from another pad id than that of the tokenizer."""
    for name, module in network.body.named_modules():
        is_counted = "position" in name and isinstance(module, nn.Embedding) and module.padding_idx is not None
        if is_counted and module.padding_idx != pad:
            yield Finding(
                f"{source}: the encoder counts positions from its pad id {module.padding_idx}, and the tokenizer pads "
                f"with {pad}: they do not belong together; use the encoder's own tokenizer"
            )
            return


def _length_findings(network: TextNetwork, length: int, tokens: Mapping[str, Any], source: str) -> Iterator[Finding]:
    """Yields whether the encoder cannot read the longest text."""
    ordinary = next(i for i in range(tokens["vocab_size"]) if i not in tokens["special"])
    text = torch.full((1, length), ordinary)
    visible = torch.ones(1, length, length, dtype=torch.bool)
    network.eval()
    try:
        with torch.no_grad():
            network.hidden(text, visible)
    except (IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        limit = getattr(network.config, "max_position_embeddings", None)
        remedy = f"; its max_position_embeddings is {limit}" if limit else ""
        yield Finding(
            f"{source} cannot read a text of max_length {length} tokens ({reason}){remedy}: set a smaller max_length"
        )
    finally:
        network.train()
