"""What raysearch knows about each modality: one folder and one line of MODALITIES for each.

A modality is one object, an instance of `base.Modality`, and imports torch only in the methods that need it. Other
packages reach a modality through this registry alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysearch.errors import did_you_mean
from raysearch.modalities.base import Modality
from raysearch.objectives.primitive import DEFAULT_MODALITY, load_target

MODALITIES: dict[str, str] = {  # the name, `kind:` in YAML, and the target "module:object"
    "text": "raysearch.modalities.text.modality:TEXT",
    "image": "raysearch.modalities.image.modality:IMAGE",
    "table": "raysearch.modalities.table.modality:TABLE",
}


def load_modality(name: str) -> Modality:
    """Imports and returns the modality of that name.

    Raises ValueError for an unknown name.
    """
    if name not in MODALITIES:
        raise ValueError(f"unknown modality {name!r}{did_you_mean(name, MODALITIES)}")
    modality: Modality = load_target(MODALITIES[name])
    return modality


def all_modalities() -> list[Modality]:
    """Imports and returns all modalities, in the registry's order."""
    return [load_modality(name) for name in MODALITIES]


def modality_of(metadata: Mapping[str, Any]) -> Modality:
    """Returns the modality of a prepared task, of what its data.json holds."""
    return load_modality(metadata.get("kind", DEFAULT_MODALITY))
