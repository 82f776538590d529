"""What the files of a text encoder say of it, before anything is loaded: its tokenizer, positions and pad token.

A roberta-like encoder counts positions from its pad id plus 1, so that it has so many usable positions less, and gives
other logits under another pad id. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raysearch.modalities.base import HuggingFaceModel, ModelConfig
from raysearch.models.findings import Finding
from raysearch.models.model_folder import folder_findings, read_json

LONGEST_TEXT = 512  # tokens of a stored text, `tokenizer.MAX_TOKENS`
TOKENIZER_FILES = (  # any one of them is a vocabulary
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
# `model_type`s whose positions are absolute; and those that count them from the pad id plus 1
ABSOLUTE = frozenset({"bert", "distilbert", "electra", "albert", "mobilebert", "ernie", "big_bird"})
FROM_PAD = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text"})
MPNET_OFFSET = 2  # mpnet counts them from 2, whatever its pad id


def text_model_findings(model: ModelConfig, max_length: int, classes: int | None) -> Iterator[Finding]:
    """Yields what is wrong with a declared encoder, and with its head if the number of classes is known."""
    if not isinstance(model, HuggingFaceModel):
        return
    if model.config:
        yield from declared_config_findings(model.config, max_length)
    if model.path and Path(model.path).is_absolute():
        yield from encoder_findings(Path(model.path), max_length, "path")
        if classes is not None and getattr(model, "pooling", "head") in ("head", "auto"):
            yield from head_findings(Path(model.path), classes, ("path",))


def usable_positions(config: Mapping[str, Any]) -> int | None:
    """Returns how many tokens a config's encoder can read; None where that is known only once it is built."""
    kind, limit = config.get("model_type"), config.get("max_position_embeddings")
    if not isinstance(limit, int):
        return None
    if kind in ABSOLUTE:
        return limit
    if kind in FROM_PAD:
        return limit - _pad_of(config) - 1
    return limit - MPNET_OFFSET if kind == "mpnet" else None


def _pad_of(config: Mapping[str, Any]) -> int:
    pad = config.get("pad_token_id", 1)
    return pad if isinstance(pad, int) else 1


def declared_config_findings(config: Mapping[str, Any], max_length: int) -> Iterator[Finding]:
    """Yields what is wrong with the config of a randomly initialised encoder, whose tokenizer is made of the texts."""
    positions = usable_positions({"pad_token_id": 0, **config})
    yield from _position_findings(positions, max_length, ("config", "max_position_embeddings"))
    pad = config.get("pad_token_id", 0)
    if pad != 0:
        yield Finding(
            f"is {pad!r}, and the tokenizer that is made of the texts pads with 0; leave it out",
            ("config", "pad_token_id"),
        )


def encoder_findings(folder: Path, max_length: int, key: str) -> Iterator[Finding]:
    """Yields what is wrong with the encoder that a folder holds; `key` is where the model names it."""
    refused = False
    for finding in folder_findings(folder):
        refused |= finding.is_refusal
        yield Finding(finding.text, (key,), finding.is_refusal)
    config = read_json(folder / "config.json")
    if refused or config is None:
        return
    yield from _position_findings(usable_positions(config), max_length, (key,))
    yield from (Finding(text, (key,)) for text in _tokenizer_problems(folder, config))


def _position_findings(usable: int | None, max_length: int, keys: tuple[str, ...]) -> Iterator[Finding]:
    longest = min(max_length, LONGEST_TEXT)
    if usable is not None and usable < longest:
        yield Finding(
            f"the encoder can read {usable} tokens, and max_length is {max_length}; set max_length: {usable}", keys
        )


def _tokenizer_problems(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        yield (
            f"{folder} has no tokenizer (tokenizer.json), without which every word is unknown; save the encoder's own "
            "there with tokenizer.save_pretrained"
        )
        return
    file = folder / "tokenizer.json"
    if not file.exists():
        return
    content = read_json(file)
    ids = token_ids(content) if content is not None else None
    if ids is None:
        yield f"{file} is damaged: it has no vocabulary; copy it again"
        return
    rows = config.get("vocab_size")
    if isinstance(rows, int) and ids and max(ids.values()) >= rows:
        yield (
            f"the tokenizer has tokens up to id {max(ids.values())}, and the encoder has embeddings for {rows}: they "
            "do not belong together; use its own tokenizer, or model.resize_token_embeddings and save again"
        )
    yield from _pad_problems(folder, config, ids)


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int] | None:
    """Returns the id of every token of a tokenizer.json; None if it has no vocabulary."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    if isinstance(vocabulary, dict):
        ids = dict(vocabulary)
    elif isinstance(vocabulary, list):  # of a unigram model: pairs of a token and its score, in order of their ids
        ids = {str(pair[0]): number for number, pair in enumerate(vocabulary)}
    else:
        return None
    added = tokenizer.get("added_tokens") or []
    return ids | {token["content"]: token["id"] for token in added if "content" in token and "id" in token}


def _pad_problems(folder: Path, config: Mapping[str, Any], ids: Mapping[str, int]) -> Iterator[str]:
    declared = read_json(folder / "tokenizer_config.json") or read_json(folder / "special_tokens_map.json") or {}
    token = declared.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    pad = ids.get(token) if isinstance(token, str) else None
    if config.get("model_type") in FROM_PAD and pad is not None and pad != _pad_of(config):
        yield (
            f"the tokenizer pads with {json.dumps(token)}, id {pad}, and config.json has pad_token_id "
            f"{_pad_of(config)}, from which this encoder counts positions: they do not belong together; use its own "
            "tokenizer"
        )


def head_findings(folder: Path, classes: int, keys: tuple[str, ...]) -> Iterator[Finding]:
    """Yields whether a folder holds a classifier with a head of its own, for the end task of so many classes."""
    config = read_json(folder / "config.json") or {}
    architectures = config.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    remedy = "pooling: first puts a new head on its encoder"
    if count != classes:
        yield Finding(f"{folder} holds a classifier of {count} labels, and the task has {classes}; {remedy}", keys)
    else:
        named = ", ".join(map(str, labels.values())) if isinstance(labels, dict) else f"{count} labels"
        problem = f"{folder} holds a classifier ({named}), whose head is where the end task's begins; {remedy}"
        yield Finding(problem[:300], keys, is_refusal=False)
