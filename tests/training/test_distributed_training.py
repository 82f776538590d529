"""Training on several ranks gives the results of one rank: the global batches are the same, and ranks are summed."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.plans import AANG_OFFICIAL, LEARNED_WEIGHTINGS, fast_weighting_settings, prepare_tiny_task, tiny_plan
from helpers.ranks import TrainingResult, train_on_ranks

from raysearch.distributed import ProcessGroup
from raysearch.modalities.image.config import ImageTask
from raysearch.modalities.loading import load_space
from raysearch.modalities.opening import prepare
from raysearch.plan import TrialPlan
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.evaluation import evaluate
from raysearch.training.parameters import set_parameters
from raysearch.training.trainer import Trial

pytestmark = pytest.mark.slow
Case = tuple[str, str, str, dict[str, Any]]
TEXT_CASES: dict[str, Case] = {
    "weights and basis": ("aang", "attittud", "joint_then_finetune", {}),
    "dot products": ("meta_tartan", "none", "joint", {"similarity": "dot"}),
    "a stored basis": ("static", "attittud", "joint", {"basis_every": 2, "scope": "per_layer"}),
    "pairs of gradients": ("static", "pcgrad", "joint", {}),
    "AANG's code": ("aang", "none", "joint", AANG_OFFICIAL | {"weight_form": "hierarchical", "task_clip": 0.5}),
    "one head": ("aang", "attittud", "joint", {"lm_head": "shared", "dev_head_split": "train"}),
    "AANG's text": ("aang", "none", "joint", {"through_softmax": True, "lambda_form": "scalar", "similarity": "dot"}),
    **{
        name: (name, "none", "joint", fast_weighting_settings(name))
        for name in LEARNED_WEIGHTINGS
        if name not in ("famo", "evidence")
    },
    # Adam divides by the decrease of the losses, which in a few steps is close to their rounding error
    "losses after the update": ("famo", "none", "joint", {"lr_famo": 1e-3}),
    "losses after the update, with a surgery": ("famo", "gcs", "joint", {"lr_famo": 1e-3}),
    # evidence moves by the rate times a cosine, which rounding in float32 changes by about 1e-6
    "gates": ("gates", "none", "joint", {"lr_gates": 0.5}),
    "probes": ("probes", "none", "joint", {"pass_steps": 1, "steps": 8, "probe_margin": -2.0}),
    "AANG by jvp": ("aang", "none", "joint", {"similarity": "dot", "engine": "jvp", "lr_weights": 0.03}),
    "META-TARTAN by jvp": ("meta_tartan", "none", "joint", {"similarity": "dot", "engine": "jvp"}),
}
# A finite difference divides the difference of two losses by e, here 1e-4 to 3e-4. Losses of up to 5 nat are rounded to
# 5e-7, differently on each number of ranks, so a product is off by about 2e-3 for every rounding. With seed 0 the check
# of the products against a backward pass stops META-TARTAN at step 6: a ReLU of a head switches within e.
BY_DIFFERENCE = {"similarity": "dot", "engine": "difference", "seed": 1}
DIFFERENCE_CASES: dict[str, Case] = {
    "AANG by difference": ("aang", "none", "joint", BY_DIFFERENCE),
    "META-TARTAN by difference": ("meta_tartan", "none", "joint", BY_DIFFERENCE),
}
# Weights that are similarities in units of their standard errors, of which a few looks leave little.
EVIDENCE_CASES: dict[str, Case] = {
    "evidence": ("evidence", "none", "joint", {"evidence_every": 1, "dev_folds": 2}),
    "evidence and a surgery": ("evidence", "attittud", "joint", {"evidence_every": 2, "dev_folds": 2}),
    "closed form": ("aang", "none", "joint", {"dev_head": "closed_form", "dev_folds": 2}),
}
SMALL_CNN = {"image": "small_cnn", "widths": [4, 8], "norm": "group"}
LENET = {"image": "lenet", "widths": [4, 6, 16]}
IMAGE_CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ATTITTUD on images": ("static", "attittud", SMALL_CNN),
    "AANG on images": ("aang", "none", SMALL_CNN),
    "AANG and ATTITTUD on images": ("aang", "attittud", LENET),
}
BATCH_NORM_CASES = {  # a rank normalises its own examples, so the number of ranks matters
    "ATTITTUD with BatchNorm": ("static", "attittud", SMALL_CNN | {"norm": "batch"}),
    "AANG with BatchNorm": ("aang", "none", SMALL_CNN | {"norm": "batch"}),
}
META = {"dev_head_examples": 8, "dev_head_steps": 2, "meta_batch_size": 8}


@pytest.fixture(scope="module")
def plans(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrialPlan]:
    text, digits = (tmp_path_factory.mktemp("prepared") / name for name in ("text", "digits"))
    prepare_tiny_task(tiny_task, text)
    prepare(ImageTask(name="digits"), SMALL_CNN, digits)
    plans = {
        name: tiny_plan(text, *ways, dropout=0.0, **more)
        for name, (*ways, more) in (TEXT_CASES | DIFFERENCE_CASES | EVIDENCE_CASES).items()
    }
    for name, (weighting, surgery, model) in (IMAGE_CASES | BATCH_NORM_CASES).items():
        known = tiny_plan(digits, weighting, surgery).settings
        settings = {key: value for key, value in META.items() if key in known}
        plan = tiny_plan(digits, weighting, surgery, steps=4, dropout=0.0, **settings)
        plans[name] = replace(plan, objectives=load_space("image").objectives[::5], model=model)
    return plans


@pytest.fixture(scope="module")
def single_rank_results(
    plans: dict[str, TrialPlan], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainingResult]:
    return dict(
        zip(plans, train_on_ranks(1, list(plans.values()), tmp_path_factory.mktemp("single_rank_results")), strict=True)
    )


@pytest.fixture(scope="module", params=[2, 4])
def multi_rank_results(
    request: pytest.FixtureRequest, plans: dict[str, TrialPlan], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainingResult]:
    world = request.param
    with_workers = [replace(plan, workers=world) for plan in plans.values()]
    return dict(
        zip(plans, train_on_ranks(world, with_workers, tmp_path_factory.mktemp("multi_rank_results")), strict=True)
    )


def logged_weights(trained: TrainingResult) -> list[dict[str, Any]]:
    return [row for report in trained[0] for row in report["weights"] or []]


def assert_same_training(
    one: TrainingResult, several: TrainingResult, *, weight: float = 1e-6, rel: float = 1e-3, score: float = 1e-5
) -> None:
    """Compares weights and scores of every step by the tolerances, and the parameters at the end to 1e-6."""
    assert [report["step"] for report in several[0]] == [report["step"] for report in one[0]]
    for report, other in zip(one[0], several[0], strict=True):
        assert other["loss"] == pytest.approx(report["loss"], abs=1e-5)
    for row, other in zip(logged_weights(one), logged_weights(several), strict=True):
        is_ratio = row["kind"] == "signal"  # a mean similarity over its standard error, both of which are rounded
        least = {"abs": 1e3 * weight, "rel": 1e-2} if is_ratio else {"abs": weight}
        assert other["weight"] == pytest.approx(row["weight"], **least)
        if row["score"] is not None:
            assert math.isclose(other["score"], row["score"], rel_tol=rel, abs_tol=score)
    # AdamW divides by the gradient's size: where that is rounding, so is the step; hence the mean
    assert max(float((value - several[1][name]).abs().mean()) for name, value in one[1].items()) < 1e-6


@pytest.mark.parametrize("name", [*TEXT_CASES, *IMAGE_CASES])
def test_training_on_several_ranks_matches_one_rank(
    single_rank_results: dict[str, TrainingResult], multi_rank_results: dict[str, TrainingResult], name: str
) -> None:
    assert_same_training(single_rank_results[name], multi_rank_results[name])


@pytest.mark.parametrize("name", EVIDENCE_CASES)
def test_evidence_on_several_ranks_matches_within_its_errors(
    single_rank_results: dict[str, TrainingResult], multi_rank_results: dict[str, TrainingResult], name: str
) -> None:
    one, several = single_rank_results[name], multi_rank_results[name]
    assert_same_training(one, several, weight=1e-5 if name == "closed form" else 5e-3, score=1e-4)


@pytest.mark.parametrize("name", DIFFERENCE_CASES)
def test_difference_on_several_ranks_matches_within_rounding(
    plans: dict[str, TrialPlan],
    single_rank_results: dict[str, TrainingResult],
    multi_rank_results: dict[str, TrainingResult],
    name: str,
) -> None:
    settings = plans[name].settings
    # a weight moves by at most a quarter of its rate times the scores of its steps
    off, rate = 0.02, float(settings.get("lr_weights") or settings["lr_tasks"])
    bound = rate * off * settings["steps"] / 4
    assert_same_training(single_rank_results[name], multi_rank_results[name], weight=bound, rel=0.0, score=off)
    rows = logged_weights(single_rank_results[name])
    moved = [abs(row["weight"] - first["weight"]) for row in rows for first in rows if row["name"] == first["name"]]
    assert max(moved) > 10 * bound


@pytest.mark.parametrize("name", BATCH_NORM_CASES)
def test_batch_norm_on_several_ranks_scores_saved_parameters(
    plans: dict[str, TrialPlan], multi_rank_results: dict[str, TrainingResult], tmp_path: Path, name: str
) -> None:
    reports, parameters = multi_rank_results[name]
    trial = Trial(plans[name], TrialFolder(tmp_path), ProcessGroup())
    set_parameters(trial.network, parameters)
    context = trial.context
    value, loss = evaluate(trial.network, context.splits("select_dev"), context.batches, context.metric)
    assert (value, loss) == pytest.approx((reports[-1]["score"], reports[-1]["loss"]), abs=1e-6)
