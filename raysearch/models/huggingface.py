"""Hugging Face models of all modalities: randomly initialised from a config, or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
_HEAD_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "cls_dropout", "pooler_dropout")


def build_or_load(
    family: Any,
    model: Mapping[str, Any],
    source: str | None,
    dropout: float,
    *,
    labels: int | None = None,
    defaults: Mapping[str, Any] = _NOTHING,
    overrides: Mapping[str, Any] = _NOTHING,
    **options: Any,
) -> PreTrainedModel:
    """Returns a model of the auto class `family` for the plan's declaration `model`.

    With a config it is randomly initialised; `defaults` are fields that the config need not have, `overrides` fields
    that it cannot set. Else it is loaded from `source`, with `options` for `from_pretrained`.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    heads = {} if labels is None else {"num_labels": labels}
    if model.get("config"):
        fields = {name: value for name, value in model["config"].items() if name != "model_type"}
        fields = {**defaults, **fields, **overrides, **heads}
        config = AutoConfig.for_model(model["config"]["model_type"], **fields)
        set_dropout(config, dropout)
        built: PreTrainedModel = family.from_config(config)
        return built
    assert source is not None
    config = AutoConfig.from_pretrained(source, **heads)
    if model.get("layers"):
        config.num_hidden_layers = model["layers"]
    set_dropout(config, dropout)
    loaded: PreTrainedModel = family.from_pretrained(source, config=config, dtype=torch.float32, **options)
    return loaded


def set_dropout(config: Any, dropout: float) -> None:
    """Sets every dropout that a Hugging Face config has, and those of heads where they are not None."""
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    for name in _HEAD_DROPOUTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, dropout)
