"""What a trial keeps of its best network's outputs, beside the scores that they gave."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan

from raysearch.distributed import ProcessGroup
from raysearch.modalities.opening import open_splits_of
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.context import TrainingContext
from raysearch.training.metrics import score
from raysearch.training.parameters import set_parameters
from raysearch.training.predictions import MOST_VALUES, prediction_rows
from raysearch.training.trainer import train


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def outputs_of(report: Report) -> np.ndarray:
    assert report.predictions is not None
    return np.array(report.predictions["outputs"].to_pylist(), np.float32)


def one_by_one(plan: TrialPlan, folder: Path) -> np.ndarray:
    """The outputs of the saved parameters, each example in a batch of its own."""
    context = TrainingContext.from_plan(plan, ProcessGroup())
    set_parameters(context.network, checkpoint.load(TrialFolder(folder).best)["parameters"])
    context.network.eval()
    split, outputs = context.splits("select_dev"), []
    for row in range(len(split)):
        batch = context.batches.end_task_batch(split, torch.tensor([row]))
        with torch.no_grad():
            outputs.append(context.network.logits(context.network.hidden(*batch.inputs), batch.targets.real))
    return torch.cat(outputs).numpy()


@pytest.mark.parametrize("folds", [0, 3])
def test_predictions_are_those_of_the_saved_network(data: Path, tmp_path: Path, folds: int) -> None:
    plan = replace(tiny_plan(data, "end_task_only"), folds=folds, fold=1 if folds else -1)
    *early, last = train(plan, folder=tmp_path)
    assert all(report.predictions is None for report in early)
    np.testing.assert_allclose(outputs_of(last), one_by_one(plan, tmp_path), rtol=1e-4, atol=1e-5)
    best = checkpoint.load(TrialFolder(tmp_path).best)
    assert set(last.predictions["step"].to_pylist()) == {best["step"]}
    labels = torch.tensor([target[0] for target in last.predictions["target"].to_pylist()]).long()
    assert score("accuracy", labels, torch.from_numpy(outputs_of(last))) == pytest.approx(best["score"])


def test_folds_number_rows_among_all_labelled_ones(data: Path, tmp_path: Path) -> None:
    plan = replace(tiny_plan(data, "end_task_only", steps=2), folds=3)
    numbers, targets = [], {}
    for fold in range(3):
        *_, last = train(replace(plan, fold=fold), folder=tmp_path / str(fold))
        rows = last.predictions["row"].to_pylist()
        numbers += rows
        targets |= dict(zip(rows, last.predictions["target"].to_pylist(), strict=True))
    everything = open_splits_of(replace(plan, role="refit", fold=-1))("select_dev")
    assert sorted(numbers) == list(range(len(everything)))
    assert [targets[row] for row in sorted(targets)] == [[float(label)] for label in everything.labels]


def test_replayed_last_report_has_its_predictions(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", steps=4)
    *_, whole = train(plan, folder=tmp_path)
    *_, again = train(plan, folder=tmp_path)
    assert again.replayed
    assert again.predictions.equals(whole.predictions)


def test_large_splits_keep_rows_at_equal_distances() -> None:
    outputs = torch.randn(MOST_VALUES, 2)
    rows = prediction_rows(3, np.arange(MOST_VALUES), outputs, torch.zeros(MOST_VALUES, dtype=torch.int64))
    assert len(rows) == MOST_VALUES // 2
    assert rows["row"].to_pylist()[:3] == [0, 2, 4]
    assert np.allclose(rows["outputs"].to_pylist(), outputs[::2])


def test_predictions_of_several_labels_and_numbers_are_lists() -> None:
    several = prediction_rows(1, np.array([4]), torch.tensor([[0.5, -1.0]]), torch.tensor([[1, 0]]))
    assert several.to_pylist() == [{"step": 1, "row": 4, "target": [1.0, 0.0], "outputs": [0.5, -1.0]}]
    number = prediction_rows(1, np.array([0]), torch.tensor([[2.5]]), torch.tensor([2.0]))
    assert number["target"].type == pa.list_(pa.float32())
    assert number.to_pylist()[0]["target"] == [2.0]
