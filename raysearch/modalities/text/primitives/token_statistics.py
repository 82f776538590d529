"""Lexical statistics of a split: the term frequency and the tf-idf of each of its tokens.

tf(w, d)     occurrences of w in text d / tokens of d
idf(w)       ln((1 + n) / (1 + texts with w)) + 1, over the n texts of the split (scikit-learn's smoothing)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.primitives.transforms import Vocabulary


def token_statistics(split: TextSplit, vocabulary: Vocabulary) -> dict[str, NDArray[np.float32]]:
    """Returns `tf` and `tfidf` of every token of a split (tokens,), standardised; special tokens have 0."""
    n, tokens = len(split), np.asarray(split.tokens, dtype=np.int64)
    texts = np.repeat(np.arange(n), split.lengths)
    ordinary = ~np.isin(tokens, vocabulary.special)
    pairs = texts[ordinary] * vocabulary.size + tokens[ordinary]
    distinct, index, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    texts_with = np.bincount(distinct % vocabulary.size, minlength=vocabulary.size)  # texts with each token
    idf = np.log((1 + n) / (1 + texts_with)) + 1
    lengths = np.bincount(texts[ordinary], minlength=n)
    tf = counts[index] / lengths[texts[ordinary]]
    statistics = {}
    for name, values in (("tf", tf), ("tfidf", tf * idf[tokens[ordinary]])):
        all_values = np.zeros(len(tokens), dtype=np.float32)
        if len(values):
            all_values[ordinary] = (values - values.mean()) / (values.std() or 1.0)
        statistics[name] = all_values
    return statistics
