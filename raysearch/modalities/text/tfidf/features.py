"""TF-IDF features, as scikit-learn's TfidfVectorizer makes them of a training split.

    tf(t, d)   how often word n-gram t occurs in text d, or 1 + ln of it (`sublinear_tf`)
    idf(t)     ln((1 + n) / (1 + df(t))) + 1, of the n texts of train, df(t) of which have t
    x (V,)     tf * idf of a text, divided by its Euclidean norm

Salton & Buckley, Term-weighting approaches in automatic text retrieval (1988). A word is two or more letters, digits or
underscores; texts are lower-cased. The vocabulary and idf follow from the training split and the settings, so that a
trial stores neither: they are computed again wherever its network is built, and an export writes them.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, cast

from sklearn.feature_extraction.text import TfidfVectorizer

from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.tfidf.config import TfidfSettings
from raysearch.plan import TrialPlan


def make_vectorizer(settings: TfidfSettings, vocabulary: dict[str, int] | None = None) -> TfidfVectorizer:
    """Returns a vectorizer with these settings, to be fitted, or with a vocabulary that is known."""
    limits: dict[str, Any] = {"min_df": settings.min_df, "max_features": settings.max_features}
    return TfidfVectorizer(
        ngram_range=(1, settings.ngrams),
        sublinear_tf=settings.sublinear_tf,
        vocabulary=vocabulary,
        **(limits if vocabulary is None else {}),
    )


def vectorizer_of(plan: TrialPlan) -> TfidfVectorizer:
    """Returns the vectorizer of a plan, fitted to the trial's training split.

    Raises ValueError if no n-gram is frequent enough.
    """
    seed = plan.seed if plan.folds else 0  # which decides the rows of a fold, and nothing else here
    settings = {name: plan.settings[name] for name in TfidfSettings.__dataclass_fields__}
    what_decides = replace(plan, number=0, arm="any", role="any", params={}, score_step=0)
    what_decides = replace(what_decides, seed=seed, settings=settings)
    return _fitted(what_decides.to_json())


@functools.lru_cache(maxsize=4)  # trials that differ in their head alone follow one another
def _fitted(plan_json: str) -> TfidfVectorizer:
    from raysearch.modalities.opening import open_splits_of

    plan = TrialPlan.from_json(plan_json)
    split = cast(TextSplit, open_splits_of(plan)("train"))
    return make_vectorizer(plan.settings_group(TfidfSettings)).fit(split.texts_of(range(len(split))))
