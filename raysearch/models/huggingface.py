"""Hugging Face models of all modalities: randomly initialised from a config, or loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel
from transformers.utils import logging

from raysearch.errors import did_you_mean
from raysearch.models.findings import Finding

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
        if "vocab_size" in overrides:  # the tokenizer is made of the texts, and pads with 0
            defaults = {**defaults, "pad_token_id": 0}
        fields = {**defaults, **fields, **overrides, **heads}
        config = AutoConfig.for_model(model["config"]["model_type"], **fields)
        _keep_layers(config, model.get("layers", 0))
        set_dropout(config, dropout)
        with _named_refusals(family, config):
            built: PreTrainedModel = family.from_config(config)
        return built
    assert source is not None
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **heads)
    _keep_layers(config, model.get("layers", 0))
    set_dropout(config, dropout)
    return _load(family, source, config, options)


def _keep_layers(config: Any, layers: int) -> None:
    """Keeps the lower `layers` of an encoder; 0: all. Raises ValueError if it has fewer."""
    if not layers:  # an encoder without a list of layers has no such field
        return
    if layers > config.num_hidden_layers:
        raise ValueError(f"encoder_layers {layers}: the encoder has {config.num_hidden_layers} layers")
    config.num_hidden_layers = layers


def _load(family: Any, source: str, config: Any, options: Mapping[str, Any]) -> PreTrainedModel:
    """Loads a model; its attribute `unset_weights` names the encoder's parameters that the source has no weights for.

    Raises ValueError if the source has weights of other shapes.
    """
    with _named_refusals(family, config):
        loaded, info = family.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False, **options
        )
    prefix = f"{loaded.base_model_prefix}."
    loaded.unset_weights = tuple(
        sorted(name for name in info["missing_keys"] if name.startswith(prefix) or family.__name__ == "AutoModel")
    )
    model: PreTrainedModel = loaded
    return model


@contextmanager
def _named_refusals(family: Any, config: Any) -> Iterator[None]:
    """Says in one sentence what transformers says in many."""
    try:
        yield
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        purpose = family.__name__.removeprefix("AutoModel").removeprefix("For") or "encoder"
        raise ValueError(f"transformers has no model for {purpose} of model_type {config.model_type!r}") from error
    except RuntimeError as error:
        if "mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"{config.name_or_path} has weights of other shapes than its config and this task need, such as a head for "
            "another number of labels; pooling: first puts a new head on its encoder"
        ) from error


def missing_weight_findings(network: nn.Module, declared: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields whether a part of a loaded encoder is randomly initialised; a pooler, which is a part of heads, may be."""
    for module in network.modules():
        unset = [name for name in getattr(module, "unset_weights", ()) if ".pooler." not in f".{name}"]
        if unset:
            source = declared.get("path") or declared.get("package")
            yield Finding(
                f"{source} has no weights for {len(unset)} parameters of the encoder, such as {unset[0]}, which would "
                "begin at random; name a folder with the whole encoder",
                ("path",),
            )
            return


def declared_findings(declared: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields which fields of a declared config the architecture does not know or cannot have."""
    kind, fields = declared["model_type"], {name: value for name, value in declared.items() if name != "model_type"}
    try:
        known_config: Any = AutoConfig.for_model(kind)
    except ValueError:
        near = did_you_mean(kind, CONFIG_MAPPING)
        hint = near if near.startswith("; did") else "; such as bert or roberta"
        yield Finding(f"{kind!r} is no architecture of transformers{hint}", ("config", "model_type"))
        return
    known = {name for name in dir(known_config) if not name.startswith("_")} | set(known_config.attribute_map)
    for name in fields:
        if name not in known:
            names = [each for each in vars(known_config) if not each.startswith("_")]
            yield Finding(f"{kind} has no such field{did_you_mean(name, names)}", ("config", name))
            return
    try:
        AutoConfig.for_model(kind, **fields)
    except Exception as error:  # each architecture checks its fields in its own way
        yield Finding(f"{kind}: {' '.join(str(error).split())[:300]}", ("config",))


def set_dropout(config: Any, dropout: float) -> None:
    """Sets every dropout that a Hugging Face config has, and those of heads where they are not None."""
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    for name in _HEAD_DROPOUTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, dropout)
