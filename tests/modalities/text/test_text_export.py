"""Exported text models give the logits of the trained network, however they are loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.encoders import ENCODERS, encoder_context, encoder_plan, prepare_encoder
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import raysearch
from raysearch.errors import RunError
from raysearch.modalities import modality_of
from raysearch.plan import TrialPlan
from raysearch.training.context import TrainingContext

TEXTS = ["apple plum", "old copper near the flood of silver", "a delta", "iron " * 40]
LONGEST = 12


def trained(plan: TrialPlan) -> TrainingContext:
    """A context whose network has moved away from its start, adapters included."""
    context = encoder_context(plan)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in context.parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    context.network.eval()
    return context


def export(context: TrainingContext, folder: Path) -> Path:
    data = Path(context.plan.task["data"])
    modality_of(context.metadata).export(context.network, context.plan, context.metadata, data, folder)
    return folder


def encoded(folder: Path) -> tuple[Tensor, Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def expected_logits(context: TrainingContext, tokens: Tensor, mask: Tensor) -> Tensor:
    real = mask.bool()
    visible = real[:, None, :].expand(-1, tokens.shape[1], -1)
    with torch.no_grad():
        return context.network.logits(context.network.hidden(tokens, visible), real)


POOLINGS = [{"pooling": "head"}, {"pooling": "mean", "normalise": True}]
CASES = [(model_type, {}, model) for model_type in ENCODERS for model in POOLINGS]
CASES += [("bert", {"trained_layers": 1}, POOLINGS[1]), ("bert", {"trained_layers": 0}, {"pooling": "max"})]
CASES += [("roberta", {"lora_rank": 2}, model) for model in POOLINGS]


@pytest.mark.parametrize(("model_type", "settings", "model"), CASES, ids=str)
def test_exported_model_has_the_logits_of_the_network(
    tiny_task: dict[str, str], tmp_path: Path, model_type: str, settings: dict[str, int], model: dict[str, Any]
) -> None:
    if "lora_rank" in settings:
        pytest.importorskip("peft")
    declared = {**prepare_encoder(tiny_task, tmp_path / "encoders", model_type), **model}
    context = trained(encoder_plan(tiny_task, tmp_path, declared, "end_task_only", max_length=LONGEST, **settings))
    folder = export(context, tmp_path / "model")
    tokens, mask = encoded(folder)
    assert tokens.shape[1] == LONGEST
    expected = expected_logits(context, tokens, mask)
    loaded = raysearch.load_model(folder)
    assert loaded.labels == context.metadata["labels"]
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected.double().softmax(1).numpy(), atol=1e-5)
    if model["pooling"] == "head":
        with torch.no_grad():
            stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            torch.testing.assert_close(stock(input_ids=tokens, attention_mask=mask).logits, expected)


def pooled_export(tiny_task: dict[str, str], tmp_path: Path) -> tuple[TrainingContext, Path]:
    model = {**prepare_encoder(tiny_task, tmp_path / "encoders"), "pooling": "mean", "normalise": True}
    context = trained(encoder_plan(tiny_task, tmp_path, model, "end_task_only", max_length=LONGEST))
    return context, export(context, tmp_path / "model")


def test_pooled_folder_is_an_encoder_of_its_own(tiny_task: dict[str, str], tmp_path: Path) -> None:
    context, folder = pooled_export(tiny_task, tmp_path)
    tokens, mask = encoded(folder)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(input_ids=tokens, attention_mask=mask).last_hidden_state
        states = context.network.hidden(tokens, mask.bool()[:, None, :].expand(-1, tokens.shape[1], -1))
    torch.testing.assert_close(hidden[mask.bool()], states[mask.bool()])
    # it declares its pooling as sentence-transformers does, and so as `pooling: auto` reads it
    again = encoder_context(
        encoder_plan(tiny_task, tmp_path / "again", {"path": str(folder), "pooling": "auto"}, "end_task_only")
    )
    assert again.network.pooling == "mean"
    assert again.network.end_task.normalises
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"]


def test_files_truncate_texts_as_in_training(tiny_task: dict[str, str], tmp_path: Path) -> None:
    _, folder = pooled_export(tiny_task, tmp_path)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]["max_length"] == LONGEST
    assert AutoTokenizer.from_pretrained(folder).model_max_length == LONGEST


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("raysearch.json", "{}", "not of version 1"),
        ("raysearch.json", None, "no raysearch.json"),
        ("classifier.safetensors", "no weights", "classifier.safetensors cannot be read"),
        ("classifier.safetensors", None, "classifier.safetensors cannot be read"),
        ("model.safetensors", None, "cannot be loaded"),
    ],
)
def test_damaged_folder_is_one_line(
    tiny_task: dict[str, str], tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    _, folder = pooled_export(tiny_task, tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(RunError, match=problem) as error:
        raysearch.load_model(folder).predict(["a"])
    assert "\n" not in str(error.value)
