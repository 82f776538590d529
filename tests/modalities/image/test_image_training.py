import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.images import noise_image
from helpers.plans import tiny_plan
from helpers.resume import assert_resume_is_bit_equal
from transformers import AutoModelForImageClassification, pipeline

import raysearch
from raysearch.config.loading import parse_search
from raysearch.config.search_config import Search
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError, SpecError
from raysearch.export.exporter import export
from raysearch.modalities.image.config import ImageTask
from raysearch.modalities.loading import load_space
from raysearch.modalities.opening import open_split, prepare
from raysearch.plan import TrialPlan
from raysearch.storage.run import Run
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.context import build
from raysearch.training.trainer import Trial, train

pytestmark = pytest.mark.slow  # whole trainings or pages

MODELS: dict[str, dict[str, Any]] = {
    "own": {"image": "small_cnn", "widths": [4, 8], "norm": "batch"},
    "hugging_face": {
        "config": {
            "model_type": "resnet",
            "layer_type": "basic",
            "depths": [1, 1],
            "hidden_sizes": [4, 8],
            "embedding_size": 4,
        }
    },
}
QUICK: dict[str, Any] = {"steps": 4, "eval_every": 2, "batch_size": 6, "aux_batch_size": 6, "m": 4, "k": 2}
META = {"dev_head_examples": 8, "dev_head_steps": 2, "meta_batch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare(ImageTask(name="digits"), MODELS["own"], folder)
    return folder


def plan(data: Path, weighting: str = "static", surgery: str = "none", space: str = "image", **more: Any) -> TrialPlan:
    schedule = more.pop("schedule", "joint")
    known = tiny_plan(data, weighting, surgery, schedule).settings
    settings = {key: value for key, value in {**QUICK, **META, **more}.items() if key in known}
    objectives = () if weighting == "end_task_only" else load_space(space).objectives
    made = tiny_plan(data, weighting, surgery, schedule, **settings)
    return replace(made, objectives=objectives, model=MODELS["own"])


def deterministic_parts(report: Report) -> dict[str, Any]:
    return {name: value for name, value in report.evaluation.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("weighting", "surgery", "schedule"),
    [
        ("end_task_only", "none", "joint"),
        ("static", "attittud", "pretrain_then_finetune"),
        ("aang", "attittud", "joint_then_finetune"),
        ("meta_tartan", "none", "joint"),
    ],
)
def test_methods_train_on_images_to_the_last_step(
    data: Path, tmp_path: Path, weighting: str, surgery: str, schedule: str
) -> None:
    reports = list(train(plan(data, weighting, surgery, schedule=schedule), folder=tmp_path))
    assert reports[-1].last
    assert all(0 <= report.evaluation["score"] <= 1 for report in reports)


def test_every_image_objective_has_a_finite_loss(data: Path, tmp_path: Path) -> None:
    for number, objective in enumerate(load_space("image").objectives):
        one = replace(plan(data, steps=1, eval_every=1), objectives=(objective,))
        (report,) = train(one, folder=tmp_path / str(number))
        assert 0 < report.evaluation["aux_loss"] < 10, objective.name


def test_body_with_batch_norm_resumes_bit_equal(data: Path, tmp_path: Path) -> None:
    end = assert_resume_is_bit_equal(plan(data, "aang", "attittud", steps=6), tmp_path)
    assert any("running_mean" in name for name in end["parameters"])


def test_end_task_images_are_normalised_and_deterministic(data: Path, tmp_path: Path) -> None:
    trial = Trial(plan(data), TrialFolder(tmp_path), ProcessGroup())
    first, second = (
        trial.context.batches.end_task_batch(trial.context.splits("train"), torch.arange(4)).inputs[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    pixels = np.stack([trial.context.splits("train").row(i) for i in range(15)])
    everything = trial.context.batches.end_task_batch(trial.context.splits("train"), torch.arange(15)).inputs[0]
    assert everything.shape == pixels.shape
    assert everything.mean().item() == pytest.approx(0, abs=1e-4)
    assert everything.std(correction=0).item() == pytest.approx(1, abs=1e-4)


# ---- a whole search ----


def declared(model: dict[str, Any], runs: Path) -> dict[str, Any]:
    return {
        "name": "pictures",
        "task": "digits",
        "model": model,
        "space": "auxiliary_label",
        "method": {"weighting": "static", "surgery": "attittud", "schedule": "joint"},
        "settings": {**QUICK, "lr": 3e-3},
        "dimensions": {"lambda_e": {"float": [0.3, 0.9]}},
        "baselines": {"fine_tune": {"method": {"weighting": "end_task_only"}}},
        "budget": {"trials": 2},
        "sampler": "random",
        "executor": "in_process",
        "runs": str(runs),
    }


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run, Path]:
    runs = tmp_path_factory.mktemp("runs")
    run = raysearch.launch(Search.from_dict(declared(MODELS[request.param], runs)), progress=False)
    folder = runs / "model"
    export(run, folder, trial="search", verify=True)
    return request.param, run, folder


def test_exported_image_model_reproduces_the_trial_score(
    exported: tuple[str, Run, Path],
) -> None:
    _, run, folder = exported
    result = json.loads((folder / "result.json").read_text())
    assert result["select_dev"] == pytest.approx(run.best()["score"])
    assert result["verified"]["same_weights"]
    assert 0 <= result["test"] <= 1
    assert run.status()["metric"] == "accuracy"
    assert run.search["task"] == {"name": "digits", "kind": "image", "metric": "accuracy"}
    again = Search.from_dict(raysearch.load_search(folder / "search.yaml").to_dict())
    assert again.resolve("search", {}, number=0, seed=0, labels=["1", "8", "9"]).key[:6] in run.best()["trial_id"]


def test_exported_image_model_logits_equal_trained_network(exported: tuple[str, Run, Path]) -> None:
    _, run, folder = exported
    best = run.best()
    trained = TrialPlan.from_dict(best["plan"])
    data = Path(trained.task["data"])
    network = build(trained, json.loads((data / "data.json").read_text())).eval()
    values = checkpoint.load(run.path / "trials" / best["trial_id"] / "best.safetensors")["parameters"]
    network.load_state_dict(values)
    loaded = raysearch.load_image_model(folder)
    stored = np.stack([open_split(data, "select_dev").row(i) for i in range(5)])
    with torch.no_grad():
        pixels = loaded.normalised(stored)
        torch.testing.assert_close(loaded(pixels), network.end_task(network.hidden(pixels)))
    assert loaded.labels == ["1", "8", "9"]


def test_exported_image_model_accepts_files_arrays_and_images(exported: tuple[str, Run, Path], tmp_path: Path) -> None:
    kind, _, folder = exported
    loaded = raysearch.load_image_model(folder)
    shown = noise_image(0, 100, side=20, colour=False)
    shown.save(tmp_path / "shown.png")
    predictions = loaded.predict([shown, tmp_path / "shown.png", np.asarray(shown), str(tmp_path / "shown.png")])
    assert all(one == pytest.approx(predictions[0]) for one in predictions)
    assert sum(predictions[0].values()) == pytest.approx(1)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert ("load_image_model" in card) == (kind == "own")
    if kind == "hugging_face":
        classify = pipeline("image-classification", model=str(folder))
        assert {row["label"]: row["score"] for row in classify(shown)} == pytest.approx(predictions[0], abs=1e-4)
        assert AutoModelForImageClassification.from_pretrained(folder).config.id2label == {0: "1", 1: "8", 2: "9"}


def test_load_image_model_from_empty_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no exported model"):
        raysearch.load_image_model(tmp_path)


# ---- what does not go together ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "aang_td"}, "space: aang_td has objectives on text, and the task is of images"),
        ({"task": "docstrings", "model": "tiny"}, "space: auxiliary_label has objectives on images, and the task is"),
        (
            {"task": "docstrings", "space": "aang_td"},
            "model: is no model for text; such as lsa, minilm, narrow, tfidf, tiny",
        ),
        ({"model": "tiny"}, "model: is no model for images; such as lenet, resnet18, small_cnn"),
        ({"model": {"config": {"model_type": "bert"}}}, "model: is no model for images"),
        ({"model": {"image": "wide_resnet", "depth": 11}}, "model.depth: must be 6 n [+] 4"),
        ({"model": {"image": "small_cnn", "depth": 10}}, "model.depth: is no key of small_cnn; it has image, widths"),
        ({"model": {"image": "small_cnn", "timm": "x"}}, "model: must have one of image and timm"),
        ({"settings": {"max_length": 32}}, "settings.max_length: has no effect on images"),
        (
            {"task": {"kind": "image", "name": "mine", "train": "x"}},
            "space: has objectives on auxiliary images, and the task has no `auxiliary:`",
        ),
    ],
)
def test_search_mixing_text_and_images_is_rejected(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_search({**declared(MODELS["own"], tmp_path), **change})


def test_image_search_round_trips_through_json(tmp_path: Path) -> None:
    for model in ("small_cnn", "wrn_22_4", "resnet18", {"timm": "resnet18"}, MODELS["own"]):
        task = {"kind": "image", "name": "pets", "train": "t.parquet", "classes": ["a", "b"], "auxiliary": "rest"}
        search = Search.from_dict(
            {**declared(MODELS["own"], tmp_path), "model": model, "task": {**task, "meta_dev": 0}}
        )
        assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search
        assert search.task.meta_dev == 0


@pytest.mark.parametrize(
    ("stage", "primitives", "message"),
    [
        ("data", "[auxiliary]", "predicts the end task's label of auxiliary images; exclude it"),
        ("transform", "[none]", "predicts the rotation of images that are not rotated; exclude it"),
        ("representation", "[bidirectional]", "unknown primitive 'bidirectional'"),
    ],
)
def test_unusable_image_space_is_rejected(tmp_path: Path, stage: str, primitives: str, message: str) -> None:
    stages = {
        "data": "[end_task]",
        "transform": "[rotate]",
        "representation": "[full]",
        "output": "[end_task, rotation]",
    }
    lines = [f"  {name}: {primitives if name == stage else names}" for name, names in stages.items()]
    (tmp_path / "mine.yaml").write_text("kind: image\nstages:\n" + "\n".join(lines) + "\nobjectives: 2\n")
    with pytest.raises(SpecError, match=message):
        load_space(tmp_path / "mine.yaml")


def test_multi_label_images_are_trained_scored_and_exported(tmp_path: Path) -> None:
    lines = ["image,edema,effusion"]
    for i in range(60):
        noise_image(i, 60 + 120 * (i % 2), colour=False).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{i // 2 % 2}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    task = {"kind": "image", "name": "chests", "train": "train.csv", "labels": ["edema", "effusion"]}
    task |= {"metric": "mean_auc", "base": str(tmp_path), "auxiliary": {"train": "train.csv", "label": "effusion"}}
    method = {"weighting": "aang", "surgery": "attittud", "schedule": "joint"}
    search = {**declared(MODELS["hugging_face"], tmp_path / "runs"), "task": task, "method": method, "baselines": {}}
    run = raysearch.launch(Search.from_dict(search | {"settings": {**QUICK, **META}}), progress=False)
    export(run, tmp_path / "model")
    loaded = raysearch.load_image_model(tmp_path / "model")
    assert loaded.several
    assert loaded.labels == ["edema", "effusion"]
    assert all(0 < share < 1 for share in loaded.predict([tmp_path / "0.png"])[0].values())
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "model").config.problem_type.startswith("multi")
