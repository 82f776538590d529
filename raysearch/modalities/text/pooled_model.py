"""An exported encoder whose vectors are pooled: no class of `transformers` has it with its classifier.

    config.json, model.safetensors      the encoder, as AutoModel loads it; `raysearch_format` is FORMAT
    raysearch.json                      pooling, normalise, max_length and labels
    classifier.safetensors              weight (C, H) and bias (C,) of logits = weight v + bias
    modules.json, 1_Pooling, ...        the same encoder as sentence-transformers loads it, without the classifier

v is the pooled vector of a text, scaled to length 1 if `normalise` is true.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from raysearch.errors import RunError
from raysearch.modalities.exported import FORMAT_KEY, check_index, label_names, read_json
from raysearch.modalities.text.classifier import SequenceClassifier
from raysearch.models.pooling import PooledClassifier, pool

FORMAT = "pooled_encoder"
VERSION = 1
_KINDS = {"first": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}  # as sentence-transformers calls them
_MODULES = "sentence_transformers.models"


class PooledModel(nn.Module):
    """An encoder, its pooling and a linear classifier: from tokens (b, S) to logits (b, C)."""

    def __init__(self, encoder: Any, classifier: nn.Linear, pooling: str, *, normalises: bool) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier
        self.pooling, self.normalises = pooling, normalises

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Returns the logits, as a sequence classifier of `transformers` does."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = pool(hidden, attention_mask.bool(), self.pooling)
        vectors = F.normalize(vectors, dim=-1) if self.normalises else vectors
        return SequenceClassifierOutput(logits=self.classifier(vectors))


def save_pooled_model(encoder: Any, head: PooledClassifier, max_length: int, folder: Path) -> None:
    """Writes encoder and head; the config of the encoder has the labels as `id2label`. The tokenizer is not written."""
    setattr(encoder.config, FORMAT_KEY, FORMAT)
    encoder.save_pretrained(folder)
    labels = [encoder.config.id2label[number] for number in range(head.linear.out_features)]
    width = head.linear.in_features
    scale = width**0.5 if head.normalises else 1.0  # the network scales to length sqrt(H)
    weights = {"weight": (head.linear.weight.detach() * scale).contiguous(), "bias": head.linear.bias.detach()}
    save_file({name: tensor.cpu() for name, tensor in weights.items()}, folder / "classifier.safetensors")
    description = {"pooling": head.pooling, "normalise": head.normalises, "max_length": max_length, "labels": labels}
    _write(folder / "raysearch.json", {"format": FORMAT, "version": VERSION, **description})
    _write_sentence_transformers(folder, head, width, max_length)


def _write_sentence_transformers(folder: Path, head: PooledClassifier, width: int, max_length: int) -> None:
    names = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *([("2_Normalize", "Normalize")] if head.normalises else []),
    ]
    modules = [
        {"idx": number, "name": str(number), "path": place, "type": f"{_MODULES}.{kind}"}
        for number, (place, kind) in enumerate(names)
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    for place, _ in names[1:]:
        (folder / place).mkdir()
    modes = {f"pooling_mode_{mode}": pooling == head.pooling for pooling, mode in _KINDS.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Returns what raysearch.json says. Raises RunError if it is of no version that is known here."""
    description = read_json(folder, "raysearch.json")
    if not isinstance(description, dict) or description.get("version") != VERSION:
        raise RunError(f"{folder}/raysearch.json is not of version {VERSION}")
    return description


def load_pooled_model(folder: Path) -> PooledModel:
    """Returns the model that `save_pooled_model` wrote. Raises RunError for a folder that is damaged."""
    from transformers import AutoModel
    from transformers.utils import logging

    description = read_description(folder)
    pooling = description.get("pooling")
    if pooling not in _KINDS or not isinstance(description.get("normalise"), bool):
        raise RunError(f"{folder}/raysearch.json: lacks pooling or normalise")
    try:
        weights = load_file(folder / "classifier.safetensors")
        classes, width = weights["weight"].shape
        classifier = nn.Linear(width, classes)
        classifier.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{folder}/classifier.safetensors cannot be read: {error!s:.200}") from None
    logging.set_verbosity_error()
    check_index(folder)
    encoder = AutoModel.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True, use_safetensors=True
    )
    if encoder.config.hidden_size != width:
        raise RunError(
            f"{folder}: the classifier reads {width} numbers, and the encoder gives {encoder.config.hidden_size}"
        )
    return PooledModel(encoder, classifier, pooling, normalises=description["normalise"]).eval()


def load_pooled_classifier(folder: Path, config: Mapping[str, Any]) -> SequenceClassifier:
    """Loads a classifier of this format, with its tokenizer. Raises RunError for a folder that is damaged."""
    from transformers import AutoTokenizer

    labels, longest = label_names(folder, config), read_description(folder).get("max_length")
    if not isinstance(longest, int) or longest < 2:
        raise RunError(f"{folder}/raysearch.json: max_length must be a number of tokens")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model = load_pooled_model(folder)
    except RunError:
        raise
    except Exception as error:  # transformers raises anything; a user reads one line
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RunError(f"{folder} cannot be loaded: {problem}") from error
    if model.classifier.out_features != len(labels):
        raise RunError(f"{folder}: {len(labels)} labels, and a classifier of {model.classifier.out_features}")
    return SequenceClassifier(labels, model, tokenizer, longest)
