"""Data `nearest`: the unlabelled texts that are most like the labelled ones, against scikit-learn's brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan
from sklearn.metrics.pairwise import cosine_similarity

from raysearch.distributed import ProcessGroup
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.primitives import data_sources
from raysearch.objectives.objective import Objective
from raysearch.training.context import TrainingContext


def split_of(texts: list[list[int]]) -> TextSplit:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return TextSplit(offsets, np.concatenate([np.array(text, np.int32) for text in texts]), None)


def random_texts(seed: int, count: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[1, *rng.integers(3, 60, rng.integers(3, 9)).tolist(), 2] for _ in range(count)]


def test_nearest_are_the_neighbours_of_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sources, "NEIGHBOURS", 3)
    monkeypatch.setattr(data_sources, "COMPARED_TOGETHER", 2)
    labelled, domain = random_texts(0, 5), random_texts(1, 80)
    splits = {"train": split_of(labelled), "domain": split_of(domain)}
    result = data_sources.nearest(splits.__getitem__)

    def vectors(texts: list[list[int]]) -> np.ndarray:
        return np.array([np.bincount(text, minlength=60) for text in texts], dtype=float)

    df = (vectors(domain) > 0).sum(0)
    idf = np.log(81 / (1 + df))
    similarity = cosine_similarity(vectors(labelled) * idf, vectors(domain) * idf)
    expected = sorted({int(j) for row in similarity for j in np.argsort(-row, kind="stable")[:3]})
    assert [result.row(i).tolist() for i in range(len(result))] == [domain[j] for j in expected]
    assert result.lengths.tolist() == [len(domain[j]) for j in expected]
    assert result.labels is None


def test_nearest_without_a_word_in_common_is_all_text() -> None:
    splits = {"train": split_of([[1, 5, 2]]), "domain": split_of([[1, 7, 2], [1, 8, 2]])}
    assert len(data_sources.nearest(splits.__getitem__)) == 2


@pytest.mark.parametrize("output", ["denoise", "tfidf", "soft_label", "agree"])
def test_objectives_learn_from_the_nearest_texts(tiny_task: dict[str, str], tmp_path: Path, output: str) -> None:
    folder = prepare_tiny_task(tiny_task, tmp_path / "data")
    transform = "dropout" if output == "agree" else "mask"
    objective = Objective(data="nearest", transform=transform, representation="bidirectional", output=output)
    plan = replace(tiny_plan(folder, "static"), objectives=(objective,))
    context = TrainingContext.from_plan(plan, ProcessGroup())
    nearest = context.batches.split_of(objective)
    assert nearest is context.batches.split_of(objective)
    assert 0 < len(nearest) <= len(context.splits("domain"))
    batch = context.batches.objective_batch(objective, 4, torch.Generator().manual_seed(0))
    assert len(batch.inputs[0]) == (8 if output == "agree" else 4)
