from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from helpers.ranks import report_values, train_on_ranks
from helpers.resume import assert_resume_is_bit_equal
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from raysearch.distributed import ProcessGroup
from raysearch.training import head_fitting
from raysearch.training.context import TrainingContext
from raysearch.training.end_task_loss import EndTaskLoss
from raysearch.training.head_fitting import fit_head
from raysearch.training.parameters import parameters_of
from raysearch.training.trainer import Trial, TrialFolder, train
from raysearch.training_settings import TrainingSettings


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def examples(classes: int = 3, n: int = 40, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    return (rng.normal(size=(n, width)) + 0.5 * y[:, None]).astype(np.float32), y


def fit(
    X: Any, y: np.ndarray, outputs: int, C: float, class_weights: str = "none"
) -> tuple[np.ndarray, np.ndarray, float]:
    losses = EndTaskLoss(TrainingSettings(class_weights=class_weights), y, torch.device("cpu"))
    return head_fitting._fit(X, None, head_fitting.Problem(y, outputs, C), losses)


def logits_of(context: TrainingContext, split: str) -> Tensor:
    network = context.network.eval()
    batch = context.batches.end_task_batch(context.splits(split), torch.arange(len(context.splits(split))))
    with torch.no_grad():
        logits: Tensor = network.end_task(network.hidden(*batch.inputs))
    return logits


def test_probe_gives_the_network_scikit_learns_logits(data: Path) -> None:
    context = TrainingContext.from_plan(tiny_plan(data, "end_task_only", schedule="probe", probe_c=3.0), ProcessGroup())
    network, split = context.network, context.splits("train")
    body = [p.clone() for p in context.body]
    X = network.head_inputs(context.batches, split)
    loss = fit_head(context)
    squared_norm = np.square(X - X.mean(0)).sum(1).mean()
    reference = LogisticRegression(C=3.0 / squared_norm, tol=1e-12, max_iter=1000, solver="newton-cg")
    reference.fit(X.astype(float), split.labels)
    for name in ("train", "select_dev"):
        inputs = network.head_inputs(context.batches, context.splits(name))
        expected = torch.from_numpy(reference.decision_function(inputs.astype(float)))
        torch.testing.assert_close(logits_of(context, name).double(), expected, atol=1e-4, rtol=0)
    shares = reference.predict_log_proba(X.astype(float))
    assert loss == pytest.approx(-shares[np.arange(len(X)), split.labels].mean(), abs=1e-5)
    for before, after in zip(body, context.body, strict=True):
        assert torch.equal(before, after)


def test_solution_is_the_optimum_of_the_stated_objective() -> None:
    X, y = examples()
    W, b, _ = fit(X, y, 3, 2.0)
    centred = X - X.mean(0)
    s2 = np.square(centred).sum(1).mean()

    def objective(theta: np.ndarray) -> float:
        weight, bias = theta[:15].reshape(3, 5), theta[15:]
        z = X @ weight.T + bias
        return float(s2 * np.square(weight).sum() / 2 + 2.0 * (logsumexp(z, axis=1) - z[np.arange(len(y)), y]).sum())

    best = minimize(objective, np.zeros(18), method="BFGS").fun
    assert objective(np.concatenate([W.ravel(), b])) == pytest.approx(best, rel=1e-6)


def test_two_classes_have_opposite_logits() -> None:
    X, y = examples(classes=2)
    W, b, _ = fit(X, y, 2, 1.0)
    scale = np.square(X - X.mean(0)).sum(1).mean()
    reference = LogisticRegression(C=1.0 / scale, tol=1e-10).fit(X.astype(float), y)
    z = X @ W.T + b
    np.testing.assert_allclose(z[:, 1] - z[:, 0], reference.decision_function(X), atol=1e-4)
    np.testing.assert_allclose(z.sum(1), 0, atol=1e-6)


def test_sparse_vectors_keep_their_zeros_and_give_the_same() -> None:
    X, y = examples()
    X[np.abs(X) < 0.7] = 0
    W, b, loss = fit(sparse.csr_matrix(X), y, 3, 1.0)
    reference = LogisticRegression(C=1.0 / np.square(X).sum(1).mean(), tol=1e-10).fit(X.astype(float), y)
    np.testing.assert_allclose(X @ W.T + b, reference.decision_function(X.astype(float)), atol=1e-4)
    assert np.isfinite(loss)


def test_class_without_examples_is_never_likely() -> None:
    X, y = examples(classes=3)
    W, b, _ = fit(X, np.where(y == 2, 0, y), 4, 1.0)
    z = X @ W.T + b
    shares = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    assert shares[:, 2:].sum(1).max() == pytest.approx(1 / (len(y) + 2))
    W, b, _ = fit(X, np.ones(len(y), dtype=int), 3, 1.0)
    assert not W.any()
    assert b.argmax() == 1


def test_several_labels_have_a_regression_each() -> None:
    X, y = examples()
    several = np.stack([y == 0, y > 0, np.ones_like(y)], axis=1).astype(np.int64)
    W, b, _ = fit(X, several, 3, 1.0)
    reference = LogisticRegression(C=1.0 / np.square(X - X.mean(0)).sum(1).mean(), tol=1e-10).fit(X, several[:, 0])
    np.testing.assert_allclose(X @ W[0] + b[0], reference.decision_function(X), atol=1e-3)
    assert not W[2].any()
    assert b[2] == pytest.approx(np.log(len(y) + 1))


def test_numbers_have_a_ridge_regression() -> None:
    X, _ = examples()
    y = (X @ np.arange(5)).astype(np.float32) + 3
    W, b, loss = fit(X, y, 1, 1e9)
    np.testing.assert_allclose(W[0], np.arange(5), atol=1e-3)
    assert b[0] == pytest.approx(3, abs=1e-3)
    assert loss < 1e-6


def test_probe_has_one_report_at_step_1(data: Path, tmp_path: Path) -> None:
    (report,) = train(tiny_plan(data, "end_task_only", schedule="probe"), folder=tmp_path)
    assert (report.step, report.last, report.evaluation["phase"]) == (1, True, "probe")
    assert report.evaluation["best"] == report.evaluation["score"] > 0.6
    assert report.evaluation["aux_loss"] is None


def test_finetuning_begins_from_the_probe(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, schedule="probe_then_finetune", surgery="attittud", lr=1e-12, head_lr=1e-12, dropout=0.0)
    reports = list(train(plan, folder=tmp_path))
    assert [report.evaluation["phase"] for report in reports] == ["probe", "joint", "joint", "joint"]
    assert [report.step for report in reports] == [1, 3, 5, 7]
    assert len({report.evaluation["score"] for report in reports}) == 1
    assert reports[-1].evaluation["best"] == reports[0].evaluation["score"]


@pytest.mark.parametrize(("weighting", "surgery"), [("end_task_only", "none"), ("aang", "attittud")])
def test_probe_then_finetune_resumes_bit_equal(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    plan = tiny_plan(data, weighting, surgery, "probe_then_finetune")
    assert_resume_is_bit_equal(plan, tmp_path)


def test_trial_that_is_cut_within_the_probe_fits_it_again(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", schedule="probe")
    fitted = [Trial(plan, TrialFolder(tmp_path / name), ProcessGroup()) for name in ("a", "b")]
    for trial in fitted:
        list(trial.run())
    first, second = (parameters_of(trial.network) for trial in fitted)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_all_ranks_get_the_probe_of_the_first(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, schedule="probe_then_finetune", dropout=0.0)
    (one,) = train_on_ranks(1, [plan], tmp_path)
    (two,) = train_on_ranks(2, [replace(plan, workers=2)], tmp_path)
    assert one[0][0] == two[0][0] | {"loss": pytest.approx(one[0][0]["loss"]), "score": one[0][0]["score"]}
    for name, value in one[1].items():
        torch.testing.assert_close(two[1][name], value, atol=1e-4, rtol=1e-3)


def test_reports_of_the_probe_are_the_same_again(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", schedule="probe")
    (first,) = train(plan, folder=tmp_path / "1")
    (second,) = train(plan, folder=tmp_path / "2")
    assert report_values(first) == report_values(second)


def test_balanced_classes_weigh_alike_in_the_probe() -> None:
    X, y = examples(n=60)
    keep = (y != 2) | (np.arange(60) < 12)
    X, y = X[keep], y[keep]
    W, b, _ = fit(X, y, 3, 1.0, "balanced")
    scale = np.square(X - X.mean(0)).sum(1).mean()
    repeats = {0: 1, 1: 1, 2: (y == 0).sum() / (y == 2).sum()}
    weights = np.array([repeats[label] for label in y]) * len(y) / 3 / (y == 0).sum()
    reference = LogisticRegression(C=1.0 / scale, tol=1e-10).fit(X.astype(float), y, sample_weight=weights)
    np.testing.assert_allclose(X @ W.T + b, reference.decision_function(X.astype(float)), atol=1e-4)
