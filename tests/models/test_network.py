from pathlib import Path

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan

from raysearch.data.prepared import load_metadata
from raysearch.modalities.batch import labels_of
from raysearch.modalities.opening import open_splits
from raysearch.training.context import batches_of, build


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def test_classifier_of_head_inputs_gives_the_end_tasks_logits(data: Path) -> None:
    plan, metadata, splits = tiny_plan(data), load_metadata(data), open_splits(data)
    network, batches, split = build(plan, metadata), batches_of(plan, metadata, splits), splits("train")
    inputs = network.head_inputs(batches, split)
    assert network.training
    network.eval()
    rows = torch.arange(len(split))
    with torch.no_grad():
        expected = network.end_task(network.hidden(*batches.end_task_batch(split, rows).inputs))
        logits = network.classifier(torch.from_numpy(inputs))
    torch.testing.assert_close(logits, expected)
    assert len(labels_of(split, rows)) == len(inputs)
