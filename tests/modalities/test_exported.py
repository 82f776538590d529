"""`raysearch.load_model` reads what was exported, and refuses everything else in one line."""

from __future__ import annotations

import json
import shutil
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


# ---- folders of a stranger ----


def strange_copy(stock: Path, folder: Path, file: str, **changed: object) -> Path:
    """Returns a copy of a folder in which a JSON file has further keys."""
    shutil.copytree(stock, folder)
    content = json.loads((folder / file).read_text()) | changed
    (folder / file).write_text(json.dumps(content))
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass Evil: pass\n")
    return folder


@pytest.mark.parametrize(
    ("file", "auto_map"),
    [
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
    ],
)
def test_load_model_ignores_code_of_the_folder(
    stock: Path, tmp_path: Path, file: str, auto_map: dict[str, object]
) -> None:
    folder = strange_copy(stock, tmp_path / "model", file, auto_map=auto_map)
    assert raysearch.load_model(folder).predict(TEXTS) == raysearch.load_model(stock).predict(TEXTS)
    assert not (folder / "executed").exists()


def test_load_model_of_unknown_code_is_refused_in_one_line(stock: Path, tmp_path: Path) -> None:
    map_of_unknown = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    folder = strange_copy(stock, tmp_path / "model", "config.json", **map_of_unknown)
    with pytest.raises(RunError, match="cannot be loaded") as caught:
        raysearch.load_model(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "", 7])
def test_load_model_reads_no_weights_from_elsewhere(stock: Path, tmp_path: Path, name: object) -> None:
    folder = strange_copy(stock, tmp_path / "model", "config.json")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"classifier.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RunError, match="must name the file of each tensor, in the same folder"):
        raysearch.load_model(folder)


@pytest.mark.parametrize(
    "architecture", [{"path": "evil/model"}, {"timm": "hf-hub:evil/model"}, {"timm": "local-dir:/x"}, {"config": {}}]
)
def test_load_image_model_builds_known_architectures_only(tmp_path: Path, architecture: dict[str, object]) -> None:
    folder = write_config(tmp_path / "model", {"architecture": architecture, "labels": ["a", "b"]})
    with pytest.raises(RunError, match="must be an image network of raysearch or a model of timm"):
        raysearch.load_image_model(folder)
