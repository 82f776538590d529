from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from helpers.plans import prepare_tiny_task, tiny_plan

from raysearch.cli.describe import listing
from raysearch.config.loading import load_search
from raysearch.config.parameters import DEFAULTS, SETTINGS
from raysearch.config.search_config import Search
from raysearch.errors import SpecError
from raysearch.methods import METHODS
from raysearch.methods.profiles import BUNDLES, PROFILES, RECIPES, Profile, bundle
from raysearch.schema.fields import check_value
from raysearch.training.trainer import train
from raysearch.training_settings import TrainingSettings


def search(method: dict[str, str], **more: Any) -> Search:
    return Search.from_dict(
        {"name": "x", "task": "docstrings", "model": "tiny", "space": "smoke", "method": method} | more
    )


def settings(method: dict[str, str], **more: Any) -> dict[str, Any]:
    return search(method, **more).resolve("search", {}, number=0, seed=0).settings


@pytest.mark.parametrize("method", BUNDLES)
def test_bundle_sets_valid_values_of_its_method(method: str) -> None:
    used = {*METHODS[method].setting_names, *(field.name for field in fields(TrainingSettings))}
    for name, values in BUNDLES[method].items():
        assert name in used
        assert values[0] != values[1] or values[0] != DEFAULTS[name]
        for value in values:
            check_value(SETTINGS[name], value)


def test_bundles_of_different_families_share_no_setting() -> None:
    for method, bundled in BUNDLES.items():
        for other, others in BUNDLES.items():
            assert METHODS[method].family == METHODS[other].family or not bundled.keys() & others.keys()


def test_bundle_values_match_the_paper_and_its_code() -> None:
    aang = {"weighting": "aang", "surgery": "none", "schedule": "joint"}
    assert bundle("paper", aang) == {
        "weight_form": "joint", "batch_split": "weight", "sample_every": "step", "micro_batches": 1, "meta_every": 1,
        "meta_mean": False, "similarity": "dot", "through_softmax": True, "lambda_form": "scalar", "task_clip": 0.0,
        "dev_head_split": "meta_dev", "head_weight_decay": 0.01, "dev_head_rows": "fixed", "dev_dropout": False,
        "head_dropout": -1.0, "clip_apart": False, "lm_head": "tied",
    }  # fmt: skip
    assert bundle("official", aang) == {
        "weight_form": "hierarchical", "batch_split": "hierarchical", "sample_every": "micro_step", "micro_batches": 4,
        "meta_every": 3, "meta_mean": True, "similarity": "cosine", "through_softmax": False, "lambda_form": "softmax",
        "task_clip": 10.0, "dev_head_split": "train", "head_weight_decay": 0.1,
        "dev_head_rows": "fresh", "dev_dropout": True, "head_dropout": 0.3, "clip_apart": True, "lm_head": "untied",
    }  # fmt: skip
    tartan = {"weighting": "meta_tartan"}
    assert bundle("paper", tartan) == {
        "similarity": "dot", "through_softmax": True, "batch_split": "weight", "dev_head_lr": 0.01,
        "dev_head_rows": "fixed", "dev_dropout": False, "clip_apart": False,
    }  # fmt: skip
    assert bundle("official", tartan) == {
        "similarity": "cosine", "through_softmax": False, "batch_split": "equal", "dev_head_lr": 0.001,
        "dev_head_rows": "fresh", "dev_dropout": True, "clip_apart": True,
    }  # fmt: skip
    attittud = {"weighting": "eta_prim", "surgery": "attittud"}
    assert bundle("paper", attittud) == {
        "eta_prim_form": "factor", "basis": "randomized_svd", "basis_rows": "same", "scope": "body",
        "sign_gradient": "basis", "batch_norm": "coupled",
    }  # fmt: skip
    assert bundle("official", attittud) == {
        "eta_prim_form": "count_ratio", "basis": "range_finder", "basis_rows": "fresh", "scope": "all",
        "sign_gradient": "step", "batch_norm": "coupled",
    }  # fmt: skip
    assert bundle(None, attittud) == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_plan_settings_of_the_file_override_the_profile(profile: Profile) -> None:
    aang = {"weighting": "aang"}
    without, with_profile = settings(aang), settings(aang, profile=profile)
    assert with_profile == without | bundle(profile, aang)
    overridden = settings(aang, profile=profile, settings={"similarity": "dot", "meta_every": 7})
    assert overridden == with_profile | {"similarity": "dot", "meta_every": 7}
    assert search(aang, profile=profile).to_dict()["profile"] == profile
    assert Search.from_dict(search(aang, profile=profile).to_dict()) == search(aang, profile=profile)
    only = search(aang, profile=profile).single_trial("search", {}, seed=0)
    assert only.resolve("search", {}, number=0, seed=0).settings == with_profile


def test_dimension_overrides_the_bundle_of_a_drawn_method() -> None:
    declared = search(
        {},
        profile="official",
        dimensions={"weighting": {"choice": ["aang", "static"]}, "similarity": {"choice": ["dot", "cosine"]}},
        budget={"trials": 3},
    )
    drawn = declared.resolve("search", {"weighting": "aang", "similarity": "dot"}, number=0, seed=0).settings
    assert drawn["similarity"] == "dot"
    assert drawn["weight_form"] == "hierarchical"
    assert declared.resolve("search", {"weighting": "static"}, number=0, seed=0).settings["micro_batches"] == 1


def test_baseline_inherits_the_profile_unless_it_sets_one() -> None:
    tartan: dict[str, Any] = {"method": {"weighting": "meta_tartan"}}
    declared = search(
        {"weighting": "aang"}, profile="paper", baselines={"same": tartan, "other": tartan | {"profile": "official"}}
    )
    rates = [declared.resolve(arm, {}, number=0, seed=0).settings["dev_head_lr"] for arm in ("same", "other")]
    assert rates == [0.01, 0.001]


INVALID_PROFILES = [
    ("static", "profile: papers", ":6: profile: unknown choice 'papers'; did you mean 'paper'?"),
    ("static", "profile: paper", ":6: profile: 'paper' has no settings for these methods; it has some for aang"),
    (
        "aang, surgery: pcgrad",
        "profile: official",
        ":6: profile: surgery 'pcgrad' compares gradients that are not clipped: task_clip must be 0, not 10",
    ),
    (
        "meta_tartan",
        "settings: {batch_split: hierarchical}",
        ":6: settings.batch_split: weighting 'meta_tartan' has no factored weights: "
        "batch_split cannot be 'hierarchical'",
    ),
    (
        "aang",
        "baselines: {b: {method: {weighting: static}, profile: paper}}",
        ":6: baselines.b.profile: 'paper' has no settings for these methods",
    ),
]


@pytest.mark.parametrize(("weighting", "line", "problem"), INVALID_PROFILES)
def test_profile_conflict_is_rejected_with_its_location(
    tmp_path: Path, weighting: str, line: str, problem: str
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        f"task: docstrings\nmodel: tiny\nspace: smoke\nmethod: {{weighting: {weighting}}}\nseeds: [0]\n{line}\n"
    )
    with pytest.raises(SpecError) as refused:
        load_search(file)
    assert problem in str(refused.value)


def test_profiles_listing_shows_default_paper_and_official() -> None:
    rows = {(row["method"], row["setting"]): row for row in listing("profiles")}
    assert rows["aang", "meta_every"] == {
        "method": "aang", "setting": "meta_every", "default": 1, "paper": 1, "official": 3,
        "fine_tune_recipe": None,
    }  # fmt: skip


def test_recipe_is_that_of_the_papers_for_every_method() -> None:
    for methods in ({"weighting": "end_task_only"}, {"weighting": "aang", "surgery": "attittud"}):
        assert bundle("fine_tune_recipe", methods) == {
            "steps": 500, "batch_size": 16, "lr": 2e-5, "head_lr": 2e-5, "warmup": 0.1, "weight_decay": 0.01,
            "head_weight_decay": 0.01, "adam_beta2": 0.999, "dropout": 0.1, "clip": 1.0,
        }  # fmt: skip
    without = settings({"weighting": "static"})
    recipe: Profile = "fine_tune_recipe"
    assert settings({"weighting": "static"}, profile=recipe) == without | RECIPES[recipe]
    changed = settings({"weighting": "static"}, profile=recipe, settings={"steps": 7})
    assert changed == without | RECIPES[recipe] | {"steps": 7}


def test_profiles_listing_shows_the_recipe() -> None:
    rows = [row for row in listing("profiles") if row["fine_tune_recipe"] is not None]
    assert {row["setting"]: row["fine_tune_recipe"] for row in rows} == RECIPES["fine_tune_recipe"]


def test_recipe_names_settings_and_has_no_bundle() -> None:
    for recipe, values in RECIPES.items():
        assert recipe not in PROFILES
        assert values.keys() <= DEFAULTS.keys()
        assert all(type(value) is type(DEFAULTS[name]) for name, value in values.items())


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("method", [("aang", "none"), ("meta_tartan", "none"), ("eta_prim", "attittud")])
def test_profile_trains_to_the_last_step(
    tiny_task: dict[str, str], tmp_path: Path, profile: Profile, method: tuple[str, str]
) -> None:
    data = prepare_tiny_task(tiny_task, tmp_path / "data")
    bundled = bundle(profile, dict(zip(("weighting", "surgery"), method, strict=True)))
    reports = list(train(tiny_plan(data, *method, **bundled), folder=tmp_path / "trial"))
    assert reports[-1].last
