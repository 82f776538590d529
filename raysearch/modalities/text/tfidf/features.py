"""TF-IDF features, as scikit-learn's TfidfVectorizer makes them of a training split, and topics of them.

    tf(t, d)   how often word n-gram t occurs in text d, or 1 + ln of it (`sublinear_tf`)
    idf(t)     ln((1 + n) / (1 + df(t))) + 1, of the n texts of train, df(t) of which have t
    x (V,)     tf * idf of a text, divided by its Euclidean norm

    V (r, V)   the first right singular vectors of the domain's unlabelled texts (m, V), `topics: r`
    z (r,)     V x, divided by its Euclidean norm: what a text says, in the words that stand beside its own elsewhere

Latent semantic analysis, Deerwester et al. 1990. With topics, n-grams and idf are those of the domain's texts, too, so
that all of it is the same in every fold. Salton & Buckley, Term-weighting approaches in automatic text retrieval
(1988). A word is two or more letters, digits or underscores; texts are lower-cased. All of this follows from the data
and the settings, so that a trial stores none of it: it is computed again wherever its network is built, and an export
writes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.tfidf.config import TfidfSettings, TopicSettings, feature_settings
from raysearch.plan import TrialPlan

TOPIC_TEXTS = 20_000  # unlabelled texts that topics are made of, at most
REMEMBERED = 8  # splits
Matrix: TypeAlias = sparse.csr_matrix | NDArray[np.float64]  # of counts, or of topics


@dataclass(frozen=True)
class TextFeatures:
    """A map from texts to features: counts, or topics of them."""

    vectorizer: TfidfVectorizer
    components: NDArray[np.float32] | None = None  # V (r, V); None for the counts themselves
    memo: dict[bytes, Matrix] = field(default_factory=dict)  # what was transformed last, by a hash of the texts

    @property
    def count(self) -> int:
        """The number of features of a text."""
        return len(self.vectorizer.vocabulary_ if self.components is None else self.components)

    def transform(self, texts: Sequence[str]) -> Matrix:
        """Returns the features of texts: counts (n, V), sparse, or topics (n, r), dense."""
        counts = self.vectorizer.transform(texts)
        return counts if self.components is None else normalize(counts @ self.components.T.astype(np.float64))

    def recall(self, texts: Sequence[str]) -> Matrix:
        """Returns what `transform` does, which trials of one process ask for again and again."""
        digest = hashlib.sha256(json.dumps(texts).encode()).digest()
        if digest not in self.memo:
            while len(self.memo) >= REMEMBERED:
                del self.memo[next(iter(self.memo))]
            self.memo[digest] = self.transform(texts)
        return self.memo[digest]


def make_vectorizer(settings: TfidfSettings, vocabulary: dict[str, int] | None = None) -> TfidfVectorizer:
    """Returns a vectorizer with these settings, to be fitted, or with a vocabulary that is known."""
    limits: dict[str, Any] = {"min_df": settings.min_df, "max_features": settings.max_features}
    return TfidfVectorizer(
        ngram_range=(1, settings.ngrams),
        sublinear_tf=settings.sublinear_tf,
        vocabulary=vocabulary,
        **(limits if vocabulary is None else {}),
    )


def features_of(plan: TrialPlan) -> TextFeatures:
    """Returns the features of a plan, fitted to the trial's training split or to the domain's unlabelled texts.

    Raises ValueError if no n-gram is frequent enough, or if topics are declared and there is no unlabelled text.
    """
    group = feature_settings(plan.model)
    settings = {name: plan.settings[name] for name in group.__dataclass_fields__}
    if group is TopicSettings:
        plan = replace(plan, folds=0, fold=0)
    seed = plan.seed if plan.folds else 0  # which decides the rows of a fold, and nothing else here
    what_decides = replace(plan, number=0, arm="any", role="any", params={}, score_step=0)
    what_decides = replace(what_decides, seed=seed, settings=settings)
    return (_fit_topics if group is TopicSettings else _fit_counts)(what_decides.to_json())


@functools.lru_cache(maxsize=4)  # trials that differ in their head alone follow one another
def _fit_counts(plan_json: str) -> TextFeatures:
    from raysearch.modalities.opening import open_splits_of

    plan = TrialPlan.from_json(plan_json)
    split = cast(TextSplit, open_splits_of(plan)("train"))
    return TextFeatures(make_vectorizer(plan.settings_group(TfidfSettings)).fit(split.texts_of(range(len(split)))))


@functools.lru_cache(maxsize=4)  # which take seconds, and are the same for all folds and seeds
def _fit_topics(plan_json: str) -> TextFeatures:
    from raysearch.modalities.opening import open_splits_of

    plan = TrialPlan.from_json(plan_json)
    settings, splits = plan.settings_group(TopicSettings), open_splits_of(plan)
    split = cast(TextSplit, splits("domain"))
    rows = np.sort(np.random.default_rng(0).permutation(len(split))[:TOPIC_TEXTS])
    vectorizer = make_vectorizer(settings)
    counts = vectorizer.fit_transform(split.texts_of(rows.tolist()))
    rank = min(settings.topics, min(counts.shape) - 1)
    if rank < 1:
        raise ValueError(f"topics need unlabelled text with at least two texts and two words, got {counts.shape}")
    analysis = TruncatedSVD(rank, random_state=0).fit(counts)
    return TextFeatures(vectorizer, analysis.components_.astype(np.float32))
