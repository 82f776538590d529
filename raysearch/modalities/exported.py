"""Loading a text classifier that `raysearch export` wrote, whatever its kind.

config.json says what a folder holds. Its key `raysearch_format` names one of FORMATS; without it the folder holds a
sequence classifier that `transformers` loads by itself. A folder may be a stranger's: nothing in it is run, and what is
wrong with it is one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raysearch.errors import RunError, did_you_mean
from raysearch.models.model_folder import index_findings
from raysearch.objectives.primitive import load_target

FORMAT_KEY = "raysearch_format"
FORMATS: dict[str, str] = {  # the name, and the target "module:function" that loads it: (folder, config) -> classifier
    "": "raysearch.modalities.text.classifier:load_sequence_classifier",
    "pooled_encoder": "raysearch.modalities.text.pooled_model:load_pooled_classifier",
    "ensemble": "raysearch.modalities.text.ensemble:load_ensemble",
    "tfidf": "raysearch.modalities.text.tfidf.export:load_tfidf",
}
INDEX = "model.safetensors.index.json"
LARGEST_CONFIG = 64 << 20  # bytes


class Classifier(Protocol):
    """A trained classifier of texts."""

    @property
    def labels(self) -> list[str]:
        """The labels; column i of `predict_proba` is that of label i."""

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Returns the most probable label of each text."""

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the probability of every label for each text (n, C)."""


def load_model(folder: Path | str) -> Classifier:
    """Loads the classifier of texts that `raysearch export` wrote to `folder`.

    Raises RunError, one line, if the folder holds none or is damaged.
    """
    folder = Path(folder)
    config = read_json(folder, "config.json")
    if not isinstance(config, dict):
        raise RunError(f"{folder}/config.json must hold one object")
    if "architecture" in config or not (FORMAT_KEY in config or "model_type" in config):
        raise RunError(f"{folder} holds no classifier of texts; raysearch.load_image_model reads those of images")
    name = config.get(FORMAT_KEY, "")
    if not isinstance(name, str) or name not in FORMATS:
        near = did_you_mean(str(name), FORMATS)
        raise RunError(f"{folder}/config.json: unknown {FORMAT_KEY} {name!r}{near}; a later raysearch may read it")
    classifier: Classifier = load_target(FORMATS[name])(folder, config)
    return classifier


def read_json(folder: Path, name: str) -> Any:
    """Returns what a JSON file of the folder holds. Raises RunError if there is none."""
    file = folder / name
    if not file.is_file():
        raise RunError(f"{folder} holds no exported model (no {name})")
    if file.stat().st_size > LARGEST_CONFIG:
        raise RunError(f"{file} is too large to be one of raysearch's: {file.stat().st_size} bytes")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is no JSON: {error!s:.200}") from None


def check_index(folder: Path) -> None:
    """Raises RunError if an index of weights names files that lie elsewhere, are missing or damaged."""
    if not (folder / INDEX).exists():
        return
    index = read_json(folder, INDEX)
    for finding in index_findings(folder, index if isinstance(index, dict) else {}):
        raise RunError(finding.text)


def label_names(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Returns the labels that a config lists as `labels` or `id2label`. Raises RunError unless they are distinct."""
    labels = config.get("labels")
    if labels is None and isinstance(names := config.get("id2label"), dict):
        labels = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
        raise RunError(f"{folder}/config.json: must list at least two labels, each a text")
    if len(set(labels)) < len(labels):
        raise RunError(f"{folder}/config.json: lists a label twice")
    return labels
