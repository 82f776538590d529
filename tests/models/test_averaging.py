"""The weights of an ensemble's members: against a grid, on planted tasks, and with members that know nothing."""

import numpy as np
import pytest
from scipy.special import log_softmax

from raysearch.models.averaging import LOWEST, average, fit_weights, log_probabilities

N, CLASSES = 400, 3


def planted(noises: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Members that see the label through noise of their own; log-probabilities (n, M, C), and labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=N)
    logits = [np.eye(CLASSES)[labels] + noise * rng.normal(size=(N, CLASSES)) for noise in noises]
    return log_probabilities(np.stack(logits, axis=1)), labels


def likelihood(log_p: np.ndarray, labels: np.ndarray, weights: np.ndarray, rows: int) -> float:
    """The loss as the module's first lines state it, example by example."""
    total = 0.0
    for each, label in zip(log_p, labels, strict=True):
        shares = np.exp(sum(w * member for w, member in zip(weights, each, strict=True)))
        total -= np.log(shares[label] / shares.sum())
    return total / len(labels) + float(((weights - 1 / len(weights)) ** 2).sum()) / (2 * rows)


def test_weights_minimise_the_stated_loss() -> None:
    log_p, labels = planted([0.5, 0.9])
    fitted = fit_weights(log_p, labels, N)
    best = likelihood(log_p, labels, fitted, N)
    for first in np.linspace(0, 8, 17):
        for second in np.linspace(0, 8, 17):
            assert best <= likelihood(log_p, labels, np.array([first, second]), N) + 1e-6


def test_better_member_weighs_more_and_both_beat_either() -> None:
    log_p, labels = planted([0.6, 0.8])
    fresh, fresh_labels = planted([0.6, 0.8], seed=1)
    weights = fit_weights(log_p, labels, N)
    assert weights[0] > weights[1] > 0
    together = (average(fresh, weights).argmax(1) == fresh_labels).mean()
    assert together > max((fresh[:, m].argmax(1) == fresh_labels).mean() for m in range(2))


def test_member_that_knows_nothing_is_left_out() -> None:
    log_p, labels = planted([0.5])
    nothing = log_probabilities(np.random.default_rng(3).normal(size=(N, 1, CLASSES)))
    weights = fit_weights(np.concatenate([log_p, nothing], axis=1), labels, N)
    assert weights[1] == 0
    assert weights[0] > 0


def test_few_rows_keep_weights_near_equal() -> None:
    log_p, labels = planted([0.5, 0.9])
    few = fit_weights(log_p[:4], labels[:4], 4)
    many = fit_weights(log_p, labels, N)
    assert np.abs(few - 0.5).max() < np.abs(many - 0.5).max()


def test_order_of_members_does_not_matter() -> None:
    log_p, labels = planted([0.5, 0.9, 0.7])
    weights, turned = fit_weights(log_p, labels, N), fit_weights(log_p[:, ::-1], labels, N)
    np.testing.assert_allclose(weights, turned[::-1], atol=1e-3)


def test_no_probability_is_below_the_lowest() -> None:
    logits = np.array([[1000.0, -1000.0], [0.3, -0.2]])
    log_p = log_probabilities(logits)
    assert log_p.min() == pytest.approx(np.log(LOWEST))
    np.testing.assert_allclose(log_p[1], log_softmax(logits[1]))
