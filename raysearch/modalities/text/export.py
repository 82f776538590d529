"""An exported text model: a Hugging Face sequence classifier and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raysearch.data.prepared import Split
from raysearch.modalities.batch import labels_of
from raysearch.modalities.text.batches import pad_texts
from raysearch.modalities.text.network import TextNetwork
from raysearch.modalities.text.primitives.transforms import vocabulary_of
from raysearch.plan import TrialPlan

BATCH = 64  # texts in a forward


def save_text_model(
    network: TextNetwork, plan: TrialPlan, metadata: Mapping[str, Any], data: Path, folder: Path
) -> None:
    """Writes body and end-task head of `network` as one model, and the tokenizer of the prepared data."""
    model = network.merged()
    model.config.id2label = dict(enumerate(metadata["labels"]))
    model.config.label2id = {label: i for i, label in enumerate(metadata["labels"])}
    model.config.pad_token_id = metadata["tokens"]["pad"]
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(data / "tokenizer"), model_max_length=plan.training.max_length)
    tokenizer.save_pretrained(str(folder))


def predict_texts(folder: Path, split: Split, longest: int, metadata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns logits (n, C) and labels (n,) of a split, by the model that `folder` holds, loaded as users load it."""
    vocabulary = vocabulary_of(metadata)
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    logits, labels = [], []
    with torch.no_grad():
        for rows in torch.arange(len(split)).split(BATCH):
            tokens = pad_texts(split, rows.tolist(), vocabulary, longest)
            real = (tokens != vocabulary.pad).long()
            logits.append(model(input_ids=tokens, attention_mask=real).logits.float())
            labels.append(labels_of(split, rows))
    return torch.cat(logits), torch.cat(labels)
