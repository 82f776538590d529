"""Lexical statistics: how much each token of a split tells of its text, from the split alone.

tf(w, d)     how often w stands in text d / tokens of d
idf(w)       ln((1 + n) / (1 + texts with w)) + 1, over the n texts of the split (scikit-learn's smoothing)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.transforms import Vocabulary


def token_statistics(split: TextSplit, vocabulary: Vocabulary) -> dict[str, NDArray[np.float32]]:
    """`tf` and `tfidf` of every token of a split (tokens,), each with mean 0 and deviation 1; 0 for special tokens."""
    n, tokens = len(split), np.asarray(split.tokens, dtype=np.int64)
    texts = np.repeat(np.arange(n), split.lengths)
    ordinary = ~np.isin(tokens, vocabulary.special)
    pairs = texts[ordinary] * vocabulary.size + tokens[ordinary]
    each, where, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    having = np.bincount(each % vocabulary.size, minlength=vocabulary.size)  # texts with each token
    idf = np.log((1 + n) / (1 + having)) + 1
    lengths = np.bincount(texts[ordinary], minlength=n)
    tf = counts[where] / lengths[texts[ordinary]]
    found = {}
    for name, values in (("tf", tf), ("tfidf", tf * idf[tokens[ordinary]])):
        whole = np.zeros(len(tokens), dtype=np.float32)
        if len(values):
            whole[ordinary] = (values - values.mean()) / (values.std() or 1.0)
        found[name] = whole
    return found
