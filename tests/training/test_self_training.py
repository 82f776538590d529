"""Self-training of the last layer: which guesses are learned, what is minimised, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from raysearch.data.prepared import RowsOfSplit
from raysearch.distributed import ProcessGroup
from raysearch.training import head_fitting, self_training
from raysearch.training.context import TrainingContext
from raysearch.training.end_task_loss import EndTaskLoss
from raysearch.training.head_fitting import Problem, fit_classes, fit_head, fit_with_guesses
from raysearch.training_settings import TrainingSettings


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def clusters(labelled: int, unlabelled: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Three classes, long in one direction that says nothing: a few labelled examples point at the wrong one."""
    rng = np.random.default_rng(seed)
    centres, stretch = 2.0 * np.eye(3, 12), np.r_[0.4, 0.4, 0.4, np.full(9, 1.5)]
    y, truth = np.arange(labelled) % 3, rng.integers(0, 3, unlabelled)
    X, U = (centres[c] + rng.normal(size=(len(c), 12)) * stretch for c in (y, truth))
    return X, y, U, truth


def test_surest_guesses_are_a_share_of_each_class() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.55, 0.45], [0.3, 0.7]]))
    rows, guess, sureness = self_training.surest_guesses(logits, 0.5)
    assert (rows.tolist(), guess.tolist()) == ([0, 2, 4], [0, 0, 1])
    np.testing.assert_allclose(sureness, [0.9, 0.8, 0.7])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_guesses_are_learned_as_stated(form: Any, class_weight: str | None) -> None:
    X, y, U, _ = clusters(14, 60)
    W, b = fit_with_guesses(form(X), form(U), Problem(y, 3, 0.7, 0.3), class_weight)
    counts = np.bincount(y)
    balance = len(y) / (3 * counts) if class_weight else np.ones(3)
    model = LogisticRegression(C=0.7, tol=1e-9, max_iter=5000).fit(X, y, sample_weight=balance[y])
    for share in (0.5, 0.7):
        P = softmax(model.decision_function(U), axis=1)
        guess, chosen = P.argmax(1), np.zeros(len(U), dtype=bool)
        for c in range(3):
            of_class = np.flatnonzero(guess == c)
            chosen[of_class[np.argsort(-P[of_class, c])[: max(1, int(share * len(of_class)))]]] = True
        weights = np.r_[balance[y], 0.3 * P.max(1)[chosen] * balance[guess[chosen]]]
        model = LogisticRegression(C=0.7, tol=1e-9, max_iter=5000)
        model.fit(np.r_[X, U[chosen]], np.r_[y, guess[chosen]], sample_weight=weights)
    np.testing.assert_allclose(W, model.coef_, atol=5e-3)
    np.testing.assert_allclose(b, model.intercept_, atol=5e-3)


def test_guesses_help_where_classes_are_apart() -> None:
    gains = []
    for seed in range(8):
        X, y, U, truth = clusters(9, 400, seed)
        plain, taught = fit_classes(X, y, 3, 10.0), fit_with_guesses(X, U, Problem(y, 3, 10.0, 0.3), None)
        accuracies = [float(((U @ W.T + b).argmax(1) == truth).mean()) for W, b in (plain, taught)]
        gains.append(accuracies[1] - accuracies[0])
    assert np.mean(gains) > 0.03
    assert min(gains) > -0.02


def test_a_probe_learns_guesses_of_the_domain(data: Path) -> None:
    plan = tiny_plan(data, "end_task_only", schedule="probe", probe_c=3.0, guess_weight=0.3)
    context = TrainingContext.from_plan(plan, ProcessGroup())
    U = self_training.unlabelled_inputs(context)
    split = context.splits("domain")
    everything = context.network.head_inputs(context.batches, RowsOfSplit(split, np.arange(len(split))))
    np.testing.assert_allclose(U, everything, atol=1e-6)
    fit_head(context)
    train = context.splits("train")
    X, y = context.network.head_inputs(context.batches, train), np.asarray(train.labels)
    losses = EndTaskLoss(TrainingSettings(), y, torch.device("cpu"))
    W, b, _ = head_fitting._fit(X, U, Problem(y, 3, 3.0, 0.3), losses)
    torch.testing.assert_close(context.network.classifier.weight, torch.from_numpy(W).float())
    torch.testing.assert_close(context.network.classifier.bias, torch.from_numpy(b).float())
    without, _, _ = head_fitting._fit(X, None, Problem(y, 3, 3.0), losses)
    assert np.abs(W - without).max() > 1e-3


def test_unlabelled_examples_are_the_same_at_most_so_many(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_training, "MOST", 7)
    plan = tiny_plan(data, "end_task_only", schedule="probe", guess_weight=0.3)
    first, again = (self_training.unlabelled_inputs(TrainingContext.from_plan(plan, ProcessGroup())) for _ in range(2))
    assert len(first) == 7
    np.testing.assert_array_equal(first, again)


def test_a_task_without_unlabelled_text_is_refused(tiny_task: dict[str, str], tmp_path: Path) -> None:
    task = {key: value for key, value in tiny_task.items() if key != "domain"}
    folder = prepare_tiny_task(task, tmp_path / "data")
    plan = tiny_plan(folder, "end_task_only", schedule="probe", guess_weight=0.3)
    with pytest.raises(ValueError, match="the task has no `domain:`"):
        fit_head(TrainingContext.from_plan(plan, ProcessGroup()))


@pytest.mark.parametrize("y", [np.array([0.5, 1.5]), np.array([[0, 1], [1, 1]])])
def test_labels_that_are_no_classes_are_refused(y: np.ndarray) -> None:
    losses = EndTaskLoss(TrainingSettings(), y, torch.device("cpu"))
    with pytest.raises(ValueError, match="guess_weight needs classes"):
        head_fitting._fit(np.eye(2), np.eye(2), Problem(y, 2, 1.0, 0.3), losses)
