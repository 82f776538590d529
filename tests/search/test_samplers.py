"""Every declared sampler can be made, and draws depend on the seed alone."""

import optuna
import pytest

from raysearch.config.search_config import Search
from raysearch.config.sections import DECLARED_SAMPLERS
from raysearch.search.samplers import SAMPLERS, derive_seed, is_conditional, make_sampler, suggest_dimensions


def search_of(dimensions: dict[str, object]) -> Search:
    return Search.from_dict(
        {
            "name": "s",
            "task": {"name": "t", "train": "t.jsonl", "dev": "d.jsonl"},
            "model": "tiny",
            "method": {"weighting": "end_task_only"},
            "dimensions": dimensions,
            "budget": {"trials": 6},
        }
    )


SEARCH = search_of({"lr": {"float": [0.001, 0.5]}, "dropout": {"float": [0.0, 0.5]}})


def test_every_declared_sampler_has_an_entry() -> None:
    assert SAMPLERS.keys() == set(DECLARED_SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_with_the_same_seed_draws_the_same(name: str) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes")

    def draw(seed: int) -> dict[str, object]:
        study = optuna.create_study(sampler=make_sampler(name, seed, SEARCH.arms["search"]))
        return suggest_dimensions(study.ask(), SEARCH.arms["search"])

    assert draw(7) == draw(7) != draw(8)


def test_arm_is_conditional_when_a_draw_may_omit_a_dimension() -> None:
    assert not is_conditional(SEARCH.arms["search"])
    declared = {"method": {"weighting": "static"}, "space": "aang_td"}
    declared |= {"dimensions": {"surgery": {"choice": ["none", "attittud"]}}}
    search = Search.from_dict(SEARCH.to_dict() | declared)
    assert is_conditional(search.arms["search"])


def test_derive_seed_depends_on_every_part() -> None:
    seeds = {derive_seed(*parts) for parts in [(0,), (1,), (0, "a"), ("0", "a", 1)]}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
