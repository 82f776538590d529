"""Loading an exported ensemble of text classifiers: the members' models, and their weights in config.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysearch.errors import RunError
from raysearch.modalities.exported import FORMAT_KEY, Classifier, label_names, load_model, read_json
from raysearch.modalities.text.classifier import TextClassifier
from raysearch.models.averaging import LOWEST, average, log_probabilities

_MEMBER = re.compile(r"members/[a-z][a-z0-9_]{0,99}")
FORMAT = "ensemble"


class EnsembleClassifier(TextClassifier):
    """The weighted mean of the log-probabilities of several classifiers, see `models.averaging`."""

    def __init__(self, labels: Sequence[str], members: Sequence[Classifier], weights: Sequence[float]) -> None:
        super().__init__(labels)
        self.members, self.weights = list(members), np.array(weights)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Returns the logits (n, C) of texts."""
        p = np.stack([member.predict_proba(texts) for member in self.members], axis=1)
        log_p = log_probabilities(np.log(np.maximum(p, LOWEST)))
        return torch.from_numpy(average(log_p, self.weights)).float()


def load_ensemble(folder: Path, config: Mapping[str, Any]) -> EnsembleClassifier:
    """Loads an ensemble. Raises RunError for members that are not in the folder, or for wrong weights or labels."""
    labels, declared = label_names(folder, config), config.get("members")
    if not isinstance(declared, list) or not declared:
        raise RunError(f"{folder}/config.json: must list members")
    members, weights = [], []
    for each in declared:
        name, weight = (each.get("folder"), each.get("weight")) if isinstance(each, dict) else (None, None)
        if not isinstance(name, str) or not _MEMBER.fullmatch(name):
            raise RunError(f"{folder}/config.json: a member's folder is members/NAME, not {name!r:.80}")
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
            raise RunError(f"{folder}/config.json: the weight of {name} must be a number above 0")
        place = folder / name
        if not place.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{place} is a link out of the model's folder")
        if read_json(place, "config.json").get(FORMAT_KEY) == FORMAT:
            raise RunError(f"{place} is itself an ensemble")
        member = load_model(place)
        if member.labels != labels:
            raise RunError(f"{place} has other labels than the ensemble")
        members.append(member)
        weights.append(float(weight))
    return EnsembleClassifier(labels, members, weights)
