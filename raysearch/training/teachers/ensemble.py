"""The incumbents' ensemble: logistic regressions on the encoder's vectors as it began, and on TF-IDF, averaged.

    A (n, H)   the vectors of n examples before training, centred, and scaled so that their mean squared norm is 1
    B (n, F)   TF-IDF: sublinear counts of tokens and pairs times inverse document frequency, each row of norm 1
    L (n, C)   (ln p_A + ln p_B) / 2, normalised: the geometric mean of both regressions' probabilities
    T          the temperature by which L is divided, so that the labelled examples, each predicted by regressions on
               the others, are as likely as can be (Guo et al. 2017, https://arxiv.org/abs/1706.04599)

The two views are unlike, so that what both say is more often right (Blum and Mitchell, Co-Training, 1998). Everything
is fitted to the trial's own training examples; unlabelled ones only count in the mean and in document frequencies.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

Array = NDArray[np.float64]
VECTOR_C, COUNT_C = 3.0, 30.0  # inverse penalties: the best, over Reuters R8, of 1 to 30 and of 3 and 30
FLOOR = 1e-6  # of a probability
FOLDS, REPEATS = 5, 2  # of the cross-validation
TEMPERATURES = np.geomspace(0.05, 3.0, 40)
ITERATIONS, TOLERANCE = 300, 1e-3  # of L-BFGS


@dataclass(frozen=True)
class Views:
    """The two views of examples."""

    A: Array
    B: sparse.csr_matrix

    def __len__(self) -> int:
        return len(self.A)

    def take(self, rows: NDArray[Any]) -> Views:
        """Returns some of the examples."""
        return Views(self.A[rows], self.B[rows])

    def join(self, more: Views) -> Views:
        """Returns these examples and others after them."""
        return Views(np.concatenate([self.A, more.A]), sparse.vstack([self.B, more.B], format="csr"))


def make_views(
    vectors: tuple[NDArray[Any], NDArray[Any]], counts: tuple[sparse.csr_matrix, sparse.csr_matrix]
) -> tuple[Views, Views]:
    """Returns the views of labelled and unlabelled examples, of their vectors (n, H) and counts (n, F) each."""
    labelled, unlabelled = (each.astype(np.float64) for each in vectors)
    mean = np.concatenate([labelled, unlabelled]).mean(axis=0)
    scale = float(np.sqrt(np.square(labelled - mean).sum(axis=1).mean())) or 1.0
    A = [(each - mean) / scale for each in (labelled, unlabelled)]
    all_counts = sparse.vstack(counts, format="csr")
    texts_with = np.bincount(all_counts.indices, minlength=all_counts.shape[1])
    idf = np.log((1 + all_counts.shape[0]) / (1 + texts_with)) + 1
    used = np.flatnonzero(texts_with > 1)  # what stands in one example only says nothing of others
    B = [_tfidf(each[:, used], idf[used]) for each in counts]
    return Views(A[0], B[0]), Views(A[1], B[1])


def _tfidf(counts: sparse.csr_matrix, idf: Array) -> sparse.csr_matrix:
    values = counts.astype(np.float64)
    values.data = 1 + np.log(values.data)
    values = values @ sparse.diags(idf)
    norms = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)))[:, 0]
    return (sparse.diags(1 / np.where(norms > 0, norms, 1.0)) @ values).tocsr()


def fit_predict(labelled: Views, y: NDArray[Any], others: Views, classes: int) -> Array:
    """Returns L (m, C) of other examples, by regressions on labelled ones with classes y (n,)."""
    parts = []
    for X, C, Z in ((labelled.A, VECTOR_C, others.A), (labelled.B, COUNT_C, others.B)):
        p = np.full((len(others), classes), FLOOR)
        present = np.unique(y)
        if len(present) == 1:
            p[:, present] = 1.0
        else:
            X, Z = _in_span(X, Z)
            model = LogisticRegression(C=C, max_iter=ITERATIONS, tol=TOLERANCE, class_weight="balanced").fit(X, y)
            p[:, present] = model.predict_proba(Z)
        parts.append(np.log(np.maximum(p, FLOOR)))
    L: Array = log_softmax((parts[0] + parts[1]) / 2, axis=1)
    return L


def _in_span(X: Any, Z: Any) -> tuple[Any, Any]:
    """Returns examples (n, F) and others (m, F) in coordinates (n, r) and (m, r) of the span of the n examples.

    The solution of a penalised regression lies in that span, so that it stays the same; it costs much less where
    features are many.
    """
    if X.shape[0] >= X.shape[1]:
        return X, Z
    gram, products = X @ X.T, Z @ X.T
    dense = (each.toarray() if sparse.issparse(each) else each for each in (gram, products))
    G, H = dense
    values, U = np.linalg.eigh(G)
    is_large = values > 1e-10 * values.max()
    roots = np.sqrt(values[is_large])
    return U[:, is_large] * roots, H @ U[:, is_large] / roots


def cross_predict(labelled: Views, y: NDArray[Any], classes: int, seed: int) -> Array | None:
    """Returns L (n, C) of each labelled example by regressions on the others, averaged over repeats.

    None where no class has two examples: nothing can then be said of guesses.
    """
    counts = np.bincount(y, minlength=classes)
    folds = min(FOLDS, int(counts.max()))
    if folds < 2 or len(np.unique(y)) < 2:
        return None
    total = np.zeros((len(y), classes))
    for repeat in range(REPEATS):
        for rest, part in folds_of(y, folds, seed + repeat):
            total[part] += fit_predict(labelled.take(rest), y[rest], labelled.take(part), classes) / REPEATS
    return total


def folds_of(y: NDArray[Any], folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Returns the rows of all folds but one, and those of the one, for each fold; each has a share of every class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer examples than folds: they miss in some
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y))


def temperature(L: Array, y: NDArray[Any]) -> float:
    """Returns T, under which the classes are as likely as can be.

    A class counts as right in all but one of n_c + 2 cases, as in Platt's scaling (Advances in Large Margin
    Classifiers, 1999): a few examples that happen to be right say little.
    """
    classes = L.shape[1]
    doubt = 1 / (np.bincount(y, minlength=classes)[y] + 2)
    smoothed = np.tile((doubt / max(1, classes - 1))[:, None], (1, classes))
    smoothed[np.arange(len(y)), y] = 1 - doubt
    losses = [-(smoothed * log_softmax(L / T, axis=1)).sum(axis=1).mean() for T in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def sharpen(L: Array, T: float) -> Array:
    """Returns probabilities (n, C)."""
    p: Array = softmax(L / T, axis=1)
    return p
