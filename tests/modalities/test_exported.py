"""`raysearch.load_model` reads what was exported, and refuses everything else in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import MODEL, prepare_tiny_task
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import raysearch
from raysearch.errors import RunError
from raysearch.modalities.exported import FORMATS

TEXTS = ["the apple was seen near a pear", "zinc", "many old iron and copper and silver and lead of the bank " * 9]


@pytest.fixture(scope="module")
def stock(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence classifier as `transformers` writes it."""
    folder = tmp_path_factory.mktemp("stock")
    data = prepare_tiny_task(tiny_task, folder / "data")
    config = BertConfig(**MODEL["config"], id2label={0: "fruit", 1: "metal", 2: "river"})
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(str(data / "tokenizer"), model_max_length=16).save_pretrained(str(folder / "model"))
    return folder / "model"


def test_load_model_of_stock_classifier_predicts_its_softmax(stock: Path) -> None:
    loaded = raysearch.load_model(stock)
    assert loaded.labels == ["fruit", "metal", "river"]
    model = BertForSequenceClassification.from_pretrained(stock).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(stock))
    with torch.no_grad():  # one at a time, without padding
        logits = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in TEXTS]
    expected = torch.stack(logits).double().softmax(dim=1).numpy()
    probabilities = loaded.predict_proba(TEXTS)
    assert probabilities.shape == (3, 3)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert loaded.predict(TEXTS) == [loaded.labels[i] for i in expected.argmax(axis=1)]


def test_load_model_predicts_nothing_for_no_texts(stock: Path) -> None:
    loaded = raysearch.load_model(stock)
    assert loaded.predict([]) == []
    assert loaded.predict_proba([]).shape == (0, 3)
    with pytest.raises(ValueError, match="a list of texts"):
        loaded.predict("one text")


def write_config(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ([], "must hold one object"),
        ({"raysearch": 1, "architecture": {}}, "no classifier of texts; raysearch.load_image_model"),
        ({"raysearch_format": "tfdif"}, "unknown raysearch_format 'tfdif'"),
        ({"raysearch_format": ["os"]}, "unknown raysearch_format"),
        ({"model_type": "bert"}, "at least two labels"),
        ({"model_type": "bert", "id2label": {"0": "a", "1": "a"}}, "lists a label twice"),
        ({"model_type": "bert", "id2label": {"0": "a", "5": "b"}}, "each a text"),
        (
            {"model_type": "bert", "id2label": {"0": "a", "1": "b"}, "auto_map": {"AutoConfig": "x.Y"}},
            "cannot be loaded",
        ),
    ],
)
def test_load_model_of_a_damaged_folder_raises_one_line(tmp_path: Path, content: object, problem: str) -> None:
    with pytest.raises(RunError, match=problem) as raised:
        raysearch.load_model(write_config(tmp_path / "model", content))
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_load_model_of_a_missing_folder_asks_no_hub() -> None:
    with pytest.raises(RunError, match="bert-base-uncased holds no exported model"):
        raysearch.load_model("bert-base-uncased")


@pytest.mark.parametrize("target", FORMATS.values())
def test_format_names_a_function(target: str) -> None:
    from raysearch.objectives.primitive import load_target

    assert callable(load_target(target))
