"""Trying a search before it starts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import broken_models

from raysearch.config.loading import load_file, parse_search
from raysearch.errors import SpecError
from raysearch.modalities.opening import prepare
from raysearch.schema import catalog
from raysearch.search import rehearsal
from raysearch.search.launch import launch

BERT = {"model_type": "bert", **broken_models.WIDTH, "vocab_size": 64}


@pytest.fixture
def write_search(tmp_path: Path) -> Any:
    """Returns a function that writes a search of three classes of words; keywords replace sections."""
    chance = random.Random(0)
    rows = [{"text": " ".join(chance.choices(broken_models.WORDS, k=8)), "label": f"l{i % 3}"} for i in range(90)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def written(model: Any, **more: Any) -> Path:
        declared = {
            "name": "tried",
            "task": {"name": "mine", "train": "train.jsonl"},
            "model": model,
            "method": {"weighting": "end_task_only"},
            "settings": {"steps": 2, "eval_every": 1, "batch_size": 4, "max_length": 32},
            "budget": {"trials": 1},
            "executor": "in_process",
            "runs": str(tmp_path / "runs"),
        } | more
        file = tmp_path / "tried.yaml"
        file.write_text(yaml.safe_dump(declared, sort_keys=False))
        return file

    return written


@pytest.mark.parametrize("broken", broken_models.ON_TRIAL, ids=lambda make: make.__name__)
def test_launch_refuses_a_broken_model_and_leaves_nothing(
    write_search: Any, tmp_path: Path, broken: broken_models.Maker
) -> None:
    broken_models.fresh(broken, tmp_path / "model")
    file = write_search({"path": "./model"})
    load_file(file)  # its files alone do not show it
    with pytest.raises(SpecError, match=r"tried\.yaml:\d+: model(\.path)?: ") as refusal:
        launch(file, progress=False)
    assert broken_models.ON_TRIAL[broken] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"hiden_size": 32}, "model.config.hiden_size: bert has no such field; did you mean 'hidden_size'?"),
        ({"model_type": "bertt"}, "model.config.model_type: 'bertt' is no architecture of transformers; did you mean"),
        ({"hidden_size": "16"}, "model.config: bert: Validation error for field 'hidden_size'"),
        ({"num_attention_heads": 3}, "model.config.num_attention_heads: hidden_size 16 is not divisible by"),
        ({"max_position_embeddings": 16}, "model.config.max_position_embeddings: the encoder can read 16 tokens"),
        ({"model_type": "clip_text_model"}, "transformers has no model for SequenceClassification of model_type"),
        ({"hidden_act": "geluu"}, "model: cannot be used: "),
    ],
)
def test_try_search_refuses_a_declared_config_in_one_line(
    write_search: Any, tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SpecError, match=r"tried\.yaml:\d+: model") as refusal:
        rehearsal.try_search(load_file(write_search({"config": BERT | config})))
    assert problem in str(refusal.value)
    assert not (tmp_path / "runs").exists()


def test_try_search_says_how_a_pickle_is_read(write_search: Any, tmp_path: Path) -> None:
    broken_models.pickled(tmp_path / "model")
    remarks = rehearsal.try_search(load_file(write_search({"path": "./model"})))
    assert [remark for remark in remarks if "runs no code" in remark] == remarks[:1]
    assert remarks[0].startswith("model.path: ")


def test_try_search_finds_a_method_that_the_model_cannot_have(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {
        "name": "images",
        "task": "digits",
        "model": {"image": "small_cnn", "widths": [4], "norm": "batch"},
        "space": "image",
        "method": {"weighting": "aang"},
        "settings": {"similarity": "dot"},
        "dimensions": {"engine": {"choice": ["auto", "jvp"]}},
        "budget": {"trials": 1},
    }
    with pytest.raises(
        SpecError, match=r"model: a trial of arm 'search' \(aang x none x joint\) fails with it: engine"
    ):
        rehearsal.try_search(parse_search(declared))
    monkeypatch.setitem(declared, "dimensions", {"engine": {"choice": ["auto", "backward"]}})
    assert rehearsal.try_search(parse_search(declared)) == []


def test_try_search_refuses_an_image_model_of_another_size(tmp_path: Path) -> None:
    broken_models.vit_of_another_size(tmp_path / "vit")
    model = {"path": str(tmp_path / "vit")}
    declared = {"name": "v", "task": "digits", "model": model, "method": {"weighting": "end_task_only"}}
    with pytest.raises(SpecError, match=r"cannot read images of 3 x 8 x 8: .*; it is made for 32: task: \{size: 32\}"):
        rehearsal.try_search(parse_search(declared))


@pytest.mark.parametrize("name", ["smoke", "digits", "planted", "field"])
def test_rehearsal_tries_every_combination_of_methods(name: str, tmp_path: Path) -> None:
    search = load_file(catalog.path("trials", name), local=False).search
    prepared = prepare(search.task, search.model.to_plain(), tmp_path / "data")
    for arm in search.arms.values():
        plans = list(rehearsal.kinds_of_trials(search, arm, str(tmp_path / "data"), prepared))
        tried = [{family: getattr(plan, family) for family in ("weighting", "surgery", "schedule")} for plan in plans]
        assert [methods for methods in arm.method_combinations() if methods not in tried] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoke", "quickstart", "digits", "planted", "field"])
def test_try_search_accepts_searches_of_the_catalog(name: str) -> None:
    assert rehearsal.try_search(load_file(catalog.path("trials", name), local=False)) == []


def test_small_batches_leave_a_subspace_its_rank(write_search: Any, tmp_path: Path) -> None:
    method = {"weighting": "static", "surgery": "attittud"}
    file = write_search({"config": BERT}, method=method, space="aang_td", settings={"m": 32, "k": 6, "steps": 2})
    search = load_file(file).search
    prepared = prepare(search.task, search.model.to_plain(), tmp_path / "data")
    (plan,) = rehearsal.kinds_of_trials(search, search.arms["search"], str(tmp_path / "data"), prepared)
    assert (plan.settings["m"], plan.settings["k"], plan.settings["batch_size"]) == (8, 6, 8)


def test_rehearsal_ends_in_time_and_says_what_is_left(write_search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "SECONDS", 0.0)
    dimensions = {"precision": {"choice": ["float32", "bfloat16"]}}
    parsed = load_file(write_search({"config": BERT}, dimensions=dimensions))
    assert rehearsal.try_search(parsed) == ["1 of 2 kinds of trials were not tried beforehand: the others took 0 s"]


def test_try_search_locates_the_model_of_a_baseline(write_search: Any) -> None:
    baseline = {"method": {"weighting": "end_task_only"}, "model": {"config": BERT | {"hidden_act": "geluu"}}}
    file = write_search({"config": BERT}, baselines={"other": baseline})
    with pytest.raises(SpecError, match=r"tried\.yaml:\d+: baselines\.other\.model: cannot be used: "):
        rehearsal.try_search(load_file(file))


def test_try_search_accepts_every_incumbent(write_search: Any) -> None:
    assert rehearsal.try_search(load_file(write_search({"config": BERT}, baselines="incumbents"))) == []


def test_try_search_takes_the_encoder_of_another_classifier(write_search: Any, tmp_path: Path) -> None:
    broken_models.fresh(broken_models.other_labels, tmp_path / "model")
    assert rehearsal.try_search(load_file(write_search({"path": "./model", "pooling": "first"}))) == []


def test_try_search_tries_every_share_of_trained_layers(write_search: Any) -> None:
    pytest.importorskip("peft")
    dimensions = {"trained_layers": {"choice": [-1, 1, 0]}, "lora_rank": {"choice": [0, 2]}}
    assert rehearsal.try_search(load_file(write_search({"config": BERT}, dimensions=dimensions))) == []


@pytest.mark.parametrize(("statistics", "is_remarked"), [("frozen", True), ("coupled", False)])
def test_try_search_remarks_on_a_basis_of_another_function(statistics: str, is_remarked: bool) -> None:
    declared = {
        "name": "x",
        "task": "digits",
        "model": {"image": "small_cnn", "widths": [4, 8], "norm": "batch"},
        "space": "auxiliary_label",
        "method": {"weighting": "eta_prim", "surgery": "attittud"},
        "settings": {"steps": 4, "k": 2, "batch_norm": statistics},
        "budget": {"trials": 1},
    }
    remarks = rehearsal.try_search(parse_search(declared))
    assert [remark.startswith("the model has BatchNorm") for remark in remarks] == [True] * is_remarked
