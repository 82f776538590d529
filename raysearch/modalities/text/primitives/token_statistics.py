"""Lexical statistics of a split: the term frequency and the tf-idf of each of its tokens.

tf(w, d)     occurrences of w in text d / tokens of d
idf(w)       ln((1 + n) / (1 + texts with w)) + 1, over the n texts of the split (scikit-learn's smoothing)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

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


PAIR_COLUMNS = 1 << 18  # columns of pairs of tokens; a pair has the column of its hash


def token_counts(examples: Sequence[NDArray[np.int32]], vocabulary: Vocabulary) -> sparse.csr_matrix:
    """Returns how often each token stands in each text, and each pair of neighbours: (n, V + PAIR_COLUMNS).

    Special tokens count as absent. Pairs are hashed, so that the columns of all splits mean the same.
    """
    lengths = np.array([len(example) for example in examples], dtype=np.int64)
    tokens = np.concatenate([np.asarray(example, dtype=np.int64) for example in examples] or [np.empty(0, np.int64)])
    texts = np.repeat(np.arange(len(examples)), lengths)
    ordinary = ~np.isin(tokens, vocabulary.special)
    tokens, texts = tokens[ordinary].astype(np.int64), texts[ordinary]
    is_pair = texts[1:] == texts[:-1]
    hashed = (tokens[:-1] * 0x9E3779B1 + tokens[1:]) % PAIR_COLUMNS
    rows = np.concatenate([texts, texts[:-1][is_pair]])
    columns = np.concatenate([tokens, vocabulary.size + hashed[is_pair]])
    ones = np.ones(len(rows), dtype=np.float32)
    counts = sparse.coo_matrix((ones, (rows, columns)), shape=(len(examples), vocabulary.size + PAIR_COLUMNS))
    return counts.tocsr()
