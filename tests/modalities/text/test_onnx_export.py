"""model.onnx gives the logits of the exported model, for batches of any size and length."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.encoders import ENCODERS, encoder_context, encoder_plan, prepare_encoder
from helpers.plans import MODEL, QUICK
from transformers import AutoTokenizer

import raysearch
from raysearch.config.search_config import Search
from raysearch.errors import RunError
from raysearch.export.exporter import export
from raysearch.modalities import all_modalities, modality_of
from raysearch.modalities.opening import open_split
from raysearch.modalities.text.modality import TEXT
from raysearch.modalities.text.onnx_export import PACKAGES, padded_texts
from raysearch.storage.run import Run
from raysearch.training.context import TrainingContext

BATCHES = [["a"], ["apple plum", "old copper near the flood of silver", "iron " * 40], ["a delta"] * 5]
POOLINGS = [{"pooling": "head"}, {"pooling": "mean", "normalise": True}, {"pooling": "max"}]
CASES = [("bert", model) for model in POOLINGS]
SLOW_CASES = [(model_type, POOLINGS[0]) for model_type in ENCODERS if model_type != "bert"]
SLOW_CASES += [(model_type, POOLINGS[1]) for model_type in ("roberta", "modernbert")]


def require_onnx() -> None:
    for package in PACKAGES:
        pytest.importorskip(package)


def exported_encoder(
    task: dict[str, str], tmp_path: Path, model_type: str, model: dict[str, Any]
) -> tuple[TrainingContext, Path, float]:
    declared = {**prepare_encoder(task, tmp_path / "encoders", model_type), **model}
    context = encoder_context(encoder_plan(task, tmp_path, declared, "end_task_only", max_length=12))
    with torch.no_grad():  # a new head is nearly zero, and so would be the logits
        for name, parameter in context.network.named_parameters():
            parameter += 0.1 * torch.randn(parameter.shape) * ("weight" in name)
    data, folder = Path(context.plan.task["data"]), tmp_path / "model"
    modality = modality_of(context.metadata)
    modality.export(context.network.eval(), context.plan, context.metadata, data, folder)
    split = open_split(data, "select_dev")
    return context, folder, modality.onnx_writer(context.plan)(folder, split, context.metadata)


@pytest.mark.parametrize(
    ("model_type", "model"), CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES], ids=str
)
def test_onnx_logits_equal_those_of_load_model(
    tiny_task: dict[str, str], tmp_path: Path, model_type: str, model: dict[str, Any]
) -> None:
    require_onnx()
    import onnxruntime

    torch.manual_seed(3)
    _, folder, difference = exported_encoder(tiny_task, tmp_path, model_type, model)
    assert 0 <= difference <= 1e-4
    assert b"site-packages" not in (folder / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer, loaded = AutoTokenizer.from_pretrained(folder), raysearch.load_model(folder)
    for texts in BATCHES:
        encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        inputs = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        logits = session.run(["logits"], inputs)[0].astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = loaded.predict_proba(texts)
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-4)
        assert np.ptp(logits) > 0.01


def test_padded_texts_are_beginnings_of_texts(tiny_task: dict[str, str], tmp_path: Path) -> None:
    declared = prepare_encoder(tiny_task, tmp_path / "encoders")
    context = encoder_context(encoder_plan(tiny_task, tmp_path, declared, "end_task_only"))
    split = open_split(Path(context.plan.task["data"]), "select_dev")
    tokens, mask = padded_texts(split, 10, context.metadata)
    lengths = mask.sum(dim=1)
    assert tokens.shape[1] == lengths.max() == 10
    assert lengths.min() >= 2
    assert len(set(lengths.tolist())) > 4
    for row in range(len(tokens)):
        assert mask[row].tolist() == [1] * int(lengths[row]) + [0] * (10 - int(lengths[row]))
        before = int(lengths[row]) - 1  # the last token may be the separator of a text that was cut
        assert tokens[row, :before].tolist() == split.row(row)[:before].tolist()


def test_differing_onnx_logits_raise(
    tiny_task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_onnx()
    monkeypatch.setattr("raysearch.modalities.text.onnx_export.TOLERANCE", -1.0)
    with pytest.raises(RunError, match=r"the logits of model.onnx differ by .* export without --onnx"):
        exported_encoder(tiny_task, tmp_path, "bert", POOLINGS[0])


# ---- refusals, with or without the packages ----


def launched(task: dict[str, str], runs: Path) -> Run:
    declared = {
        "name": "words",
        "task": task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {**{k: v for k, v in QUICK.items() if not k.startswith("aux")}, "steps": 2},
        "dimensions": {"head_lr": {"choice": [1e-5, 2e-5]}},
        "baselines": {"tfidf_lr": {"trials": 1}},
        "budget": {"trials": 1},
        "executor": "in_process",
        "runs": str(runs),
        "keep": -1,
    }
    return raysearch.launch(Search.from_dict(declared), progress=False)


@pytest.mark.slow
def test_export_with_onnx_says_so_or_writes_nothing(
    tiny_task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launched(tiny_task, tmp_path / "runs")
    folder = tmp_path / "folders" / "model"
    with pytest.raises(RunError, match="a bag of words has no ONNX form here"):
        export(run, folder, arm="tfidf_lr", onnx=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(RunError, match=r"needs the package onnx\w*; pip install 'raysearch\[onnx\]'"):
            export(run, folder, arm="search", onnx=True)
    assert not folder.parent.exists()
    require_onnx()
    outcome = export(run, folder, arm="search", onnx=True, test=False)
    assert outcome.onnx_difference is not None
    assert json.loads((folder / "result.json").read_text())["onnx_difference"] == outcome.onnx_difference
    assert "\n## ONNX\n\n`model.onnx` is the same model" in (folder / "README.md").read_text()
    assert raysearch.load_model(folder).predict(["apple"])
    plain = tmp_path / "plain"
    assert export(run, plain, arm="search", test=False).onnx_difference is None
    assert not (plain / "model.onnx").exists()
    assert "ONNX" not in (plain / "README.md").read_text()


def test_models_without_an_onnx_form_say_so(tiny_task: dict[str, str], tmp_path: Path) -> None:
    declared = prepare_encoder(tiny_task, tmp_path / "encoders")
    plan = encoder_plan(tiny_task, tmp_path, declared, "end_task_only")
    for modality in all_modalities()[1:]:
        with pytest.raises(
            RunError, match=f"^a model of {modality.noun} has no ONNX form here; export without --onnx$"
        ):
            modality.onnx_writer(plan)
    words = type(plan).from_dict({**plan.to_dict(), "model": {"tfidf": {}}})
    with pytest.raises(RunError, match="a bag of words has no ONNX form here; export without --onnx"):
        TEXT.onnx_writer(words)


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_package_names_the_extra(
    tiny_task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    plan = encoder_plan(tiny_task, tmp_path, prepare_encoder(tiny_task, tmp_path / "encoders"), "end_task_only")
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    assert callable(TEXT.onnx_writer(plan))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf"^an ONNX export needs the package {package}; pip install .raysearch.onnx"):
        TEXT.onnx_writer(plan)
