"""Searches whose weighting cannot tell objectives from each other are warned of."""

from typing import Any

import pytest

from raysearch.config.search_config import Search
from raysearch.search.signal_notes import signal_notes


def notes(weighting: str, meta_dev: int, **settings: Any) -> list[str]:
    table = {"kind": "table", "name": "planted", "planted": {"helpful": 4, "harmful": 6}}
    declared = {"name": "a", "task": table, "model": {"mlp": [8]}, "space": "planted", "settings": settings}
    return signal_notes(Search.from_dict({**declared, "method": {"weighting": weighting}}), {"meta_dev": meta_dev})


@pytest.mark.parametrize(
    ("weighting", "meta_dev", "settings", "problem"),
    [
        ("meta_tartan", 400, {"aux_batch_size": 10}, "10 objectives share 10 auxiliary examples"),
        ("aang", 12, {"aux_batch_size": 32}, "learns from 12 rows of meta-dev"),
    ],
)
def test_signal_notes_say_why_weights_will_be_noise(
    weighting: str, meta_dev: int, settings: dict[str, Any], problem: str
) -> None:
    (note,) = notes(weighting, meta_dev, **settings)
    assert problem in note


@pytest.mark.parametrize("weighting", ["aang", "static", "probes"])
def test_signal_notes_are_silent_where_there_is_enough(weighting: str) -> None:
    assert notes(weighting, 400, aux_batch_size=32) == []


@pytest.mark.parametrize(("weighting", "settings"), [("evidence", {}), ("aang", {"dev_head": "closed_form"})])
def test_signal_notes_say_that_folds_are_too_many(weighting: str, settings: dict[str, Any]) -> None:
    (note,) = notes(weighting, 40, aux_batch_size=64, dev_folds=50, **settings)
    assert "dev_folds 50 are more than the 40 rows of meta-dev" in note


def test_signal_notes_of_folds_are_for_closed_form_heads_only() -> None:
    assert notes("aang", 40, aux_batch_size=64, dev_folds=50) == []


def test_signal_notes_are_silent_without_meta_dev() -> None:
    assert notes("static", 3, aux_batch_size=3) == []
