from typing import Any

import pytest

from raysearch.config.loading import parse_search
from raysearch.errors import SpecError

SEARCH: dict[str, Any] = {"name": "parts", "task": "docstrings", "model": "tiny", "budget": {"trials": 1}}
AUXILIARIES: dict[str, Any] = {"method": {"weighting": "static"}, "space": "aang_td"}
ALONE: dict[str, Any] = {"method": {"weighting": "end_task_only"}}


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        (AUXILIARIES | {"settings": {"trained_layers": 0}}, "settings.trained_layers: 0 trains nothing"),
        (AUXILIARIES | {"dimensions": {"trained_layers": {"choice": [-1, 0]}}}, "dimensions.trained_layers: 0 trains"),
        (ALONE | {"settings": {"trained_layers": 0, "lora_rank": 4}}, "lora_rank: has no effect with trained_layers 0"),
        (
            AUXILIARIES | {"baselines": {"static": AUXILIARIES | {"settings": {"trained_layers": 0}, "trials": 1}}},
            "baselines.static.settings.trained_layers: 0 trains nothing",
        ),
        (
            ALONE | {"settings": {"reinit_layers": 2, "trained_layers": 1}},
            "reinit_layers: 2 is more than trained_layers 1",
        ),
        (
            ALONE | {"dimensions": {"reinit_layers": {"choice": [0, 1]}, "lora_rank": {"choice": [0, 4]}}},
            "dimensions.reinit_layers: cannot be combined with lora_rank",
        ),
        (
            {
                "method": {"weighting": "end_task_only", "schedule": "contrast_then_probe"},
                "settings": {"trained_layers": 0},
            },
            "schedule 'contrast_then_probe' trains the encoder: trained_layers cannot be 0",
        ),
        ({"method": {"weighting": "end_task_only", "schedule": "probe"}, "settings": {"steps": 9}}, "which has none"),
        (
            AUXILIARIES | {"method": {"weighting": "static", "schedule": "probe"}},
            "trains no auxiliary objectives, and weighting 'static' does",
        ),
        (
            ALONE | {"settings": {"encoder_layers": 2, "trained_layers": 3}},
            "trained_layers: 3 is more than encoder_layers",
        ),
        (ALONE | {"settings": {"trained_layers": -2}}, "trained_layers: must be"),
    ],
)
def test_contradicting_settings_are_refused(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_search(SEARCH | declared)


@pytest.mark.parametrize(
    "declared",
    [
        AUXILIARIES | {"settings": {"trained_layers": 1, "lora_rank": 4}},
        ALONE | {"settings": {"trained_layers": 0}},
        ALONE | {"settings": {"trained_layers": 2, "reinit_layers": 2}},
        ALONE | {"settings": {"reinit_layers": 2, "layer_decay": 0.9, "weight_average": 0.99}},
        AUXILIARIES | {"method": {"weighting": "aang", "surgery": "attittud", "schedule": "probe_then_finetune"}},
        ALONE | {"dimensions": {"trained_layers": {"choice": [0, 1]}, "lora_rank": {"choice": [0, 4]}}},
    ],
)
def test_settings_that_fit_are_accepted(declared: dict[str, Any]) -> None:
    assert parse_search(SEARCH | declared).search.arms


@pytest.mark.parametrize("name", ["trained_layers", "lora_rank", "reinit_layers"])
def test_models_without_layers_refuse_the_settings(name: str) -> None:
    digits = {"name": "digits", "task": "digits", "model": {"image": "small_cnn"}, "budget": {"trials": 1}}
    with pytest.raises(SpecError, match=f"settings.{name}: has no effect on this model"):
        parse_search(digits | ALONE | {"settings": {name: 2}})


NUMBERS: dict[str, Any] = {"kind": "table", "name": "numbers", "train": "x.csv", "label": "y", "metric": "r2"}


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        (ALONE | {"settings": {"label_smoothing": 0.1}}, "settings.label_smoothing: needs classes"),
        (ALONE | {"dimensions": {"class_weights": {"choice": ["none", "balanced"]}}}, "class_weights: needs classes"),
        (
            ALONE | {"baselines": {"pairs": {"method": ALONE["method"] | {"schedule": "contrast_then_probe"}}}},
            "baselines.pairs.method: schedule 'contrast_then_probe' needs classes",
        ),
    ],
)
def test_numbers_refuse_what_needs_classes(declared: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_search(SEARCH | {"task": NUMBERS, "model": {"mlp": [8]}} | declared)
