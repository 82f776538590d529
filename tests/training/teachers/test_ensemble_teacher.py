import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from raysearch.training.teachers.ensemble import (
    COUNT_C,
    VECTOR_C,
    Views,
    cross_predict,
    fit_predict,
    make_views,
    sharpen,
    temperature,
)
from raysearch.training.teachers.guarded_ensemble import teach
from raysearch.training.teachers.purity import adjust, class_shares, estimate

CHANCE = np.random.default_rng(0)


def blobs(counts: list[int], distance: float = 4.0, seed: int = 0) -> tuple[Views, np.ndarray]:
    """Examples of classes whose vectors and counts separate them the more, the larger the distance."""
    chance = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    A = chance.normal(size=(len(y), 6)) / 6**0.5
    A[np.arange(len(y)), y] += distance / 6**0.5
    B = sparse.csr_matrix(np.maximum(A, 0) + 0.01)
    return Views(A, B), y


def test_ensemble_is_geometric_mean_of_two_regressions() -> None:
    labelled, y = blobs([6, 6, 6])
    others, _ = blobs([5, 5, 5], seed=1)
    options = {"max_iter": 3000, "tol": 1e-8, "class_weight": "balanced"}
    p, q = (
        LogisticRegression(C=C, **options).fit(X, y).predict_proba(Z)
        for C, X, Z in ((VECTOR_C, labelled.A, others.A), (COUNT_C, labelled.B, others.B))
    )
    expected = np.sqrt(p * q) / np.sqrt(p * q).sum(axis=1, keepdims=True)
    assert np.allclose(softmax(fit_predict(labelled, y, others, 3), axis=1), expected, atol=1e-2)


def test_ensemble_in_span_of_few_examples_is_the_same() -> None:
    wide = Views(CHANCE.normal(size=(12, 40)), sparse.csr_matrix(np.abs(CHANCE.normal(size=(12, 50)))))
    y = np.repeat([0, 1], 6)
    model = LogisticRegression(C=VECTOR_C, max_iter=3000, tol=1e-8).fit(wide.A, y)
    text = LogisticRegression(C=COUNT_C, max_iter=3000, tol=1e-8).fit(wide.B, y)
    logits = (model.decision_function(wide.A) + text.decision_function(wide.B)) / 2
    assert np.allclose(softmax(fit_predict(wide, y, wide, 2), axis=1)[:, 1], 1 / (1 + np.exp(-logits)), atol=1e-2)


def test_cross_predict_sees_no_label_of_its_own() -> None:
    views, y = blobs([10, 10], distance=0.0)
    L = cross_predict(views, y, 2, 0)
    assert L is not None
    assert np.mean(L.argmax(axis=1) == y) < 0.75  # by heart it would be 1
    assert cross_predict(views.take(np.array([0, 10])), y[[0, 10]], 2, 0) is None


def test_make_views_scale_and_document_frequencies() -> None:
    vectors = CHANCE.normal(size=(5, 3)), CHANCE.normal(size=(7, 3)) * 2
    counts = sparse.csr_matrix([[1.0, 1, 0], [0, 2, 0]] * 2 + [[1, 0, 0]]), sparse.csr_matrix(np.eye(7, 3) + 1)
    first, second = make_views(vectors, counts)
    assert np.square(first.A).sum(axis=1).mean() == pytest.approx(1)
    assert np.concatenate([first.A, second.A]).mean(axis=0) == pytest.approx(0)
    assert np.allclose(np.square(second.B.toarray()).sum(axis=1), 1)


def test_temperature_of_confident_mistakes_is_above_one() -> None:
    y = np.arange(40) % 2
    L = np.log(np.where(np.eye(2)[y] > 0, 0.99, 0.01))
    wrong = L.copy()
    wrong[:12] = L[:12, ::-1]
    assert temperature(wrong, y) > 1 > temperature(L * 0.2, y)
    assert sharpen(L, 1.0).sum(axis=1) == pytest.approx(1)


def test_class_shares_of_uneven_rows_are_estimated() -> None:
    labelled, y = blobs([30, 30, 30], distance=6.0)
    unlabelled, truth = blobs([400, 80, 20], distance=6.0, seed=2)
    P, U = sharpen(cross_predict(labelled, y, 3, 0), 0.3), sharpen(fit_predict(labelled, y, unlabelled, 3), 0.3)
    shares = class_shares(P, y, U, 0)
    assert np.abs(shares - np.bincount(truth) / len(truth)).max() < 0.06
    assert adjust(U, shares, np.full(3, 1 / 3)).sum(axis=1) == pytest.approx(1)


def test_class_shares_stay_where_labels_say_nothing() -> None:
    P = np.full((16, 2), 0.5) + CHANCE.normal(scale=0.05, size=(16, 1)) * [1, -1]
    U = np.tile([0.6, 0.4], (200, 1))
    assert class_shares(P, np.arange(16) % 2, U, 0) == pytest.approx([0.5, 0.5], abs=0.15)


def test_estimate_of_impure_class_has_no_guesses() -> None:
    y = np.repeat([0, 1], 20)
    P = np.tile([0.95, 0.05], (40, 1))  # everything is called class 0
    purity = estimate(P, y, np.tile([0.95, 0.05], (100, 1)), np.array([0.5, 0.5]), 0.8)
    assert purity.thresholds.tolist() == [2.0, 2.0]
    assert purity.raw_purity[0] == pytest.approx((20 + 4 * 0.95) / 44)


def test_teach_uses_right_guesses_and_guards_against_wrong_ones() -> None:
    labelled, y = blobs([8, 8, 8], distance=5.0)
    unlabelled, truth = blobs([100, 100, 100], distance=5.0, seed=3)
    teaching = teach(labelled, y, unlabelled, np.arange(300), 3, least_purity=0.8, has_guard=True, seed=0)
    used = teaching.table.trust > 0
    assert used.sum() > 150
    assert np.mean(teaching.table.probabilities.argmax(axis=1)[used] == truth[used]) > 0.85
    noise, labels = blobs([8, 8, 8], distance=0.0)
    more_noise, _ = blobs([100, 100, 100], distance=0.0, seed=3)
    nothing = teach(noise, labels, more_noise, np.arange(300), 3, least_purity=0.8, has_guard=True, seed=0)
    assert nothing.table.trust.sum() < 30
