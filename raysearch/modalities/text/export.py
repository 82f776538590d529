"""An exported text model: a sequence classifier, or a pooled encoder and its classifier; and the tokenizer.

A model whose head is its architecture's own is of a class of `transformers`. One with a pooling is of the format that
`pooled_model` describes. Texts are truncated as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raysearch.data.prepared import Split, check_digest
from raysearch.modalities.batch import labels_of
from raysearch.modalities.exported import FORMAT_KEY, read_json
from raysearch.modalities.text.batches import pad_texts
from raysearch.modalities.text.network import TextNetwork
from raysearch.modalities.text.pooled_model import FORMAT, load_pooled_model, save_pooled_model
from raysearch.modalities.text.primitives.transforms import vocabulary_of
from raysearch.models.pooling import PooledClassifier
from raysearch.plan import TrialPlan

BATCH = 64  # texts in a forward


def save_text_model(
    network: TextNetwork, plan: TrialPlan, metadata: Mapping[str, Any], data: Path, folder: Path
) -> None:
    """Writes body and end-task head of `network` as one model, and the tokenizer of the prepared data."""
    model: Any = network.merged()
    model.config.id2label = dict(enumerate(metadata["labels"]))
    model.config.label2id = {label: i for i, label in enumerate(metadata["labels"])}
    if model.config.pad_token_id is None:  # else positions may depend on it, as roberta's do: it stays as in training
        model.config.pad_token_id = metadata["tokens"]["pad"]
    longest = plan.training.max_length
    if isinstance(network.end_task, PooledClassifier):
        save_pooled_model(model, network.end_task, longest, folder)
    else:
        model.save_pretrained(folder)
    for file in sorted((data / "tokenizer").iterdir()):
        check_digest(data, f"tokenizer/{file.name}")
    stored = str(data / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(stored, model_max_length=longest, trust_remote_code=False)
    tokenizer.backend_tokenizer.enable_truncation(longest)
    tokenizer.save_pretrained(str(folder))


def load_classifier_module(folder: Path) -> Any:
    """Returns the model of a folder, which takes input_ids and attention_mask and returns logits."""
    if read_json(folder, "config.json").get(FORMAT_KEY) == FORMAT:
        return load_pooled_model(folder)
    return AutoModelForSequenceClassification.from_pretrained(str(folder), trust_remote_code=False).eval()


def predict_texts(folder: Path, split: Split, longest: int, metadata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns logits (n, C) and labels (n,) of a split, by the model that `folder` holds, loaded as users load it."""
    vocabulary = vocabulary_of(metadata)
    model = load_classifier_module(folder)
    logits, labels = [], []
    with torch.no_grad():
        for rows in torch.arange(len(split)).split(BATCH):
            tokens = pad_texts(split, rows.tolist(), vocabulary, longest)
            real = (tokens != vocabulary.pad).long()
            logits.append(model(input_ids=tokens, attention_mask=real).logits.float())
            labels.append(labels_of(split, rows))
    return torch.cat(logits), torch.cat(labels)
