"""An exported bag of words: safetensors and JSON, which hold numbers and texts alone.

config.json         raysearch_format, labels, and the settings of the features
vocabulary.json     the n-grams, a list in the order of the features
model.safetensors   idf (V,), weight (C, V) and bias (C,) of the linear classifier; with topics, components (r, V) and
                    weight (C, r)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raysearch.data.prepared import Split
from raysearch.errors import RunError
from raysearch.modalities.base import CardFacts
from raysearch.modalities.batch import labels_of
from raysearch.modalities.exported import FORMAT_KEY, label_names, read_json
from raysearch.modalities.text.classifier import TextClassifier
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.tfidf.config import TfidfSettings, TopicSettings, feature_settings
from raysearch.modalities.text.tfidf.features import TextFeatures, features_of, make_vectorizer
from raysearch.modalities.text.tfidf.network import TfidfNetwork
from raysearch.plan import TrialPlan

FORMAT = "tfidf"  # a key of modalities.exported.FORMATS
VERSION = 1
TEXTS_TOGETHER = 4096


class TfidfClassifier(TextClassifier):
    """A linear classifier on TF-IDF features."""

    def __init__(self, labels: Sequence[str], features: TextFeatures, weight: NDArray[Any], bias: NDArray[Any]) -> None:
        """Takes the classifier's weight (C, F), F the number of features, and bias (C,)."""
        super().__init__(labels)
        self.features, self.weight, self.bias = features, weight, bias

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Returns the logits (n, C) of texts."""
        parts = []
        for start in range(0, len(texts), TEXTS_TOGETHER):
            features = self.features.transform(texts[start : start + TEXTS_TOGETHER])
            parts.append(features @ self.weight.T + self.bias)
        return torch.from_numpy(np.concatenate(parts)).float()


def save_tfidf(network: TfidfNetwork, plan: TrialPlan, metadata: Mapping[str, Any], folder: Path) -> None:
    """Writes the features and the classifier of a plan's network."""
    features, settings = features_of(plan), plan.settings_group(feature_settings(plan.model))
    config = {FORMAT_KEY: FORMAT, "version": VERSION, "labels": list(metadata["labels"]), "features": asdict(settings)}
    if features.components is not None:
        config["rank"] = len(features.components)
    for name, content in (("config", config), ("vocabulary", features.vectorizer.get_feature_names_out().tolist())):
        text = json.dumps(content, indent=1 if name == "config" else None, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    linear = network.classifier
    tensors = {"idf": torch.from_numpy(features.vectorizer.idf_.astype(np.float64))}
    if features.components is not None:
        tensors["components"] = torch.from_numpy(np.ascontiguousarray(features.components))
    tensors |= {name: getattr(linear, name).detach().float().cpu().contiguous() for name in ("weight", "bias")}
    save_file(tensors, folder / "model.safetensors")


def load_tfidf(folder: Path, config: Mapping[str, Any]) -> TfidfClassifier:
    """Loads what `save_tfidf` wrote. Raises RunError for a folder that is damaged or of a later version."""
    labels, settings = label_names(folder, config), _settings(folder, config)
    terms = read_json(folder, "vocabulary.json")
    if not isinstance(terms, list) or not terms or not all(isinstance(term, str) for term in terms):
        raise RunError(f"{folder}/vocabulary.json must hold a list of texts")
    vocabulary = {term: i for i, term in enumerate(terms)}
    if len(vocabulary) < len(terms):
        raise RunError(f"{folder}/vocabulary.json lists an n-gram twice")
    rank = config["rank"] if isinstance(config.get("rank"), int) else 0
    shapes = {"idf": (len(terms),), "weight": (len(labels), rank or len(terms)), "bias": (len(labels),)}
    shapes |= {"components": (rank, len(terms))} if rank else {}
    tensors = _tensors(folder / "model.safetensors", shapes)
    vectorizer = make_vectorizer(settings, vocabulary)
    vectorizer.idf_ = tensors["idf"]
    components = tensors["components"].astype(np.float32) if rank else None
    return TfidfClassifier(labels, TextFeatures(vectorizer, components), tensors["weight"], tensors["bias"])


def predict_split(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Returns logits (n, C) and labels (n,) of a split, by the model that `folder` holds."""
    classifier = load_tfidf(folder, read_json(folder, "config.json"))
    rows = torch.arange(len(split))
    return classifier.logits(cast(TextSplit, split).texts_of(rows.tolist())), labels_of(split, rows)


def card_facts(*, has_topics: bool) -> CardFacts:
    """Returns the facts that a model card states of a bag of words."""
    usage = (
        "import raysearch\n\n"
        'classifier = raysearch.load_model("PATH OF THIS FOLDER")\n'
        'print(classifier.predict(["a text"]), classifier.predict_proba(["a text"]))\n'
    )
    return CardFacts(
        library="raysearch",
        pipeline="text-classification",
        task="Text classification",
        encoder="lsa" if has_topics else "tfidf",
        loaded_from=None,
        usage=usage,
        start="a linear classifier on TF-IDF features of word n-grams"
        + (", reduced by latent semantic analysis of unlabelled text" if has_topics else ""),
    )


def _settings(folder: Path, config: Mapping[str, Any]) -> TfidfSettings:
    """Returns the checked settings of the features."""
    if config.get("version") != VERSION:
        raise RunError(f"{folder}/config.json: version {config.get('version')!r} of {FORMAT}; this raysearch reads 1")
    declared = config.get("features")
    try:
        group = TopicSettings if "rank" in config else TfidfSettings
        return group(**declared)  # type: ignore[arg-type]  # anything else than a mapping is a TypeError
    except (TypeError, ValueError) as error:
        raise RunError(f"{folder}/config.json: features: {error}") from None


def _tensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """Returns tensors of these names and shapes as float64. Raises RunError for a file without them."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from None
    checked = {}
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            shown = tuple(tensors[name].shape) if name in tensors else "none"
            raise RunError(f"{file}: {name} must have the shape {shape}, and has {shown}")
        checked[name] = tensors[name].double().numpy()
        if not np.isfinite(checked[name]).all():
            raise RunError(f"{file}: {name} holds numbers that are not finite")
    return checked
