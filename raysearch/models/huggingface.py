"""Settings that Hugging Face models of all modalities share."""

from __future__ import annotations

from typing import Any

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")


_HEAD_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "cls_dropout", "pooler_dropout")


def set_dropout(config: Any, dropout: float) -> None:
    """Set every dropout that a Hugging Face config has; heads' only where they have one of their own."""
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    for name in _HEAD_DROPOUTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, dropout)
