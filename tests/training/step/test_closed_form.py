"""Dev heads in closed form: against scikit-learn, and the gradient of a fold against plain autograd."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from sklearn.linear_model import LogisticRegression, Ridge

from raysearch.distributed import ProcessGroup
from raysearch.gradients.flat import flat_gradient
from raysearch.modalities.losses import example_losses
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.step.closed_form import fit, fold_rows
from raysearch.training.trainer import Trial


def drawn(n: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(n, width, generator=generator, dtype=torch.float64)


def standardised(features: torch.Tensor) -> np.ndarray:
    centred = features - features.mean(dim=0)
    return np.asarray(centred / centred.square().mean().sqrt())


@pytest.mark.parametrize("ridge", [0.01, 0.3])
def test_closed_form_classes_equal_scikit_learns_regression(ridge: float) -> None:
    features, labels = drawn(40, 5), torch.arange(40) % 3
    features[labels == 1] += 1.5
    logits = fit(features, labels, 3, ridge)(features.float())
    reference = LogisticRegression(C=1 / (40 * ridge), tol=1e-8, max_iter=5000)
    expected = reference.fit(standardised(features), labels.numpy()).predict_log_proba(standardised(features))
    assert logits.log_softmax(dim=1).numpy() == pytest.approx(expected, abs=1e-4)


def test_closed_form_several_labels_are_fitted_one_by_one() -> None:
    features = drawn(40, 5)
    labels = torch.stack([features[:, 0] > 3, features[:, 1] > 4], dim=1).long()
    logits = fit(features, labels, 2, 0.1)(features.float())
    for column in range(2):
        reference = LogisticRegression(C=1 / 4, tol=1e-8, max_iter=5000)
        reference.fit(standardised(features), labels[:, column].numpy())
        expected = reference.decision_function(standardised(features))
        assert logits[:, column].numpy() == pytest.approx(expected, abs=1e-4)


def test_closed_form_numbers_equal_ridge_regression() -> None:
    features = drawn(30, 4)
    labels = (features @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)).float()
    expected = Ridge(alpha=30 * 0.2).fit(standardised(features), labels.numpy()).predict(standardised(features))
    assert fit(features, labels, 1, 0.2)(features.float())[:, 0].numpy() == pytest.approx(expected, abs=1e-4)


def test_closed_form_survives_constant_vectors_and_one_class() -> None:
    head = fit(torch.ones(6, 3), torch.zeros(6, dtype=torch.long), 2, 0.1)
    logits = head(torch.ones(1, 3))
    assert logits.isfinite().all()
    assert logits[0, 0] > logits[0, 1]


def test_folds_are_disjoint_and_spread_every_class() -> None:
    labels = torch.tensor([0] * 12 + [1] * 8)
    folds = fold_rows(labels, 4)
    assert sorted(torch.cat(folds).tolist()) == list(range(20))
    assert all([int((labels[rows] == c).sum()) for c in (0, 1)] == [3, 2] for rows in folds)
    assert [len(rows) for rows in fold_rows(torch.zeros(3), 8)] == [1, 1, 1]


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def trial_of(data: Path, folder: Path, **settings: Any) -> Trial:
    return Trial(tiny_plan(data, "evidence", **settings), TrialFolder(folder), ProcessGroup())


def test_cross_fitted_gradient_is_of_unseen_rows(data: Path, tmp_path: Path) -> None:
    trial = trial_of(data, tmp_path, dev_folds=3, meta_batch_size=0)
    context, labels = trial.context, torch.tensor(np.array(trial.context.splits("meta_dev").labels)).long()
    folds = fold_rows(labels, 3)
    trial.network.eval()

    def encode(rows: torch.Tensor) -> torch.Tensor:
        batch = context.batches.end_task_batch(context.splits("meta_dev"), rows)
        return trial.network.vectors(trial.network.hidden(*batch.inputs), batch.targets.real)

    others = torch.cat([folds[0], folds[2]])
    head = fit(encode(others).detach(), labels[others], context.classes, 1.0)
    expected = flat_gradient(example_losses(head(encode(folds[1])), labels[folds[1]]).mean(), context.body)
    v = trial.update.dev_gradients.compute("cross_fitted", 1, 4)  # folds come in turn: 4 is 1 of 3
    assert v is not None
    assert v.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)


def test_cross_fitted_gradient_heeds_its_numbers_of_rows(data: Path, tmp_path: Path) -> None:
    few, whole = (trial_of(data, tmp_path / str(rows), meta_batch_size=rows, dev_folds=2) for rows in (2, 0))
    gradients = [
        trial.update.dev_gradients.compute("cross_fitted", step, 0) for trial in (few, whole) for step in (1, 2)
    ]
    first, second, all_rows, again = [each for each in gradients if each is not None]
    assert not torch.equal(first, second)
    assert torch.equal(all_rows, again)
