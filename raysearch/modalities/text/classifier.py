"""Classifiers of texts as their users load them: texts in, labels and probabilities out.

A kind of exported model is a subclass of `TextClassifier` with `logits`, and a line of `modalities.exported.FORMATS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raysearch.errors import RunError
from raysearch.modalities.exported import check_index, label_names

BATCH = 64  # texts in a forward
UNLIMITED = 1 << 20  # tokens; a tokenizer that declares no limit has a larger one


class TextClassifier(ABC):
    """A base of trained classifiers of texts."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)

    @abstractmethod
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Returns the logits (n, C) of texts, float32 on the CPU."""

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the probability of every label for each text (n, C)."""
        probabilities: NDArray[np.float64] = self._checked_logits(texts).double().softmax(dim=1).numpy()
        return probabilities

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Returns the most probable label of each text."""
        return [self.labels[number] for number in self._checked_logits(texts).argmax(dim=1).tolist()]

    def _checked_logits(self, texts: Sequence[str]) -> Tensor:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError("texts must be a list of texts")
        return self.logits(texts) if len(texts) else torch.empty(0, len(self.labels))


class SequenceClassifier(TextClassifier):
    """A Hugging Face sequence classifier and its tokenizer."""

    def __init__(self, labels: Sequence[str], model: Any, tokenizer: Any, longest: int) -> None:
        """`longest` is the number of tokens to which a text is truncated."""
        super().__init__(labels)
        self.model, self.tokenizer, self.longest = model.eval(), tokenizer, longest

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Returns the logits (n, C) of texts; texts of similar length are computed together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        logits = torch.empty(len(texts), len(self.labels))
        with torch.no_grad():
            for rows in torch.tensor(order).split(BATCH):
                encoded = self.tokenizer(
                    [texts[row] for row in rows.tolist()],
                    truncation=True,
                    max_length=self.longest,
                    padding=True,
                    return_tensors="pt",
                )
                inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
                logits[rows] = self.model(**inputs).logits.float()
        return logits


def load_sequence_classifier(folder: Path, config: Mapping[str, Any]) -> SequenceClassifier:
    """Loads a classifier that `transformers` knows by itself. Raises RunError for one that it cannot load."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = label_names(folder, config)
    check_index(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # transformers raises anything; a user reads one line
        raise RunError(
            f"{folder} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    return SequenceClassifier(labels, model, tokenizer, longest_text(tokenizer, config))


def longest_text(tokenizer: Any, config: Mapping[str, Any]) -> int:
    """Returns to how many tokens texts are truncated: the tokenizer's limit, or without one the model's positions."""
    if tokenizer.model_max_length < UNLIMITED:
        return int(tokenizer.model_max_length)
    positions = config.get("max_position_embeddings")
    return int(positions) - 2 if isinstance(positions, int) and positions > 4 else 512
