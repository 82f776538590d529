"""The bag of words as a search declares it: `model: tfidf`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from raysearch.modalities.base import ModelConfig
from raysearch.schema.fields import Settings, config_key, setting
from raysearch.training_settings import LAYER_SETTINGS


@dataclass(frozen=True, kw_only=True)
class TfidfSettings(Settings):
    """How texts become features."""

    ngrams: int = setting(2, "longest sequence of words that is a feature", low=1, high=5, unit="word")
    sublinear_tf: bool = setting(True, "a feature counts 1 + ln(occurrences) in a text, not its occurrences")
    min_df: int = setting(1, "texts of the training split that must have a feature", low=1, unit="text")
    max_features: int = setting(50_000, "features that are kept, the most frequent ones", low=1, unit="feature")


@dataclass(frozen=True, kw_only=True)
class TfidfModel(ModelConfig):
    """A fixed map from texts to weighted counts of word n-grams; only its linear head is fitted."""

    own_keys: ClassVar[tuple[str, ...]] = ("tfidf",)
    settings: ClassVar[type[Settings]] = TfidfSettings
    unused_settings: ClassVar[tuple[str, ...]] = ("max_length", "precision", *LAYER_SETTINGS)
    takes_steps: ClassVar[bool] = False
    reads_stored: ClassVar[bool] = False

    tfidf: Literal["words"] = config_key("what a text is counted in")
