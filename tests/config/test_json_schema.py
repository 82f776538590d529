import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from raysearch.cli.describe import described
from raysearch.config.json_schema import search_keys, search_schema, space_schema
from raysearch.config.parameters import SETTINGS
from raysearch.schema import catalog
from raysearch.schema.yaml_source import load_yaml

SEARCH = Draft202012Validator(search_schema())
SPACE = Draft202012Validator(space_schema())


def problems(validator: Draft202012Validator, text: str, folder: Path) -> list[str]:
    (folder / "a.yaml").write_text(text)
    return [error.message for error in validator.iter_errors(load_yaml(folder / "a.yaml")[0].value)]


@pytest.mark.parametrize("schema", [search_schema(), space_schema()])
def test_schema_is_valid_json_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("name", catalog.names("trials"))
def test_schema_accepts_catalog_search(name: str) -> None:
    SEARCH.validate(load_yaml(catalog.path("trials", name))[0].value)


@pytest.mark.parametrize("name", catalog.names("spaces"))
def test_schema_accepts_catalog_space(name: str) -> None:
    SPACE.validate(load_yaml(catalog.path("spaces", name))[0].value)


VALID_SEARCH = """\
task: docstrings
model: tiny
space: smoke
method: {weighting: aang, surgery: attittud}
settings: {steps: 60, m: 16, include.transform.mask: true}
dimensions:
  eta_perp: {float: [0, 1]}
  k: {int: [1, 8], when: {objectives_per_step: 3}}
  objectives_per_step: {choice: [1, 3, 6]}
baselines:
  fine_tune: {method: {weighting: end_task_only}, trials: 2}
budget: {trials: 4}
scheduler: {asha: {grace: 20, reduction: 3}}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model: tiny", "modle: tiny"),
        ("model: tiny\n", ""),
        ("model: tiny", "model: tinny"),
        ("model: tiny", "model: {path: a, layers: -1}"),
        ("task: docstrings", "task: docstring"),
        ("task: docstrings", "task: {name: a, train: t.jsonl, metric: f1}"),
        ("task: docstrings", "task: {name: a, train: t.jsonl, meta_dev: 2}"),
        ("weighting: aang", "weighting: aagn"),
        ("weighting: aang", "weighting: attittud"),
        ("steps: 60", "stepz: 60"),
        ("steps: 60", "steps: 0"),
        ("steps: 60", "steps: 6.5"),
        ("steps: 60", "precision: float16"),
        ("mask: true", "mask: 3"),
        ("eta_perp", "eta_prep"),
        ("float: [0, 1]", "flaot: [0, 1]"),
        ("float: [0, 1]", "log: true"),
        ("float: [0, 1]", "float: [0, 1, 2]"),
        ("float: [0, 1]", "float: [0, 1], int: [0, 1]"),
        ("choice: [1, 3, 6]", "choice: [1]"),
        ("trials: 2}", "trials: 0}"),
        ("trials: 2}", "runs: 2}"),
        ("trials: 4", "trials: 0"),
        ("trials: 4", "seconds: 0"),
        ("budget:", "sampler: tpo\nbudget:"),
        ("budget:", "seeds: 3\nbudget:"),
        ("budget:", "keep: -2\nbudget:"),
        ("budget:", "executor: threads\nbudget:"),
        ("budget:", "resources: {workers: 0}\nbudget:"),
        ("asha:", "hyperband:"),
        ("reduction: 3", "reduction: 1"),
    ],
)
def test_schema_rejects_invalid_search(old: str, new: str, tmp_path: Path) -> None:
    assert problems(SEARCH, VALID_SEARCH, tmp_path) == []
    assert VALID_SEARCH.count(old) == 1
    assert problems(SEARCH, VALID_SEARCH.replace(old, new), tmp_path)


BASELINE = "baselines:\n  fine_tune: {method: {weighting: end_task_only}, trials: 2}\n"


@pytest.mark.parametrize(
    ("baselines", "is_valid"),
    [
        ("baselines: incumbents", True),
        ("baselines: tfidf_lr", True),
        ("baselines: [tfidf_lr, fine_tune]", True),
        ("baselines: {tfidf_lr: {}, fine_tune: {trials: 3}}", True),
        ("baselines: {x: {method: {}, model: tfidf, dimensions: {ngrams: {int: [1, 2]}}}}", True),
        ("baselines: incumbent", False),
        ("baselines: [tfdif_lr]", False),
        ("baselines: {tfdif_lr: {}}", False),
        ("baselines: {tfidf_lr: {trials: 0}}", False),
        ("baselines: {x: {method: {}, model: tfdif}}", False),
    ],
)
def test_schema_knows_the_forms_of_baselines(baselines: str, is_valid: bool, tmp_path: Path) -> None:
    assert BASELINE in VALID_SEARCH
    assert (problems(SEARCH, VALID_SEARCH.replace(BASELINE, f"{baselines}\n"), tmp_path) == []) == is_valid


VALID_SPACE = """\
stages:
  data: [end_task, extra_spans]
  transform: [none, mask]
  representation: bidirectional
  output: [denoise]
exclude:
  - {transform: none, output: denoise}
objectives: 2
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mask]", "msk]"),
        ("  data:", "  dta:"),
        ("objectives: 2\n", ""),
        ("objectives: 2", "objectives: 0"),
        ("stages:", "kind: image\nstages:"),
        ("stages:", "kind: sound\nstages:"),
    ],
)
def test_schema_rejects_invalid_space(old: str, new: str, tmp_path: Path) -> None:
    assert problems(SPACE, VALID_SPACE, tmp_path) == []
    assert problems(SPACE, VALID_SPACE.replace(old, new), tmp_path)


def test_schema_accepts_primitives_of_the_user(tmp_path: Path) -> None:
    text = "primitives: mine.py\n" + VALID_SPACE.replace("mask]", "swap]")
    assert problems(SPACE, text, tmp_path) == []


def test_schema_describes_every_setting() -> None:
    properties = search_schema()["properties"]["settings"]["properties"]
    assert properties.keys() == SETTINGS.keys()
    assert all(part["description"] and "default" in part for part in properties.values())


@pytest.mark.parametrize("key", search_keys())
def test_show_describes_every_key_of_a_search(key: str) -> None:
    (entry,) = [entry for entry in described(key) if entry.get("key") == key]
    assert entry["meaning"]
