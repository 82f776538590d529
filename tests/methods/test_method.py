from collections.abc import Mapping

import pytest

from raysearch.config.compatibility import why_incompatible
from raysearch.config.parameters import DEFAULTS
from raysearch.methods import DEFAULT_METHODS, METHODS, methods_of
from raysearch.methods.weighting.settings import MetaBatchSettings
from raysearch.schema.fields import Value
from raysearch.testing import OBJECTIVES

ROUND: dict[str, Value] = {"steps": 100, "pass_steps": 20, "rho": 0.5, "fork_branches": "each"}


def problem(
    weighting: str = "static",
    surgery: str = "none",
    schedule: str = "joint",
    objectives: int | None = None,
    settings: Mapping[str, Value] | None = None,
) -> str:
    methods = {"weighting": weighting, "surgery": surgery, "schedule": schedule}
    return why_incompatible(methods, settings or {}, objectives) or ""


def test_default_methods_are_compatible_with_all_defaults() -> None:
    assert why_incompatible({**DEFAULT_METHODS}, DEFAULTS, 8) is None


@pytest.mark.parametrize("name", METHODS)
def test_method_alone_is_compatible_with_the_defaults(name: str) -> None:
    weighting = DEFAULT_METHODS["weighting"]
    if why_incompatible({**DEFAULT_METHODS, METHODS[name].family: name}, {}):  # it trains the end task alone
        weighting = "end_task_only"
    methods = {**DEFAULT_METHODS, "weighting": weighting, METHODS[name].family: name}
    used = {setting for method in methods.values() for setting in METHODS[method].setting_names}
    assert why_incompatible(methods, {setting: DEFAULTS[setting] for setting in used}) is None


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_with_meta_batches_or_rounds_needs_meta_dev(name: str) -> None:
    method = METHODS[name]
    assert method.needs_meta_dev == (method.merges_branches or issubclass(method.settings, MetaBatchSettings))


@pytest.mark.parametrize("name", methods_of("surgery"))
def test_surgery_that_compares_gradients_refuses_clipped_ones(name: str) -> None:
    surgery = METHODS[name].load()(METHODS[name].settings())
    clips = problem("aang", name, settings={"task_clip": 10.0})
    assert bool(clips) == (surgery is not None and surgery.needs_gramian)
    assert clips in ("", f"surgery '{name}' compares gradients that are not clipped: task_clip must be 0, not 10")


@pytest.mark.parametrize(
    ("name", "value"), [("dev_head_split", "train"), ("dev_head_rows", "fresh"), ("dev_dropout", True)]
)
def test_closed_form_dev_head_refuses_what_it_cannot_have(name: str, value: Value) -> None:
    text = str(value).lower()
    refusal = f"dev_head 'closed_form' is fitted on folds of meta-dev without dropout: {name} cannot be {text}"
    for weighting in ("aang", "meta_tartan"):
        assert problem(weighting, settings={"dev_head": "closed_form", name: value}) == refusal
        assert problem(weighting, settings={"dev_head": "descent", name: value}) == ""


def test_evidence_by_forwards_needs_dot_products() -> None:
    assert "knows no norms" in problem("evidence", settings={"engine": "jvp", "similarity": "cosine"})
    assert problem("evidence", settings={"engine": "jvp", "similarity": "dot"}) == ""
    assert "never trains them together" in problem("evidence", schedule="pretrain_then_finetune")


@pytest.mark.parametrize("name", methods_of("surgery"))
def test_surgery_that_compares_gradients_refuses_forward_engines(name: str) -> None:
    surgery = METHODS[name].load()(METHODS[name].settings())
    for engine in ("jvp", "difference"):
        is_refused = "needs each task's gradient" in problem(surgery=name, settings={"engine": engine})
        assert is_refused == (surgery is not None and surgery.needs_gramian)


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_with_task_gradients_refuses_forward_engines(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    queries = [weighting.required_gradients(step) for step in range(1, 101)]
    requests_gradients = any(query and not query.is_of_dev_head for query in queries)
    for engine in ("jvp", "difference"):
        is_refused = "needs each task's gradient" in problem(name, settings={"engine": engine})
        assert is_refused == requests_gradients


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_weighting_that_waits_for_losses_refuses_micro_batches(name: str) -> None:
    weighting = METHODS[name].load()(OBJECTIVES, METHODS[name].settings())
    has_steps_without_gradients = not all(weighting.required_gradients(step) for step in range(1, 101))
    is_refused = "losses of the whole batch: micro_batches must be 1, not 2" in problem(
        name, settings={"micro_batches": 2}
    )
    assert is_refused == (weighting.weights_from_current_step and has_steps_without_gradients)


@pytest.mark.parametrize(
    ("weighting", "branches"), [("probes", 4), ("factored_probes", 4), ("alphavil", 5), ("diw", 1), ("forkmerge", 5)]
)
def test_round_with_more_steps_than_the_trial_is_incompatible(weighting: str, branches: int) -> None:
    enough = 10 * branches
    assert problem(weighting, objectives=4, settings=ROUND | {"steps": enough}) == ""
    assert problem(weighting, objectives=4, settings=ROUND | {"steps": enough - 1}).startswith(
        f"steps {enough - 1} are"
    )
    assert problem(weighting, objectives=4, settings=ROUND | {"steps": 1, "pass_steps": 0}) == ""


@pytest.mark.parametrize("surgery", ["nash_mtl", "gradvac", "pcd"])
def test_surgery_that_remembers_gradients_needs_all_objectives(surgery: str) -> None:
    settings = {"conflict_between": "objectives", "objectives_per_step": 3}
    assert "remembers the gradients of 4 objectives, and 3 are sampled" in problem(
        surgery=surgery, objectives=4, settings=settings
    )
    assert problem(surgery=surgery, objectives=3, settings=settings) == ""
    assert problem(surgery=surgery, objectives=4, settings=settings | {"conflict_between": "sum"}) == ""


def test_schedule_without_what_a_weighting_needs_is_incompatible() -> None:
    assert "has nothing to pretrain on" in problem("end_task_only", schedule="pretrain_then_finetune")
    assert "never trains them together" in problem("dwa", schedule="pretrain_then_finetune")
    assert problem("static", schedule="pretrain_then_finetune") == ""
