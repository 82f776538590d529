"""Bags of words as a search declares them: `model: tfidf`, and `model: lsa`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
class TopicSettings(TfidfSettings):
    """How texts become features that unlabelled text has a part in."""

    topics: int = setting(
        200, "dimensions to which the counts are reduced, by latent semantic analysis", low=1, high=1000
    )


@dataclass(frozen=True, kw_only=True)
class BagOfWords(ModelConfig):
    """A fixed map from texts to numbers that are made of counts of word n-grams; only its linear head is fitted."""

    unused_settings: ClassVar[tuple[str, ...]] = ("max_length", "precision", *LAYER_SETTINGS)
    takes_steps: ClassVar[bool] = False
    reads_stored: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class TfidfModel(BagOfWords):
    """Weighted counts of word n-grams."""

    own_keys: ClassVar[tuple[str, ...]] = ("tfidf",)
    settings: ClassVar[type[Settings]] = TfidfSettings

    tfidf: Literal["words"] = config_key("what a text is counted in")


@dataclass(frozen=True, kw_only=True)
class TopicModel(BagOfWords):
    """Weighted counts of word n-grams, reduced by a latent semantic analysis of the domain's unlabelled texts."""

    own_keys: ClassVar[tuple[str, ...]] = ("topics",)
    settings: ClassVar[type[Settings]] = TopicSettings

    topics: Literal["words"] = config_key("what a text is counted in")


def feature_settings(model: Mapping[str, Any]) -> type[TfidfSettings]:
    """Returns the settings of a bag of words, given its declaration."""
    return TopicSettings if "topics" in model else TfidfSettings
