"""Data primitives of text: where the examples of an objective come from."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.preprocessing import normalize

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit
from raysearch.modalities.text.dataset import TextSplit

NEIGHBOURS = 10  # unlabelled texts that each labelled one brings
COMPARED_TOGETHER = 4096


def end_task(open_split: OpenSplit) -> Split:
    """Opens the end task's training examples."""
    return open_split("train")


def in_domain(open_split: OpenSplit) -> Split:
    """Opens unlabelled text of the end task's domain."""
    return open_split("domain")


def nearest(open_split: OpenSplit) -> Split:
    """Opens the unlabelled texts of the domain that are nearest to the labelled ones, NEIGHBOURS of each.

    Near is the cosine of TF-IDF vectors of tokens, with idf(t) = ln((1 + m) / (1 + df(t))) of the m unlabelled texts,
    so that what stands in all of them counts for nothing. As TLM retrieves (Yao et al. 2022,
    https://arxiv.org/abs/2111.04130).
    """
    labelled, domain = cast(TextSplit, open_split("train")), cast(TextSplit, open_split("domain"))
    size = 1 + max(int(split.tokens.max(initial=0)) for split in (labelled, domain))
    counts = _token_counts(domain, size)
    idf = np.log((1 + len(domain)) / (1 + np.bincount(counts.indices, minlength=size)))
    references, X = (normalize(each @ sparse.diags(idf)) for each in (_token_counts(labelled, size), counts))
    chosen = np.zeros(len(domain), dtype=bool)
    for begin in range(0, len(labelled), COMPARED_TOGETHER):
        for similarity in (references[begin : begin + COMPARED_TOGETHER] @ X.T).tocsr():
            order = np.argsort(-similarity.data, kind="stable")[:NEIGHBOURS]
            chosen[similarity.indices[order]] = True
    return _rows_of(domain, np.flatnonzero(chosen) if chosen.any() else np.arange(len(domain)))


def _token_counts(split: TextSplit, size: int) -> sparse.csr_matrix:
    """Returns how often each token id stands in each text (n, size)."""
    texts = np.repeat(np.arange(len(split)), split.lengths)
    ones = np.ones(len(texts))
    return sparse.coo_matrix((ones, (texts, np.asarray(split.tokens))), shape=(len(split), size)).tocsr()


def _rows_of(split: TextSplit, rows: NDArray[np.int64]) -> TextSplit:
    """Returns some texts of a split as a split of their own, in memory."""
    texts = [np.asarray(split.row(row)) for row in rows.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return TextSplit(offsets, np.concatenate(texts), None)


def out_of_domain(open_split: OpenSplit) -> Split:
    """Opens unlabelled text of another domain."""
    return open_split("out_of_domain")


def neural_lm(open_split: OpenSplit) -> Split:
    """Opens text that a language model has written (ELECTRA's row of AANG's Figure 1); raysearch generates none."""
    return open_split("neural_lm")
