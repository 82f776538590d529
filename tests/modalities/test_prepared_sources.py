"""What prepared data depend on is stored as raysearch 0.2.0 stored it, so that its folders stay up to date."""

from importlib.metadata import version
from typing import Any

import pytest

from raysearch.config.search_config import Search
from raysearch.data.pipeline import Preparation
from raysearch.modalities.image.dataset import ImagePreparation
from raysearch.modalities.table.dataset import TablePreparation
from raysearch.modalities.text.dataset import TextPreparation

SOURCES: dict[str, tuple[Preparation[Any, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "text_files": (
        TextPreparation(),
        {
            "name": "parity", "train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl",
            "extra": {"s": {"train": "s.jsonl", "text": "t", "label": "l"}, "t": {"train": "t.jsonl", "kind": "token"}},
        },
        {"config": {"model_type": "bert", "vocab_size": 200}},
        {
            "task": "parity", "metric": "accuracy", "train": "sha256", "dev": "sha256", "test": "sha256",
            "domain": None, "extra_s": "sha256", "extra_t": "sha256", "hub": None, "embedded": None,
            "columns": {"text": "text", "label": "label"},
            "fractions": {"split": {"dev": 0.1, "test": 0.1}, "meta_dev": 0.5},
            "tokenizer": {"word pieces": 200}, "version": "1",
            "extra": {"s": ["sentence", "t", "l"], "t": ["token", "words", "tags"]},
        },
    ),
    "built_in_digits": (
        ImagePreparation(),
        {"kind": "image", "name": "digits"},
        {"image": "small_cnn", "widths": [4], "norm": "group"},
        {
            "train": None, "dev": None, "test": None, "auxiliary": None,
            "task": {"name": "digits", "kind": "image", "metric": "accuracy"},
            "normalised": None, "channels": 0, "version": "1", "embedded": {"scikit-learn": version("scikit-learn")},
        },
    ),
    "image_files": (
        ImagePreparation(),
        {
            "kind": "image", "name": "mine", "train": "all.csv", "labels": ["a", "b"], "metric": "mean_auc",
            "uncertain": "negative", "where": {"view": "front"}, "meta_dev": 0.3, "size": 8,
            "auxiliary": {"train": "theirs", "train_per_class": 5},
        },
        {"config": {"model_type": "resnet"}},
        {
            "train": "sha256", "dev": None, "test": None, "auxiliary": "sha256",
            "task": {
                "name": "mine", "kind": "image", "train": "all.csv", "labels": ["a", "b"], "metric": "mean_auc",
                "uncertain": "negative", "where": {"view": "front"}, "meta_dev": 0.3, "size": 8,
                "auxiliary": {"train": "theirs", "train_per_class": 5},
            },
            "normalised": None, "channels": 3, "version": "1",
        },
    ),
    "planted_tables": (
        TablePreparation(),
        {"kind": "table", "name": "planted", "planted": {"rows": 60, "train": 20}},
        {"mlp": [8]},
        {
            "task": {
                "name": "planted", "kind": "table", "metric": "r2",
                "planted": {
                    "draw": 0, "dim": 32, "rank": 4, "teacher": "tanh", "helpful": 4, "harmful": 6, "unrelated": 0,
                    "rows": 60, "train": 20, "meta_dev": 60, "select_dev": 2000, "test": 4000, "noise": 0.2,
                },
            },
            "version": "1",
        },
    ),
    "table_files": (
        TablePreparation(),
        {
            "kind": "table", "name": "houses", "train": "houses.csv", "label": "price", "features": ["a"],
            "metric": "macro_f1", "split": {"dev": 0.4, "test": 0}, "meta_dev": 0.25,
            "extra": {"rent": {"train": "houses.csv", "label": "rent"}},
        },
        {"mlp": [8]},
        {
            "train": "sha256", "extra_rent": "sha256",
            "task": {
                "name": "houses", "kind": "table", "train": "houses.csv", "label": "price", "features": ["a"],
                "extra": {"rent": {"train": "houses.csv", "label": "rent", "kind": "number"}},
                "metric": "macro_f1", "split": {"dev": 0.4, "test": 0.0}, "meta_dev": 0.25,
            },
            "version": "1",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_source_of_prepared_data_is_that_of_0_2_0(name: str) -> None:
    preparation, declared, model, source = SOURCES[name]
    preset = {"image": "small_cnn", "table": "mlp"}.get(declared.get("kind", "text"), "tiny")
    task = Search.from_dict(
        {"name": "x", "task": {**declared, "base": "/data"}, "model": preset, "method": {"weighting": "end_task_only"}}
    ).task
    digests = {part: "sha256" if path else None for part, path in preparation.files(task).items()}
    assert preparation.source(task, model, digests) == source
